"""``gateway dead list`` and ``show``: what is parked, and one event with all that is known of it."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.broker import Delivery
from gateway.cli.common import EXIT_FAULT, ConfigOption, exit_codes, load_config, run_async
from gateway.cli.dead import choosing
from gateway.cli.exits import visible
from gateway.cli.output import as_json, note, shortened, write
from gateway.config import Config
from gateway.dead import Choice, Work, exported, fields, indented, whole

_COLUMNS = ("parked (UTC)", "attempt", "reason", "type", "app", "group", "id")
_KEYS = ("parked", "attempt", "reason", "type", "app", "group", "id")
_COLUMNS_MAX = 4096


def list_(
    config: ConfigOption = None,
    sink: choosing.Sink = None,
    type_: choosing.Type = None,
    reason: choosing.Reason = None,
    group: choosing.Group = None,
    app: choosing.App = None,
    id_: choosing.Id = None,
    since: choosing.Since = None,
    until: choosing.Until = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many events.")] = 100,
    json_wanted: choosing.Json = False,
) -> None:
    """Print parked events, one a line, never their content; without --sink, how many each sink has.

    In the order in which they were parked. --json: one JSON object a line.
    """
    with exit_codes():
        loaded = load_config(config)
        choice = choosing.choice_of(type_, reason, group, app, id_, since, until)
        if sink is None and choice.is_open and len(loaded.sinks) != 1:
            _show_sinks(run_async(_parked(loaded)), json_wanted=json_wanted)
            return
        name = choosing.sink_of(loaded, sink)
        found, parked = choosing.work_on(loaded, name, "list", choice, _first, limit)
        if json_wanted:
            for one in found:
                typer.echo(as_json(fields(one)))
        else:
            _show(found)
        more = (
            f"the first {limit:,} that match; --limit shows more"
            if len(found) == limit
            else f"{len(found):,}"
        )
        note(f"Sink {name}: {more}, of {parked:,} parked.")


def show(
    event_id: Annotated[str, typer.Argument(metavar="ID", help="An event's id, as list prints it.")],
    config: ConfigOption = None,
    sink: choosing.Sink = None,
    json_wanted: choosing.Json = False,
) -> None:
    """Print one parked event: why and when it was parked, its headers, its content.

    More than one if it is parked more than once. --json: one JSON object a line.
    """
    with exit_codes():
        loaded = load_config(config)
        name = choosing.sink_of(loaded, sink)
        found, _ = choosing.work_on(loaded, name, "show", Choice(id=event_id), _first)
        if not found:
            note(f"No event {visible(event_id)} is parked for sink {name}.")
            raise typer.Exit(EXIT_FAULT)
        for one in found:
            write(exported(one) if json_wanted else _told(one).encode(), is_json=json_wanted)


async def _first(work: Work) -> tuple[list[Delivery], int]:
    return [delivery async for delivery in work.look()], work.parked


async def _parked(config: Config) -> dict[str, int]:
    async with choosing.connected(config) as broker:
        return {name: (await broker.depth(name)).dead for name in config.sinks}


def _show_sinks(parked: dict[str, int], *, json_wanted: bool) -> None:
    if json_wanted:
        typer.echo(as_json(parked))
        return
    for name, count in parked.items():
        typer.echo(f"{name}: {count:,} parked")
    note("See them with --sink NAME.")


def _show(found: list[Delivery]) -> None:
    if not found:
        typer.echo("No parked event matches.")
        return
    table = Table(*_COLUMNS, box=box.SIMPLE, pad_edge=False, show_edge=False, collapse_padding=True)
    table.columns[0].no_wrap = True
    for one in found:
        said = fields(one)
        cells = (str(said[key]) if said[key] is not None else "-" for key in _KEYS)
        # Why Text: a str would be read as rich's markup.
        table.add_row(*(Text(visible(cell), overflow="fold") for cell in cells))
    # Why wide on a terminal too: an id that is folded can't be copied.
    Console(width=_COLUMNS_MAX).print(table)


def _told(delivery: Delivery) -> str:
    said: dict[str, Any] = whole(delivery)
    headers = said.pop("headers")
    content = said.pop("event", None)
    lines = [f"{name:<9} {shortened(str(value))}" for name, value in said.items() if name in _LINES]
    lines += [f"history   {shortened(failure)}" for failure in said["history"]]
    lines += [f"header    {shortened(name)}: {shortened(str(value))}" for name, value in headers.items()]
    if content is not None:
        return "\n".join([*lines, "", indented(orjson.dumps(content).decode())])
    kind = "body" if "body" in said else "body_base64"
    return "\n".join([*lines, f"{kind}: no JSON object", "", str(said[kind]), ""])


_LINES = frozenset((*_KEYS, "bytes"))
