"""``gateway journal replay``: publishes again, to all sinks or to one."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from gateway import build
from gateway.cli.bar import bar
from gateway.cli.common import (
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    ConfigOption,
    exit_codes,
    run_async,
)
from gateway.cli.journal import choosing
from gateway.cli.journal.choosing import Choice, opened, passed_over
from gateway.cli.output import as_json, note
from gateway.config import Config
from gateway.errors import ConfigError, Unavailable
from gateway.journal import JournalReader
from gateway.metrics import Metrics
from gateway.replay import Replay
from gateway.rules import redactions_of


def replay(
    config: ConfigOption = None,
    process: choosing.Process = None,
    since: choosing.Since = None,
    until: choosing.Until = None,
    command: choosing.Command = None,
    app_id: choosing.App = None,
    first: choosing.From = None,
    last: choosing.To = None,
    sink: Annotated[str | None, typer.Option(help="Only to this sink; to all of them by default.")] = None,
    rate: Annotated[
        float, typer.Option(min=0, max=1e6, help="Events a second; 0: as fast as it goes.")
    ] = 500,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would go where; publish nothing.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Also to sinks that write an event again when it comes again.")
    ] = False,
    json_wanted: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Publish confirmed callbacks again, with the same ids, beside a running gateway too.

    By time, command, app or positions (--from 1: all that is kept). What still waits for the broker is left
    out: the gateway forwards it. Exit code 1: the broker took not all, or callbacks were damaged.
    """
    with exit_codes():
        loaded = choosing.load(config, process)
        choice = Choice.of(since, until, command, app_id, first, last)
        if choice.is_open:
            raise ConfigError(
                "say what to publish again: --since, --until, --command, --app, --from, --to"
                " (--from 1: all that is kept)"
            )
        _check_sinks(loaded, sink, is_allowed=yes or dry_run)
        reader = opened(loaded)
        work = _prepare(loaded, reader, choice, sink or "")
        code = 0
        if dry_run:
            with bar(lambda: max(0, reader.position - work.after), work.to - work.after):
                work.count()
        else:
            code = _publish(loaded, work, rate)
        for said in passed_over(reader):
            note(said)
        found = _summary(reader, work, is_dry=dry_run)
        typer.echo(as_json(found) if json_wanted else _render(found))
        raise typer.Exit(code or (EXIT_FAULT if reader.lost else 0))


def _check_sinks(config: Config, name: str | None, *, is_allowed: bool) -> None:
    """Raise ConfigError when *name* is no sink, or when a sink would write what it has already once more."""
    if name is not None and name not in config.sinks:
        known = ", ".join(config.sinks) or "none"
        raise ConfigError(f"--sink: the configuration has no sink {name!r}; it has: {known}")
    again = [
        f"{key} ({sink.kind}{', once window_s is over' if sink.effect == 'once_in_a_window' else ''})"
        for key, sink in config.sinks.items()
        if sink.effect != "once" and name in (None, key)
    ]
    if again and not is_allowed:
        once = ", ".join(key for key, sink in config.sinks.items() if sink.effect == "once") or "none"
        raise ConfigError(
            f"--yes: {', '.join(again)} write an event again when it comes again. Say --yes if that is all"
            f" right, or --sink with one whose effect is once: {once}"
        )


def _prepare(config: Config, reader: JournalReader, choice: Choice, sink: str) -> Replay:
    """Return the replay of what is confirmed; say what is left out and why."""
    if said := choice.reach(reader):
        note(said)
    after, to = choice.positions(reader)
    if to > reader.cursor:
        note(
            f"Positions {max(after, reader.cursor) + 1} to {to} are left out: they wait for the broker,"
            " and the gateway forwards them by itself."
        )
        choice = replace(choice, last=max(after, reader.cursor))
        to = max(after, reader.cursor)
    topology, redactions = build.topology_of(config), redactions_of(config)
    return Replay(reader, topology, redactions, choice.takes, after, to, sink)


def _publish(config: Config, work: Replay, rate_per_s: float) -> int:
    """Publish; when it ends early, say how far it came. Returns the exit code."""
    try:
        with bar(lambda: work.done - work.after, work.to - work.after):
            run_async(_run(config, work, rate_per_s))
    except KeyboardInterrupt:
        note(f"Interrupted. {_how_far(work)}")
        return EXIT_INTERRUPTED
    except Unavailable as fault:
        note(f"{fault.reason}: {fault.detail}. {_how_far(work)}")
        return EXIT_FAULT
    return 0


async def _run(config: Config, work: Replay, rate_per_s: float) -> None:
    broker = build.make_broker(config, Metrics())
    try:
        await work.run(broker, rate_per_s)
    finally:
        await broker.close()


def _how_far(work: Replay) -> str:
    if work.done == work.after:
        return "Nothing is confirmed yet, though some may have been published."
    return (
        f"Everything up to position {work.done} is confirmed, what comes next may be. To go on, say the same"
        f" with: --from {work.done + 1} --to {work.to}"
    )


def _summary(reader: JournalReader, work: Replay, *, is_dry: bool) -> dict[str, Any]:
    counts = work.counts
    return {
        "journal": reader.id,
        "dry_run": is_dry,
        "first": work.after + 1,
        "last": work.to,
        "done": work.done,
        "callbacks": counts.callbacks,
        "events": counts.events,
        "types": dict(counts.types.most_common()),
        "sinks": dict(counts.sinks.most_common()),
        "unrouted": counts.unrouted,
        "lost": reader.lost,
        "trimmed": reader.trimmed,
    }


def _render(found: dict[str, Any]) -> str:
    verb = "Would publish" if found["dry_run"] else "Published"
    until = found["last"] if found["dry_run"] else found["done"]
    if not found["callbacks"]:
        return f"{verb} nothing: no callback matches."
    lines = [
        f"{verb} {found['events']:,} events of {found['callbacks']:,} callbacks"
        f" (positions {found['first']} to {until})" + ("" if found["dry_run"] else ", each confirmed")
    ]
    lines += [f"  type {name}: {count:,}" for name, count in found["types"].items()]
    lines += [f"  sink {name}: {count:,}" for name, count in found["sinks"].items()]
    if found["unrouted"]:
        lines.append(f"  no sink takes {found['unrouted']:,} of them: they stand in the unrouted queue")
    return "\n".join(lines)
