"""``gateway tap``: the events as they go to the broker, a line each; from the ring that the console shows."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from gateway.cli.admin_port import Port, nothing_runs, ports_of
from gateway.cli.common import EXIT_FAULT, ConfigOption, exit_codes, load_config, run_async
from gateway.cli.exits import visible
from gateway.cli.output import as_json, note
from gateway.config import Config
from gateway.errors import Unavailable

_FIELDS = ("time", "type", "appid", "subject", "id")


def tap(
    config: ConfigOption = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="Only this type; * and ? stand for any text: 'im.group.*'.")
    ] = None,
    app_id: Annotated[str | None, typer.Option("--app", help="Only this app (SDKAppID).")] = None,
    subject: Annotated[
        str | None, typer.Option(help="Only this subject, for example 'group/@TGS#2J4SZEAEL'.")
    ] = None,
    as_lines: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="The whole event, as JSON; what people wrote is left out of it.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many events.")] = None,
) -> None:
    """Follow the events that go to the broker, from now on; Ctrl-C ends it.

    Alike with every broker, and nobody else notices. Exit code 1 when no gateway runs here, or it ends.
    """
    with exit_codes():
        loaded = load_config(config)
        asked = {"type": kind, "app": app_id, "subject": subject}
        query = urlencode({name: value for name, value in asked.items() if value})
        try:
            run_async(_tap(loaded, query, limit, as_lines=as_lines, whole=whole))
        except KeyboardInterrupt:
            raise typer.Exit from None
        except BrokenPipeError:
            # Why closed here: the interpreter would else complain about it at its end.
            sys.stderr.close()
            raise typer.Exit from None


async def _tap(config: Config, query: str, limit: int | None, *, as_lines: bool, whole: bool) -> None:
    ports = [port for port in ports_of(config) if port.key == "admin.port"]
    if not ports:
        raise nothing_runs(ports)
    [port] = ports
    count = 0
    async with aclosing(_events(port, query)) as events:
        async for event in events:
            told = await _whole(port, event) if whole else event
            if told is None:
                note(f"event {event['id']} is not among the last ones any more")
                continue
            line = as_json(told) if as_lines or whole else "  ".join(_shown(event))
            print(line, flush=True)
            count += 1
            if count == limit:
                return
    note(f"{port.address}: the gateway has ended")
    raise typer.Exit(EXIT_FAULT)


async def _events(port: Port, query: str) -> AsyncGenerator[Mapping[str, Any], None]:
    """Yield what the API tells of each event, in the order that they went out."""
    is_there = False
    async with aclosing(port.follow(f"/api/events/live?{query}")) as turns:
        async for told in turns:
            if not is_there:
                note(f"following {port.address} from now on")
            is_there = True
            for event in reversed(told["events"]):
                yield event
            if told["missed"]:
                note(f"{told['missed']:,} more came than can be looked at")
    if not is_there:
        raise nothing_runs([port])


async def _whole(port: Port, event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    try:
        told = await port.ask("GET", f"/api/events/one/{quote(event['id'], safe='')}")
    except Unavailable as fault:
        if fault.reason == "not_here":
            return None
        raise
    found: Mapping[str, Any] | None = told["event"] if told is not None else None
    return found


def _shown(event: Mapping[str, Any]) -> list[str]:
    # Why visible: subjects hold what strangers named.
    return [visible(str(event[name])) for name in _FIELDS]
