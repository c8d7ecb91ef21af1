"""What a run counted, and its summary in words and figures. Pure."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gateway.simulator.ledger import CONNECTION, OK, TIMEOUT, Entry

_PERCENTILES = (("p50", 0.5), ("p99", 0.99), ("p99_9", 0.999), ("max", 1.0))


@dataclass(slots=True)
class Tally:
    """Counts of one run. Bound: 16 bytes for each callback."""

    sent: int = 0
    """Callbacks that were sent, however often."""
    answers: Counter[str] = field(default_factory=Counter)
    """Callbacks by ``Entry.answer``."""
    denied: int = 0
    """Acknowledged ones whose ``ErrorCode`` is not 0."""
    repeats: int = 0
    """Attempts beyond the first."""
    behind: int = 0
    """Callbacks that the rate asked for and that were not sent before the end."""
    elapsed_s: float = 0.0
    took_ms: array[float] = field(default_factory=lambda: array("d"))
    """Of acknowledged callbacks, from the time they were due (with a rate) or sent."""
    late_ms: array[float] = field(default_factory=lambda: array("d"))
    """With a rate: how long after it was due a callback was sent."""

    def add(self, entry: Entry, late_ms: float | None) -> None:
        """Count one callback that is over; *late_ms* is None without a rate."""
        self.answers[entry.answer] += 1
        self.repeats += entry.attempts - 1
        if late_ms is not None:
            self.late_ms.append(late_ms)
        if entry.is_acknowledged:
            self.took_ms.append(entry.took_ms)
            self.denied += entry.code != 0

    @property
    def is_all_acknowledged(self) -> bool:
        return self.answers[OK] == self.sent and not self.behind

    def refusals(self) -> dict[str, int]:
        """Return how many were refused, by the answer's token."""
        apart = (OK, TIMEOUT, CONNECTION)
        return {token: count for token, count in self.answers.most_common() if token not in apart}

    def summary(self) -> dict[str, Any]:
        """Return all figures by name, units in the names: what ``--json`` prints."""
        return {
            "sent": self.sent,
            "ok": self.answers[OK],
            "denied": self.denied,
            "refused": self.refusals(),
            "timeouts": self.answers[TIMEOUT],
            "connection_errors": self.answers[CONNECTION],
            "repeats": self.repeats,
            "behind": self.behind,
            "elapsed_s": round(self.elapsed_s, 3),
            "rate_per_s": round(self.sent / self.elapsed_s, 1) if self.elapsed_s else 0.0,
            "latency_ms": percentiles(self.took_ms),
            "late_ms": percentiles(self.late_ms),
        }


def percentiles(values_ms: array[float]) -> dict[str, float]:
    """Return p50, p99, p99_9 and max of *values_ms*, each a value that occurred; {} when there is none."""
    ordered = sorted(values_ms)
    last = len(ordered) - 1
    if last < 0:
        return {}
    # Why rounded up: with few values p99 is the largest one, not one that looks better.
    return {name: round(ordered[min(last, int(share * last + 0.999999))], 3) for name, share in _PERCENTILES}


def render(summary: dict[str, Any]) -> str:
    """Return the summary as lines of ``name  value`` for people."""
    refused = summary["refused"]
    tokens = f" ({', '.join(f'{token} {count}' for token, count in refused.items())})" if refused else ""
    lines = [
        ("sent", f"{summary['sent']} in {summary['elapsed_s']:g} s, {summary['rate_per_s']:g}/s"),
        ("answered OK", str(summary["ok"]) + _also(summary["denied"], "with another code than 0")),
        ("refused", f"{sum(refused.values())}{tokens}"),
        ("timed out", str(summary["timeouts"]) + _also(summary["repeats"], "attempts were repeats")),
        ("connection errors", str(summary["connection_errors"])),
    ]
    if summary["behind"]:
        lines.append(("not sent in time", f"{summary['behind']}: the rate could not be kept"))
    lines.append(("latency", _spread(summary["latency_ms"])))
    if summary["late_ms"]:
        lines.append(("sent late by", _spread(summary["late_ms"])))
    return "\n".join(f"{name:<18} {value}" for name, value in lines)


def _also(count: int, words: str) -> str:
    return f" ({count} {words})" if count else ""


def _spread(spread_ms: dict[str, float]) -> str:
    if not spread_ms:
        return "none"
    shown = (f"{name.replace('_', '.')} {value:g} ms" for name, value in spread_ms.items())
    return ", ".join(shown)
