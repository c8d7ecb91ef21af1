"""Rows of the embedded broker's file, and what they mean. Inside a transaction of the caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from gateway.broker import Delivery
from gateway.retries import HISTORY

READ_MAX_BYTES = 32 * 1024 * 1024
"""Bound: bodies that one read brings into memory, unless the first alone is longer."""

# Why CROSS JOIN: SQLite then reads along the index of deliveries, never along all events.
COLUMNS = """
SELECT place, attempt, reason, parked_ms, message_id, routing_key, partition_key, body, history, is_routed
FROM deliveries CROSS JOIN events USING (seq) WHERE sink = ?"""


def insert(db: sqlite3.Connection, message_id: str, routing_key: str, key: str, body: bytes) -> int:
    """Add an event; return its number."""
    seq = db.execute(
        "INSERT INTO events (message_id, routing_key, partition_key, body) VALUES (?, ?, ?, ?)",
        (message_id, routing_key, key, body),
    ).lastrowid
    assert seq is not None
    return seq


def remove(db: sqlite3.Connection, place: int) -> None:
    """Remove the delivery at *place*, and the body where this was its last."""
    db.execute(
        "DELETE FROM events WHERE seq = (SELECT seq FROM deliveries WHERE place = ?1)"
        " AND NOT EXISTS (SELECT 1 FROM deliveries WHERE seq = events.seq AND place <> ?1)",
        (place,),
    )
    db.execute("DELETE FROM deliveries WHERE place = ?", (place,))


def rows(cursor: sqlite3.Cursor, taken: Collection[int], limit: int) -> list[Delivery]:
    """Return the deliveries that *cursor* finds, not those in *taken*, at most *limit* or READ_MAX_BYTES."""
    found: list[Delivery] = []
    free_bytes = READ_MAX_BYTES
    for (
        place, attempt, reason, parked_ms, message_id, routing_key, partition_key, body, history, is_routed
    ) in cursor:  # fmt: skip
        if place in taken:
            continue
        headers: dict[str, str | int] = {"partitionkey": partition_key}
        if reason is not None:
            headers["reason"] = reason
        if history:
            headers[HISTORY] = history
        if parked_ms is not None:
            headers["parked_ms"] = parked_ms
        free_bytes -= len(body)
        found.append(
            Delivery(body, attempt, place, message_id, routing_key, headers, is_routed=bool(is_routed))
        )
        if len(found) >= limit or free_bytes <= 0:
            break
    cursor.close()  # Why: an open read would hold up the next commit
    return found
