"""What one statement of the postgres sink carries: rows in a safe order, bounded, as columns. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gateway.event import json_text, without_nul
from gateway.sinks.rows import EventRow

# Bound: what one statement carries. The server holds it several times over and takes no value above 1 GiB,
# and making it holds up the event loop for some ten milliseconds.
_STATEMENT_BYTES = 4 * 1024 * 1024
_EXIT_BYTES = 256
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Why one statement: event and exits stand or fall together, in one round trip, without a transaction that a
# lost client would leave open. "fresh" has only the events that were not there yet.
INSERT = """
WITH fresh AS (
    INSERT INTO {p}events
        (source, id, type, subject, time, recordedtime, app_id, partitionkey, position, event)
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[],
        $7::text[], $8::text[], $9::text[], $10::jsonb[])
    ON CONFLICT (source, id) DO NOTHING
    RETURNING source, id
)
INSERT INTO {p}member_exits
    (source, event_id, member_no, app_id, group_id, group_type, member, operator, exit_type, time)
SELECT gone.* FROM unnest(
    $11::text[], $12::text[], $13::integer[], $14::text[], $15::text[], $16::text[],
    $17::text[], $18::text[], $19::text[], $20::timestamptz[])
    AS gone (source, event_id, member_no, app_id, group_id, group_type, member, operator, exit_type, time)
JOIN fresh ON fresh.source = gone.source AND fresh.id = gone.event_id
ON CONFLICT (source, event_id, member_no) DO NOTHING
"""
_EVENT_COLUMNS = 10
_EXIT_COLUMNS = 10


@dataclass(frozen=True, slots=True)
class KeyedRow:
    """A row and the places in the batch where its event stands; more than one when it came twice."""

    row: EventRow
    indexes: list[int]

    @property
    def size_bytes(self) -> int:
        return len(self.row.body) + _EXIT_BYTES * len(self.row.exits)


def sorted_by_key(rows: list[tuple[int, EventRow]]) -> list[KeyedRow]:
    """Return each event once, by key: workers that insert the same events in one order can't deadlock."""
    by_key: dict[tuple[str, str], KeyedRow] = {}
    for index, row in rows:
        by_key.setdefault((row.source, row.id), KeyedRow(row, [])).indexes.append(index)
    return [by_key[key] for key in sorted(by_key)]


def parts(rows: list[KeyedRow]) -> Iterator[list[KeyedRow]]:
    """Cut *rows* where the bytes of one statement are reached; nearly every batch is one part."""
    part: list[KeyedRow] = []
    part_bytes = 0
    for keyed in rows:
        if part and part_bytes + keyed.size_bytes > _STATEMENT_BYTES:
            yield part
            part, part_bytes = [], 0
        part.append(keyed)
        part_bytes += keyed.size_bytes
    if part:
        yield part


def columns(rows: Sequence[EventRow]) -> list[list[object]]:
    """Return the statement's arguments, one list a column."""
    events = [
        (
            *(row.source, row.id, row.type, row.subject, moment(row.time_ms), moment(row.recorded_ms)),
            *(
                row.app_id,
                row.partition_key,
                row.position,
                without_nul(json_text(row.body.encode())).decode(),
            ),
        )
        for row in rows
    ]
    exits = [
        (
            *(one.source, one.event_id, one.member_no, one.app_id, one.group_id, one.group_type),
            *(one.member, one.operator, one.exit_type, moment(one.time_ms)),
        )
        for row in rows
        for one in row.exits
    ]
    return _transposed(events, _EVENT_COLUMNS) + _transposed(exits, _EXIT_COLUMNS)


def _transposed(rows: Sequence[Sequence[object]], width: int) -> list[list[object]]:
    return [[row[place] for row in rows] for place in range(width)]


def moment(time_ms: int | None) -> datetime | None:
    """Return *time_ms* (Unix, ms) as asyncpg takes it."""
    return None if time_ms is None else _EPOCH + timedelta(milliseconds=time_ms)


def to_ms(time: datetime) -> int:
    """Return *time*, as asyncpg gives it, as Unix milliseconds."""
    return (time - _EPOCH) // timedelta(milliseconds=1)
