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
from gateway.broker.embedded_rows import COLUMNS, insert, remove, rows
from gateway.event import Event
from gateway.retries import HISTORY, lengthened
from gateway.topology import UNROUTED_BYTES, UNROUTED_TTL_MS, Topology

RESCUE_EVENTS = 1000
"""Events that one transaction rescues, so that publishers get their turn in between."""

_READY = f"{COLUMNS} AND state = 'ready' AND place > ? ORDER BY place"
_DEAD = f"{COLUMNS} AND state = 'dead' AND place > ? AND place <= ? ORDER BY place"
_DUE = f"{COLUMNS} AND state = 'retry' AND not_before_ms <= ? ORDER BY not_before_ms, place"


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
            found = rows(db.execute(_DUE, (sink, self._now_ms())), taken, limit)
            if len(found) < limit:
                found += rows(db.execute(_READY, (sink, after)), taken, limit - len(found))
        return found

    def read_dead(self, sink: str, after: int, last: int, limit: int) -> list[Delivery]:
        """Return at most *limit* parked events with *after* < place ≤ *last*, in the order of parking."""
        with self._file.reading() as db:
            return rows(db.execute(_DEAD, (sink, after, last)), (), limit)

    def count_dead(self, sink: str) -> tuple[int, int]:
        """Return how many events of *sink* are parked, and the place of the last one."""
        with self._file.reading() as db:
            counted = (
                "SELECT count(*), coalesce(max(place), 0) FROM deliveries WHERE sink = ? AND state = 'dead'"
            )
            [(count, last)] = db.execute(counted, (sink,))
        return count, last

    def replay(self, sink: str, deliveries: Sequence[Delivery]) -> None:
        """Put what *deliveries* hold behind all that waits for *sink*, and remove what is parked there."""
        with self._file.writing() as db:
            for one in deliveries:
                seq = insert(db, one.message_id, one.routing_key, str(one.headers["partitionkey"]), one.body)
                history = one.headers.get(HISTORY, "")
                db.execute(
                    "INSERT INTO deliveries (sink, seq, history) VALUES (?, ?, ?)", (sink, seq, history)
                )
                remove(db, one.tag)

    def ack(self, places: Sequence[int]) -> None:
        """Remove the deliveries at *places*, and the bodies of which these were the last."""
        with self._file.writing() as db:
            for place in places:
                remove(db, place)

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
        """Move the delivery at *place* behind the dead ones."""
        now_ms = self._now_ms()
        with self._file.writing() as db:
            self._note_failure(db, place, reason, now_ms)
            # Why anew: so their places tell the order in which they were parked.
            db.execute(
                "INSERT INTO deliveries (sink, seq, state, attempt, reason, parked_ms, history)"
                " SELECT sink, seq, 'dead', attempt, reason, ?, history FROM deliveries WHERE place = ?",
                (now_ms, place),
            )
            db.execute("DELETE FROM deliveries WHERE place = ?", (place,))

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
        seq = insert(db, event.id, event.routing_key, event.partition_key, event.body)
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
