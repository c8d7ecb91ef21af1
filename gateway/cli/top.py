"""``gateway top``: the overview of what runs on this host, in a terminal, drawn anew every few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.cli.admin_port import Port, nothing_runs, ports_of
from gateway.cli.common import EXIT_FAULT, ConfigOption, exit_codes, load_config, run_async
from gateway.config import Config
from gateway.console.verdict import LEVELS, duration
from gateway.errors import Unavailable

_COLOURS = {"green": "green", "amber": "yellow", "red": "bold red"}
_WORDS = {"green": "All is well", "amber": "Look at this", "red": "Mend this"}
_SINK_COLUMNS = ("written", "waiting", "retrying", "dead", "unacked")

Told = Mapping[str, Any]
"""What ``/api/overview`` answers."""


def top(
    config: ConfigOption = None,
    every: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print it once; so it is off a terminal, too.")
    ] = False,
) -> None:
    """What comes in, what waits, what is written, and what is not well; Ctrl-C ends it.

    Shows `run` or `serve` and `work` of this host together. Exit code 1 when nothing runs here.
    """
    with exit_codes():
        loaded = load_config(config)
        console = Console()
        try:
            run_async(
                _once(loaded, console) if once or not console.is_terminal else _live(loaded, console, every)
            )
        except KeyboardInterrupt:
            raise typer.Exit from None


async def _once(config: Config, console: Console) -> None:
    found, faults = await _look(config)
    if not found and not faults:
        raise nothing_runs(ports_of(config))
    console.print(page(found, faults))
    if not found:
        raise typer.Exit(EXIT_FAULT)


async def _live(config: Config, console: Console, every_s: float) -> None:
    found, faults = await _look(config)
    if not found and not faults:
        raise nothing_runs(ports_of(config))
    with Live(page(found, faults), console=console, screen=True, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(every_s)
            found, faults = await _look(config)
            if not found and not faults:
                faults = ["Nothing runs here any more."]
            live.update(page(found, faults), refresh=True)


async def _look(config: Config) -> tuple[dict[str, Told], list[str]]:
    """Return what each process tells, by its address, and what went wrong in asking."""
    found, faults = {}, []
    for port in ports_of(config):
        try:
            told = await _ask(port)
        except Unavailable as fault:
            faults.append(fault.detail)
            continue
        if told is not None:
            found[port.address] = told
    return found, faults


async def _ask(port: Port) -> Told | None:
    told: Told | None = await port.ask("GET", "/api/overview")
    return told


def page(found: Mapping[str, Told], faults: Sequence[str]) -> RenderableType:
    """Return the page: *found* is what processes tell by their address, *faults* are sentences."""
    return Group(*_lines(found, faults))


def _lines(found: Mapping[str, Told], faults: Sequence[str]) -> Iterator[RenderableType]:
    level = max((told["level"] for told in found.values()), key=LEVELS.index, default="red")
    yield Text.assemble(
        (f" {level} ", f"reverse {_COLOURS[level]}"), " ", (_WORDS[level], "bold"),
        *(f"   {_role(told)} {address}" for address, told in found.items()),
    )  # fmt: skip
    for fault in faults:
        yield Text(fault, "red")
    for told in found.values():
        if told["about"]["serves"]:
            yield from _apps(told)
    for cause in dict.fromkeys(
        (one["level"], one["text"]) for told in found.values() for one in told["causes"]
    ):
        yield Text(f"{cause[0]:>5}  {cause[1]}", _COLOURS[cause[0]])
    for told in found.values():
        if told["about"]["serves"]:
            yield _receiving(told)
    yield _sinks(list(found.values()))


def _role(told: Told) -> str:
    about = told["about"]
    return ("run" if about["works"] else "serve") if about["serves"] else "work"


def _apps(told: Told) -> Iterator[Text]:
    now = told["now"]
    for app, one in now["apps"].items():
        said = f"{duration(now['at_s'] - one['last_s'])} ago" if one["last_s"] else "none since the start"
        yield Text(f"App {app}: last callback {said}")


def _receiving(told: Told) -> Table:
    now, minute = told["now"], told["minute"]
    requests, journal, broker = now["requests"], now["journal"], now["broker"]
    refused = sorted(requests["refused"].items(), key=lambda one: -one[1])
    table = Table("", "", "", box=None, show_header=False)
    stored = _rate(now, minute, "requests", "stored")
    _row(
        table,
        "callbacks",
        f"{stored}/s",
        f"{requests['stored']:,.0f} stored, {requests['probes']:,.0f} probes",
    )
    _row(table, "refused", f"{sum(requests['refused'].values()):,.0f}",
        ", ".join(f"{reason} {count:,.0f}" for reason, count in refused[:4]),
    )  # fmt: skip
    half, most = within(now, minute, 0.5), within(now, minute, 0.99)
    _row(
        table,
        "answers",
        half,
        f"half of them; 99 of 100: {most}" if half else "no callback in the last minute",
    )
    waits = f"the oldest for {duration(journal['oldest_s'])}, " if journal["waiting"] else ""
    full = ", full" if journal["is_full"] else ""
    _row(table, "journal", f"{journal['waiting']:,.0f} wait",
        f"{waits}{_mb(journal['waiting_bytes'])} of {_mb(journal['capacity_bytes'])}{full}",
    )  # fmt: skip
    published = _rate(now, minute, "broker", "published")
    _row(table, "broker", "connected" if broker["connected"].get("publish") else "away",
        f"{published} events/s, {broker['unconfirmed']:,.0f} unconfirmed, {broker['unrouted']:,.0f} unrouted",
    )  # fmt: skip
    return table


def _rate(now: Told, before: Told | None, part: str, name: str) -> str:
    seconds = now["at_s"] - before["at_s"] if before else 0.0
    if not before or seconds <= 0:
        return "0"
    return f"{max(0.0, now[part][name] - before[part][name]) / seconds:,.1f}"


def _mb(size: float) -> str:
    return f"{size / 1_048_576:,.1f} MB"


def within(now: Told, before: Told | None, share: float) -> str:
    """Return in how much time *share* of the answers since *before* were given, "" without any."""
    earlier: Told = before["answers"] if before else {"count": 0, "buckets": {}}
    total = now["answers"]["count"] - earlier["count"]
    if total <= 0:
        return ""
    for bound in sorted(now["answers"]["buckets"], key=float):
        if now["answers"]["buckets"][bound] - earlier["buckets"].get(bound, 0) >= share * total:
            return "more than 5 s" if float(bound) == float("inf") else f"≤ {float(bound) * 1000:g} ms"
    return ""


def _sinks(told: Sequence[Told]) -> Table:
    table = Table("sink", "state", box=None, header_style="bold")
    for column in (*_SINK_COLUMNS, "oldest"):
        table.add_column({"dead": "parked", "unacked": "in work"}.get(column, column), justify="right")
    names = dict.fromkeys(name for one in told for name in (*one["about"]["sinks"], *one["now"]["sinks"]))
    for name in names:
        # Why the workers last: of a sink that both know, theirs is the newer word.
        works = sorted(told, key=lambda one: bool(one["about"]["works"]))
        one = {key: value for part in works for key, value in part["now"]["sinks"].get(name, {}).items()}
        state, colour = _state(one)
        values = [f"{one[column]:,.0f}" if column in one else "–" for column in _SINK_COLUMNS]
        oldest = duration(one.get("oldest_s", 0.0)) if one.get("unacked") else "–"
        _row(table, name, Text(state, colour), *values, oldest)
    return table


def _state(one: Mapping[str, Any]) -> tuple[str, str]:
    if one.get("is_stopped"):
        return "stopped", "bold red"
    if "away" in one:
        return f"away: {one['away']['reason']}", "bold red"
    if "is_available" not in one:
        return "works elsewhere", ""
    return ("takes events", "green") if one["is_available"] else ("not asked yet", "")


def _row(table: Table, *cells: str | Text) -> None:
    # Why as Text: what stands in [brackets] would else be taken for a style.
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
