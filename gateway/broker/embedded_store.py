"""The embedded broker's queues as rows of a SQLite file.

Blocking, for one thread. Every method is one transaction, on disk when it returns; it raises Unavailable,
with nothing changed, when the file can't be used. It knows no consumers: each call says what is taken.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from gateway.broker import Delivery, Depth, Unconfirmed
from gateway.broker.embedded_file import File
from gateway.event import Event
from gateway.retries import HISTORY, lengthened
from gateway.topology import UNROUTED_BYTES, UNROUTED_TTL_MS, Topology

READ_MAX_BYTES = 32 * 1024 * 1024
"""Bound: bodies that one read brings into memory, unless the first alone is longer."""
RESCUE_EVENTS = 1000
"""Events that one transaction rescues, so that publishers get their turn in between."""

# Why CROSS JOIN: SQLite then reads along the index of deliveries, never along all events.
_COLUMNS = """
SELECT place, attempt, reason, parked_ms, message_id, routing_key, partition_key, body, history, is_routed
FROM deliveries CROSS JOIN events USING (seq) WHERE sink = ?"""
_READY = f"{_COLUMNS} AND state = 'ready' AND place > ? ORDER BY place"
_DEAD = f"{_COLUMNS} AND state = 'dead' ORDER BY place LIMIT ?"
_DUE = f"{_COLUMNS} AND state = 'retry' AND not_before_ms <= ? ORDER BY not_before_ms, place"


class Store:
    """The queues in the file."""

    def __init__(self, path: Path, topology: Topology, now_ms: Callable[[], int]) -> None:
        """Take the file at *path*, which is opened when needed."""
        self._file = File(path)
        self._topology = topology
        self._now_ms = now_ms

    def open(self) -> None:
        """Create and open the file where needed."""
        with self._file.reading():
            pass

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def publish(self, events: Sequence[Event], sink: str = "") -> None:
        """Store *events* in order, each once and a delivery for each sink that takes it, or for *sink* alone.

        Raises Unconfirmed("rejected") when one of them can't be stored as it is.
        """
        try:
            with self._file.writing() as db:
                for event in events:
                    self._add(db, event, sink)
        except (ValueError, OverflowError, sqlite3.DataError) as error:
            raise Unconfirmed("rejected", f"an event can't be stored: {type(error).__name__}") from error

    def read(self, sink: str, after: int, taken: Collection[int], limit: int) -> list[Delivery]:
        """Return at most *limit* events for *sink*, not those in *taken*: due retries, then what waits.

        *after*: the place behind which first tries are read; the tags returned are places.
        """
        with self._file.reading() as db:
            found = _rows(db.execute(_DUE, (sink, self._now_ms())), taken, limit)
            if len(found) < limit:
                found += _rows(db.execute(_READY, (sink, after)), taken, limit - len(found))
        return found

    def peek_dead(self, sink: str, limit: int) -> list[Delivery]:
        """Return the first *limit* parked events of *sink*, in the order of publishing."""
        with self._file.reading() as db:
            return _rows(db.execute(_DEAD, (sink, limit)), (), limit)

    def ack(self, places: Sequence[int]) -> None:
        """Remove the deliveries at *places*, and the bodies of which these were the last."""
        with self._file.writing() as db:
            for place in places:
                db.execute(
                    "DELETE FROM events WHERE seq = (SELECT seq FROM deliveries WHERE place = ?1)"
                    " AND NOT EXISTS (SELECT 1 FROM deliveries WHERE seq = events.seq AND place <> ?1)",
                    (place,),
                )
                db.execute("DELETE FROM deliveries WHERE place = ?", (place,))

    def retry(self, place: int, reason: str, delay_ms: int) -> None:
        """Let the delivery at *place* come again after *delay_ms*, with one attempt more."""
        now_ms = self._now_ms()
        with self._file.writing() as db:
            self._note_failure(db, place, reason, now_ms)
            db.execute(
                "UPDATE deliveries SET state = 'retry', attempt = attempt + 1, not_before_ms = ?,"
                " is_routed = 0 WHERE place = ?",
                (now_ms + delay_ms, place),
            )

    def park(self, place: int, reason: str) -> None:
        """Move the delivery at *place* to the dead ones."""
        now_ms = self._now_ms()
        with self._file.writing() as db:
            self._note_failure(db, place, reason, now_ms)
            db.execute("UPDATE deliveries SET state = 'dead', parked_ms = ? WHERE place = ?", (now_ms, place))

    def depth(self, sink: str) -> Depth:
        """Count the events of *sink*; ready holds those that a consumer has taken, too."""
        count = "SELECT count(*) FROM deliveries WHERE sink = ? AND state = "
        with self._file.reading() as db:
            [(ready,)] = db.execute(f"{count} 'ready'", (sink,))
            [(retry,)] = db.execute(f"{count} 'retry'", (sink,))
            [(due,)] = db.execute(f"{count} 'retry' AND not_before_ms <= ?", (sink, self._now_ms()))
            [(dead,)] = db.execute(f"{count} 'dead'", (sink,))
        return Depth(ready=ready + due, unacked=None, retry=retry - due, dead=dead)

    def sinks(self) -> list[str]:
        """Return the names of all sinks that have events here."""
        with self._file.reading() as db:
            return [name for (name,) in db.execute("SELECT DISTINCT sink FROM deliveries ORDER BY sink")]

    def unrouted(self) -> int:
        """Count the events that no sink takes and that are not too old."""
        oldest_ms = self._now_ms() - UNROUTED_TTL_MS
        with self._file.reading() as db:
            [(count,)] = db.execute("SELECT count(*) FROM unrouted WHERE at_ms > ?", (oldest_ms,))
        return int(count)

    def dropped(self) -> int:
        """Count the unrouted events that were dropped for age or room since the file was created."""
        with self._file.reading() as db:
            [(count,)] = db.execute("SELECT dropped FROM totals")
        return int(count)

    def last_unrouted(self) -> int:
        """Return the sequence number of the youngest unrouted event, 0 when there is none."""
        with self._file.reading() as db:
            [(seq,)] = db.execute("SELECT coalesce(max(seq), 0) FROM unrouted")
        return int(seq)

    def rescue(self, after: int, last: int) -> tuple[int | None, int]:
        """Give some unrouted events with *after* < seq ≤ *last* to the sinks that take them now.

        Returns how far it came (None: to the end) and how many moved.
        """
        moved = 0
        with self._file.writing() as db:
            self._drop_unrouted(db)
            waiting = db.execute(
                "SELECT seq, routing_key FROM unrouted JOIN events USING (seq) WHERE seq > ? AND seq <= ?"
                " ORDER BY seq LIMIT ?",
                (after, last, RESCUE_EVENTS),
            ).fetchall()
            for seq, routing_key in waiting:
                if self._deliver(db, seq, self._takers(routing_key), is_routed=True):
                    db.execute("DELETE FROM unrouted WHERE seq = ?", (seq,))
                    moved += 1
        return (waiting[-1][0] if waiting else None), moved

    def check(self) -> None:
        """Try whether a transaction can be written."""
        # Why no integrity_check: it reads the whole file and would hold up publishers meanwhile.
        with self._file.writing() as db:
            db.execute("UPDATE totals SET dropped = dropped")

    def _add(self, db: sqlite3.Connection, event: Event, sink: str) -> None:
        seq = db.execute(
            "INSERT INTO events (message_id, routing_key, partition_key, body) VALUES (?, ?, ?, ?)",
            (event.id, event.routing_key, event.partition_key, event.body),
        ).lastrowid
        assert seq is not None
        takers = [sink] if sink else self._takers(event.routing_key)
        if not self._deliver(db, seq, takers, is_routed=not sink):
            # start_byte counts on from event to event, so that the bound needs no sum over the table.
            db.execute(
                "INSERT INTO unrouted (seq, at_ms, size_bytes, start_byte) VALUES (?, ?, ?, coalesce("
                "(SELECT start_byte + size_bytes FROM unrouted ORDER BY seq DESC LIMIT 1), 0))",
                (seq, self._now_ms(), len(event.body)),
            )
            self._drop_unrouted(db)

    def _takers(self, routing_key: str) -> list[str]:
        return [sink.name for sink in self._topology.takers(routing_key)]

    def _deliver(self, db: sqlite3.Connection, seq: int, takers: Sequence[str], *, is_routed: bool) -> bool:
        for sink in takers:
            db.execute(
                "INSERT INTO deliveries (sink, seq, is_routed) VALUES (?, ?, ?)", (sink, seq, is_routed)
            )
        return bool(takers)

    def _note_failure(self, db: sqlite3.Connection, place: int, reason: str, now_ms: int) -> None:
        found = db.execute("SELECT sink, history FROM deliveries WHERE place = ?", (place,)).fetchone()
        if found is not None:
            sink, history = found
            db.execute(
                "UPDATE deliveries SET reason = ?, history = ? WHERE place = ?",
                (reason, lengthened(history, now_ms, sink, reason), place),
            )

    def _drop_unrouted(self, db: sqlite3.Connection) -> None:
        """Drop the oldest unrouted events: those past their time, and those for which there is no room."""
        limits = (self._now_ms() - UNROUTED_TTL_MS, UNROUTED_BYTES)
        doomed = (
            "SELECT seq FROM unrouted WHERE at_ms <= ? UNION SELECT seq FROM unrouted WHERE start_byte <"
            " (SELECT start_byte + size_bytes FROM unrouted ORDER BY seq DESC LIMIT 1) - ?"
        )
        for (seq,) in db.execute(doomed, limits).fetchall():
            db.execute("DELETE FROM unrouted WHERE seq = ?", (seq,))
            db.execute("DELETE FROM events WHERE seq = ?", (seq,))
            db.execute("UPDATE totals SET dropped = dropped + 1")


def _rows(cursor: sqlite3.Cursor, taken: Collection[int], limit: int) -> list[Delivery]:
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
