"""Events as rows of a table of the user's own: which values, under which key, which of two is newer. Pure.

A row remembers in its version column which event it shows. An event changes a row only where it is newer, so
neither a copy nor an older event that comes late leaves a trace.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import orjson

from gateway.config import MISFITS, TableSink, compiled
from gateway.errors import Poison, Unavailable
from gateway.event import Event, iso_time, without_nul
from gateway.exits import iso_to_ms
from gateway.sinks.batches import Keyed
from gateway.sinks.rows import clean

Encoder = Callable[[Any], Any]
"""Makes what a driver takes for one column of a value in JSON, which is never None."""
VERSION_CHARS = 120
_STREAM_CHARS, _TIME_AT = 16, 38
_NO_STREAM = "-" * _STREAM_CHARS
_NO_TIME = "-" * 24
_OUR_ID = re.compile(r"[0-9a-f]{32}")
_ROW_BYTES = 64
NEWER = (
    "({old} IS NULL OR CASE WHEN substr({old}, 1, 16) = substr({new}, 1, 16) THEN {old} < {new}"
    " ELSE substr({old}, 39) < substr({new}, 39) END)"
)
"""``is_newer`` in SQL: *old* and *new* are the versions of the row and of the event."""


class OwnRow(NamedTuple):
    """One row: *key* as text, the values of all columns in their order, and the version."""

    key: tuple[str, ...]
    values: tuple[object, ...]
    version: str


OwnRows = tuple[OwnRow, ...]


class Mapping:
    """The columns of one sink's own table. ``encoders`` has to be set, one a column, before ``shape``."""

    def __init__(self, config: TableSink) -> None:
        self.table = config.table or ""
        self.columns = tuple(config.columns)
        self.key = config.key
        self.version_column = config.version_column
        self.encoders: Sequence[Encoder] = ()
        self._each = None if config.each is None else compiled(config.each)
        self._expressions = [compiled(text) for text in config.columns.values()]
        self._key_places = [self.columns.index(name) for name in config.key]

    def shape(self, events: Sequence[Event]) -> tuple[list[Keyed[OwnRows]], dict[int, Poison]]:
        """Return the rows of each event with its index, and what can't be rows.

        That is Poison("no_key"), nothing stands where the key should, or Poison("columns"), an expression
        does not fit.
        """
        shaped: list[Keyed[OwnRows]] = []
        failures: dict[int, Poison] = {}
        for index, event in enumerate(events):
            try:
                rows = self._rows(event)
            except Poison as poison:
                failures[index] = poison
            except MISFITS as error:  # orjson's own is a TypeError: an integer above 64 bits, say
                failures[index] = Poison("columns", f"an expression does not fit ({type(error).__name__})")
            else:
                shaped.append(Keyed(rows, [index], sum(map(_size_bytes, rows))))
        return shaped, failures

    def _rows(self, event: Event) -> OwnRows:
        version = version_of(event)
        return tuple(self._row(seen, version) for seen in self._seen(event))

    def _seen(self, event: Event) -> Iterable[Any]:
        """Return what the expressions look at, once for each row."""
        if self._each is None:
            return [event.attributes]
        items = self._each.search(event.attributes)
        if not isinstance(items, (list, type(None))):
            raise Poison("columns", "each gives no list")
        return ({**event.attributes, "item": item} for item in items or ())

    def _row(self, seen: Any, version: str) -> OwnRow:
        found = [expression.search(seen) for expression in self._expressions]
        key = [found[place] for place in self._key_places]
        if None in key:
            raise Poison("no_key", f"{self.key[key.index(None)]} is a part of the key and not in this event")
        values = (
            None if value is None else encode(value)
            for value, encode in zip(found, self.encoders, strict=True)
        )
        return OwnRow(tuple(map(as_text, key)), tuple(values), version)


def newest(units: Iterable[Keyed[OwnRows]]) -> list[OwnRow]:
    """Return of all rows of *units* the newest of each key, in the order of keys."""
    found: dict[tuple[str, ...], OwnRow] = {}
    for unit in units:
        for row in unit.row:
            known = found.get(row.key)
            if known is None or is_newer(row.version, known.version):
                found[row.key] = row
    return [found[key] for key in sorted(found)]


def check_columns(
    mapping: Mapping, found: Collection[str], required: Iterable[str], version_chars: int | None
) -> None:
    """Raise Unavailable("no_table") where the table, with columns *found*, is no place for the rows.

    *required* are the columns that need a value; *version_chars* is how many fit the version's, None: all.
    """
    written = (*mapping.columns, mapping.version_column)
    if missing := [name for name in written if name not in found]:
        raise _unfit(mapping, f"has no column {', '.join(missing)}; it has: {', '.join(found)}")
    if unfilled := [name for name in required if name not in written]:
        raise _unfit(mapping, f"wants a value in {', '.join(unfilled)}, and columns has none for it")
    if version_chars is not None and version_chars < VERSION_CHARS:
        raise _unfit(
            mapping, f"has too short a column {mapping.version_column}: {VERSION_CHARS} characters go there"
        )


def _unfit(mapping: Mapping, why: str) -> Unavailable:
    return Unavailable(
        "no_table",
        f"Table {mapping.table} {why}. Change the table or the configuration",
    )


def version_of(event: Event) -> str:
    """Return what tells which of two events is newer: 120 ASCII characters, in parts of fixed length.

    They are the conversation (a hash) and the MsgSeq in it, where there is one, then ``time``,
    ``recordedtime`` and id.
    """
    name = event.id if _OUR_ID.fullmatch(event.id) else _hash(f"{event.source} {event.id}")[:32]
    return f"{_sequence(event)} {_time(event, 'time')} {_time(event, 'recordedtime')} {name}"


def is_newer(new: str, old: str) -> bool:
    """Say whether version *new* is newer than *old*: by MsgSeq within a conversation, else by time."""
    if new[:_STREAM_CHARS] == old[:_STREAM_CHARS]:
        return new > old
    return new[_TIME_AT:] > old[_TIME_AT:]


def as_text(value: Any) -> str:
    """Return the JSON *value* as text: a string is itself, all else is JSON."""
    return clean(value) if isinstance(value, str) else as_json(value)


def as_json(value: Any) -> str:
    """Return *value* as JSON text without what not every database holds."""
    return without_nul(orjson.dumps(value)).decode()


def as_value(value: Any) -> object:
    """Return the JSON *value* for a driver: numbers are numbers, booleans 0 and 1, all else is text."""
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, (int, float)) else as_text(value)


def _sequence(event: Event) -> str:
    """Return conversation and MsgSeq; those of one-to-one chats only order what was sent within a second."""
    message = event.data.get("message")
    seq = message.get("seq") if isinstance(message, dict) else None
    if not event.partition_key.startswith(("group/", "topic/")) or not isinstance(seq, int) or seq < 0:
        return f"{_NO_STREAM} {0:020d}"
    return f"{_hash(f'{event.source} {event.partition_key}')[:_STREAM_CHARS]} {seq:020d}"


def _time(event: Event, name: str) -> str:
    try:
        return iso_time(iso_to_ms(str(event.attributes[name])))
    except (KeyError, ValueError):
        return _NO_TIME


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _size_bytes(row: OwnRow) -> int:
    return _ROW_BYTES + VERSION_CHARS + sum(len(one) for one in row.values if isinstance(one, str))
