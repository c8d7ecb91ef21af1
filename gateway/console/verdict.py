"""Is all well, and if not, why: green, amber or red, with the cause and the cure in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.console.figures import Figures

LEVELS = ("green", "amber", "red")
_SKEW_S = 30.0
_CERTIFICATE_S = 7 * 86_400.0
_LONG_S = 120.0
_MANY = 100
_REFUSED = {
    "bad_signature": "their Sign matches no token of the app: compare apps.<id>.tokens with Tencent's",
    "no_signature": "they carry no Sign though the app has tokens: turn on authentication at Tencent",
    "stale_signature": "their time is too far from this machine's clock: check its time service",
    "unknown_app": "their SdkAppid is not configured for that path: see apps",
    "not_found": "no app has that path: compare apps.<id>.path with the callback URL",
    "forbidden_network": "they come from outside listen.allow_networks",
    "journal_full": "the journal has no room: mend the broker, or raise journal.max_mb",
    "app_rate": "the app sends more than its max_per_s",
    "app_backlog": "more of the app's callbacks wait than its max_backlog_mb allows",
    "overloaded": "more requests are under way than listen.max_inflight allows",
}


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is not well."""

    level: str
    """``amber`` or ``red``."""
    text: str
    """What is the case, and what to do."""
    page: str = ""
    """Where it can be mended: ``dead``, ``journal``."""


def verdict(causes: Sequence[Cause]) -> str:
    """Return the worst level."""
    return max((one.level for one in causes), key=LEVELS.index, default="green")


def causes_of(
    now: Figures, before: Figures | None, unready: Sequence[str], notes: Sequence[str], silence_s: float
) -> list[Cause]:
    """Return what is not well, the worst first.

    *before* is some minutes old; *unready* and *notes* are what ``/readyz`` says; an app is silent after
    *silence_s* (0: never).
    """
    found = [Cause("red", _sentence(one)) for one in unready]
    found += [Cause("amber", _sentence(one)) for one in notes]
    for part in (
        _refused(now, before),
        _apps(now, silence_s),
        _sinks(now),
        _waiting(now, before),
        _others(now),
    ):
        found += part
    return sorted(found, key=lambda one: -LEVELS.index(one.level))


def _refused(now: Figures, before: Figures | None) -> Iterator[Cause]:
    requests, earlier = now["requests"], (before or now)["requests"]
    minutes = max(1, round((now["at_s"] - (before or now)["at_s"]) / 60))
    has_stored = requests["stored"] > earlier["stored"]
    for reason, count in requests["refused"].items():
        more = count - earlier["refused"].get(reason, 0)
        if more > 0:
            yield Cause(
                "amber" if has_stored else "red",
                f"{more:,.0f} callbacks were refused in the last {minutes} min ({reason}):"
                f" {_REFUSED.get(reason, 'see docs/operations.md')}"
                + ("." if has_stored else "; none was taken meanwhile."),
            )


def _apps(now: Figures, silence_s: float) -> Iterator[Cause]:
    for app, one in now["apps"].items():
        age_s = now["at_s"] - one["last_s"]
        if silence_s and not one["last_s"]:
            yield Cause("amber", f"App {app} has sent no callback since the start: {_SILENT}")
        elif silence_s and age_s >= silence_s:
            yield Cause("amber", f"App {app} has sent no callback for {duration(age_s)}: {_SILENT}")
        if abs(one["skew_s"]) >= _SKEW_S:
            yield Cause(
                "amber",
                f"The clocks of this machine and of app {app}'s callbacks are {abs(one['skew_s']):.0f} s"
                " apart: check the time service before they are refused.",
            )


_SILENT = "is it quiet, or is the callback switched off, or its URL wrong, at Tencent?"


def _sinks(now: Figures) -> Iterator[Cause]:
    for name, one in now["sinks"].items():
        if one.get("is_stopped"):
            yield Cause("red", f"Sink {name} is tried again only after a restart of its worker.")
        if one.get("refuses"):
            yield Cause("red", f"The queue of sink {name} takes no events, which holds up all sinks.")
        if one.get("dead"):
            yield Cause(
                "amber",
                f"{one['dead']:,.0f} events of sink {name} are parked: look why, then replay or discard.",
                "dead",
            )


def _waiting(now: Figures, before: Figures | None) -> Iterator[Cause]:
    """Name queues that do not become shorter: a worker that is not there counts nothing itself."""
    if before is None or now["at_s"] - before["at_s"] < _LONG_S:
        return
    for name, one in now["sinks"].items():
        waiting, earlier = one.get("waiting", 0), before["sinks"].get(name, {}).get("waiting", 0)
        if waiting >= earlier >= _MANY:
            minutes = round((now["at_s"] - before["at_s"]) / 60)
            yield Cause(
                "amber",
                f"{waiting:,.0f} events wait for sink {name}, no fewer than {minutes} min ago: is its worker"
                " running, and does the sink take events?",
            )


def _others(now: Figures) -> Iterator[Cause]:
    if now["broker"]["is_blocked"]:
        yield Cause("amber", "RabbitMQ reads no publishes: it is short of memory or disk.")
    if now["broker"]["unrouted"]:
        yield Cause(
            "amber",
            f"{now['broker']['unrouted']:,.0f} events are taken by no sink; they stand in the unrouted queue"
            " until it is full or they are 7 days old. Add a sink, then: gateway topology rescue.",
        )
    if now["journal"]["lost"]:
        yield Cause(
            "red",
            f"{now['journal']['lost']:,.0f} callbacks were lost to damage on the disk:"
            " gateway journal verify names them.",
            "journal",
        )
    for key, until_s in now["certificates"].items():
        if until_s and until_s - now["at_s"] < _CERTIFICATE_S:
            left_s = until_s - now["at_s"]
            said = f"ends in {duration(left_s)}" if left_s > 0 else "has ended"
            yield Cause("amber" if left_s > 0 else "red", f"The certificate of {key} {said}: renew it.")


def duration(seconds: float) -> str:
    """Return *seconds* in words."""
    for unit, least_s, unit_s in (("days", 172_800, 86_400), ("h", 7200, 3600), ("min", 90, 60)):
        if seconds >= least_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."
