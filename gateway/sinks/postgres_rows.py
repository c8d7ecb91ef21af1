"""What one statement of the postgres sink carries: rows as columns. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.event import json_text, without_nul
from gateway.sinks.rows import EventRow, moment

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


def columns(rows: Sequence[EventRow]) -> list[Sequence[object]]:
    """Return the statement's arguments, one sequence a column."""
    events = [
        (
            *(row.source, row.id, row.type, row.subject, moment(row.time_ms), moment(row.recorded_ms)),
            *(row.app_id, row.partition_key, row.position, _as_jsonb(row.body)),
        )
        for row in rows
    ]
    exits = [(*one[:-1], moment(one.time_ms)) for row in rows for one in row.exits]
    return _transposed(events, _EVENT_COLUMNS) + _transposed(exits, _EXIT_COLUMNS)


def _as_jsonb(body: str) -> str:
    encoded = body.encode()
    mended = without_nul(json_text(encoded))
    return body if mended is encoded else mended.decode()


def _transposed(rows: Sequence[Sequence[object]], width: int) -> list[Sequence[object]]:
    return list(zip(*rows, strict=True)) or [()] * width
