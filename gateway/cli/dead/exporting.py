"""``gateway dead export``: parked events as JSON lines in a file or on standard output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.bar import bar
from gateway.cli.common import ConfigOption, exit_codes, load_config
from gateway.cli.dead import choosing
from gateway.cli.output import as_json, note, written
from gateway.dead import Work, exported


def export(
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="A new file, compressed when it ends in .gz; else standard output."
        ),
    ] = None,
    config: ConfigOption = None,
    sink: choosing.Sink = None,
    type_: choosing.Type = None,
    reason: choosing.Reason = None,
    group: choosing.Group = None,
    app: choosing.App = None,
    id_: choosing.Id = None,
    since: choosing.Since = None,
    until: choosing.Until = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    json_wanted: choosing.Json = False,
) -> None:
    """Write parked events as JSON lines, and leave them parked; all of FILE or nothing.

    Each line has why, when and after how many attempts the event was parked, and the event itself, exactly.
    """
    with exit_codes():
        loaded = load_config(config)
        target = None if target == Path("-") else target
        choice = choosing.choice_of(type_, reason, group, app, id_, since, until)
        name = choosing.sink_of(loaded, sink)
        note("Parked events may hold personal data; treat this output accordingly.")

        async def job(work: Work) -> int:
            with bar(lambda: work.seen, work.parked):
                async for delivery in work.look():
                    write(exported(delivery))
            return work.chosen.events

        with written(target, force=force) as write:
            events = choosing.work_on(loaded, name, "export", choice, job)
        found = {"file": None if target is None else str(target), "sink": name, "events": events}
        text = f"{events:,} parked events of sink {name}"
        typer.echo(as_json(found) if json_wanted else text, err=target is None)
