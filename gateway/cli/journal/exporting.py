"""``gateway journal export``: callbacks, or their events, as JSON lines in a file or on standard output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.bar import bar
from gateway.cli.common import EXIT_FAULT, ConfigOption, exit_codes
from gateway.cli.journal import choosing, showing
from gateway.cli.journal.choosing import Choice, opened, passed_over
from gateway.cli.output import as_json, note, written
from gateway.journal import Stored
from gateway.replay import events_of
from gateway.rules import redactions_of


def export(
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="A new file, compressed when it ends in .gz; else standard output."
        ),
    ] = None,
    config: ConfigOption = None,
    process: choosing.Process = None,
    since: choosing.Since = None,
    until: choosing.Until = None,
    command: choosing.Command = None,
    app_id: choosing.App = None,
    first: choosing.From = None,
    last: choosing.To = None,
    events: Annotated[bool, typer.Option("--events", help="The events instead of the callbacks.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    json_wanted: Annotated[
        bool, typer.Option("--json", help="Say what was written as one JSON object.")
    ] = False,
) -> None:
    """Write callbacks (or events) as JSON lines; all of FILE or nothing, readable by its owner only.

    Exit code 1: callbacks in the range were damaged; the others were written.
    """
    with exit_codes():
        loaded = choosing.load(config, process)
        target = None if target == Path("-") else target
        choice = Choice.of(since, until, command, app_id, first, last)
        reader = opened(loaded)
        redactions = redactions_of(loaded)
        if events:
            showing.note_events()
        else:
            showing.note_personal_data(loaded)
        if said := choice.reach(reader):
            note(said)

        def lines_of(stored: Stored) -> bytes:
            if events:
                return showing.event_lines(events_of(reader.id, stored, redactions))
            return as_json(showing.whole(reader.id, stored)).encode() + b"\n"

        after, to = choice.positions(reader)
        callbacks = lines = 0
        with written(target, force=force) as write, bar(lambda: max(0, reader.position - after), to - after):
            for stored in choice.records(reader):
                data = lines_of(stored)
                write(data)
                callbacks += 1
                lines += data.count(b"\n")
        for said in passed_over(reader):
            note(said)
        found = {
            "file": None if target is None else str(target),
            "first": after + 1,
            "last": to,
            "callbacks": callbacks,
            "lines": lines,
            "lost": reader.lost,
            "trimmed": reader.trimmed,
        }
        text = f"{lines:,} lines of {callbacks:,} callbacks (positions {after + 1} to {to})"
        typer.echo(as_json(found) if json_wanted else text, err=target is None)
        if reader.lost:
            raise typer.Exit(EXIT_FAULT)
