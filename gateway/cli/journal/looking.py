"""``gateway journal stat``, ``list`` and ``show``: what stands in the journal. Changes nothing."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any

import typer

from gateway.cli import output
from gateway.cli.common import ConfigOption, exit_codes
from gateway.cli.journal import choosing, showing
from gateway.cli.journal.choosing import Choice, opened, passed_over
from gateway.cli.journal.showing import MB
from gateway.cli.output import note
from gateway.config import Config
from gateway.errors import ConfigError, Unavailable
from gateway.event import iso_time
from gateway.journal import JournalReader, Stored
from gateway.replay import events_of
from gateway.rules import redactions_of

Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
_READ_MAX_BYTES = 256 * MB
"""Waiting callbacks that ``stat`` reads to count holes; more take seconds, and ``verify`` does it."""


def stat(config: ConfigOption = None, process: choosing.Process = None, as_json: Json = False) -> None:
    """Id, positions, what waits, sizes, and how much room is left."""
    with exit_codes():
        loaded = choosing.load(config, process)
        found = _stat(opened(loaded), loaded)
        typer.echo(output.as_json(found) if as_json else _render(found))


def list_(
    config: ConfigOption = None,
    process: choosing.Process = None,
    since: choosing.Since = None,
    until: choosing.Until = None,
    command: choosing.Command = None,
    app_id: choosing.App = None,
    first: choosing.From = None,
    last: choosing.To = None,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Only what the broker has not confirmed.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0: all.")] = 100,
    newest: Annotated[bool, typer.Option("--newest", help="The last ones instead of the first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """One line a callback: position, time, app, command, bytes of its body, verified or not, peer."""
    with exit_codes():
        reader = opened(choosing.load(config, process))
        choice = Choice.of(since, until, command, app_id, first, last)
        if (first is not None or since is not None) and (said := choice.reach(reader)):
            note(said)
        if waiting:
            choice = replace(choice, first=max(choice.first or 1, reader.cursor + 1))
        records = _newest(reader, choice, limit) if newest and limit else choice.records(reader)
        count = 0
        for stored in islice(records, limit or None):
            count += 1
            typer.echo(
                output.as_json(showing.fields(stored))
                if as_json
                else showing.line(stored, len(str(reader.head)))
            )
        if not newest and limit and next(records, None) is not None:
            note(f"These are the first {limit}; there are more: --limit, or --newest for the last ones.")
        if not count:
            note("No callback matches.")
        for said in passed_over(reader):
            note(said)


def show(
    place: Annotated[str, typer.Argument(metavar="POSITION", help="A number, or an event's `position`.")],
    config: ConfigOption = None,
    process: choosing.Process = None,
    body: Annotated[bool, typer.Option("--body", help="Only the body, its exact bytes.")] = False,
    event: Annotated[
        bool, typer.Option("--event", help="Only its events, one a line, as published.")
    ] = False,
    as_json: Json = False,
) -> None:
    """One callback: what was stored, its body, and the events it becomes."""
    with exit_codes():
        if body + event + as_json > 1:
            raise ConfigError("--body, --event, --json: choose one")
        loaded = choosing.load(config, process)
        reader = opened(loaded)
        stored = _find(reader, place)
        if not event:
            showing.note_personal_data(loaded)
        if not body:
            showing.note_events()
        if body:
            output.write(stored.callback.body, is_json=False)
            return
        events = events_of(reader.id, stored, redactions_of(loaded))
        if event:
            output.write(showing.event_lines(events))
        elif as_json:
            head = output.as_json(showing.whole(reader.id, stored)).encode()
            bodies = b",".join(one.body for one in events)
            output.write(head[:-1] + b', "events": [' + bodies + b"]}\n")
        else:
            typer.echo(_describe(reader, stored))
            for one in events:
                typer.echo(f"event         {output.shortened(one.body.decode())}")


def _newest(reader: JournalReader, choice: Choice, limit: int) -> Iterator[Stored]:
    """Return the last *limit* callbacks of *choice*, in order; reads segment by segment from the end."""
    after, to = choice.positions(reader)
    found: deque[Stored] = deque()
    for segment in reversed(reader.segments):
        begin = max(after, segment.first - 1)
        if begin >= to:
            continue
        part = deque(filter(choice.takes, reader.records(begin, to)), limit - len(found))
        found.extendleft(reversed(part))
        to = begin
        if len(found) == limit:
            break
    return iter(found)


def _find(reader: JournalReader, place: str) -> Stored:
    """Return the callback at *place*: a position, alone or as events have it (``<journal id>.17.0``)."""
    parts = place.split(".")
    if len(parts) > 1 and parts[0] != reader.id:
        raise ConfigError(f"POSITION: {place!r} is of another journal; this one is {reader.id}")
    text = parts[1] if len(parts) > 1 else place
    if not (text.isascii() and text.isdigit() and len(text) < 20) or len(parts) > 3:
        raise ConfigError(f"POSITION: {place!r} is neither a number nor an event's position")
    position = int(text)
    stored = next(reader.records(position - 1, position), None) if 0 < position <= reader.head else None
    if stored is not None:
        return stored
    if position < reader.first:
        detail = Choice(first=position).reach(reader)
    elif position > reader.head:
        detail = f"The last position in use is {reader.head}."
    else:
        detail = " ".join(passed_over(reader))
    raise Unavailable("not_there", f"there is no callback at position {position}. {detail}")


def _stat(reader: JournalReader, config: Config) -> dict[str, Any]:
    limits = config.journal
    oldest = next(reader.records(reader.cursor), None)
    holes = _holes(reader) if reader.size - reader.retained <= _READ_MAX_BYTES else None
    pieces, bytes_aside = reader.set_aside()
    begun_ms, written_ms = reader.times_ms or (None, None)
    held, free = reader.size - reader.retained, shutil.disk_usage(limits.dir).free
    capacity = min(limits.max_mb * MB, max(0, free - limits.min_free_mb * MB) + reader.size)
    age_s = None if oldest is None else max(0.0, time.time() - oldest.callback.received_ms / 1000)
    return {
        "id": reader.id,
        "dir": str(limits.dir),
        "first": reader.first,
        "head": reader.head,
        "cursor": reader.cursor,
        "waiting": reader.head - reader.cursor - (holes or 0),
        "holes": holes,
        "oldest_waiting_s": None if age_s is None else round(age_s, 3),
        "set_aside_pieces": pieces,
        "set_aside_bytes": bytes_aside,
        "segments": len(reader.segments),
        "bytes": reader.size,
        "retained_bytes": reader.retained,
        "begun": iso_time(begun_ms) if begun_ms else None,
        "last_written": iso_time(written_ms) if written_ms else None,
        "max_bytes": limits.max_mb * MB,
        "room_bytes": max(0, capacity - held),
        "disk_free_bytes": free,
        "min_free_bytes": limits.min_free_mb * MB,
    }


def _holes(reader: JournalReader) -> int:
    """Count the positions behind the cursor that are damaged or missing."""
    before = reader.lost
    for _ in reader.verify(reader.cursor):
        pass
    return reader.lost - before


def _render(found: dict[str, Any]) -> str:
    holes = found["holes"]
    if holes is None:
        damage = "what waits is too much to be looked through here (gateway journal verify does it)"
    else:
        damage = f"{holes:,} positions of what waits are damaged or missing"
    age_s = found["oldest_waiting_s"]
    waits = "" if age_s is None else f", the oldest for {age_s:,.0f} s"
    return "\n".join(
        (
            f"journal       {found['id']} in {found['dir']}",
            f"positions     first {found['first']}, head {found['head']}, cursor {found['cursor']}",
            f"waiting       {found['waiting']:,} callbacks for the broker's confirm{waits}",
            f"damage        {damage}; in damaged/: {found['set_aside_pieces']} pieces, "
            f"{found['set_aside_bytes']:,} bytes",
            f"segments      {found['segments']:,} with {found['bytes'] / MB:,.1f} MB, begun"
            f" {found['begun'] or '-'}, last written {found['last_written'] or '-'}",
            f"room          {found['room_bytes'] / MB:,.0f} MB more may wait (journal.max_mb"
            f" {found['max_bytes'] // MB:,}); {found['retained_bytes'] / MB:,.1f} MB for replays go first",
            f"disk          {found['disk_free_bytes'] / MB:,.0f} MB free; journal.min_free_mb is"
            f" {found['min_free_bytes'] // MB:,} MB",
        )
    )


def _describe(reader: JournalReader, stored: Stored) -> str:
    callback = stored.callback
    state = "confirmed by the broker" if stored.position <= reader.cursor else "waiting for the broker"
    text = callback.body.decode("utf-8", "backslashreplace")
    said = showing.fields(stored)
    return "\n".join(
        (
            f"position      {stored.position} of {reader.id}, {state}",
            f"received      {said['received']}",
            f"app           {output.shortened(said['app'])}",
            f"command       {output.shortened(said['command']) or '-'}",
            f"verified      {'yes' if callback.verified else 'no'}",
            f"peer          {output.shortened(callback.peer)}",
            f"query         {output.shortened(callback.query)}",
            f"ids           recipe {callback.id_recipe}, window {callback.id_window_s} s",
            f"body          {said['bytes']:,} bytes: {output.shortened(text)}",
        )
    )
