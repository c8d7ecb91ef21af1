"""The tables of events and of member exits in a SQLite file, and what is written there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from gateway.errors import Poison
from gateway.event import Event, iso_time
from gateway.exits import MemberExit
from gateway.sinks.rows import EXIT_COLUMNS, EventRow, shape
from gateway.sinks.sqlite_schema import migrate

_INSERT_EVENT = """INSERT INTO events
    (source, id, type, subject, time, recordedtime, app_id, partitionkey, position, event)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (source, id) DO NOTHING"""
_INSERT_EXIT = f"""INSERT INTO member_exits ({EXIT_COLUMNS})
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""  # noqa: S608 - our own column names


class EventTables:
    """Writes each event once, with its exits."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Bring the file to our version. Raises Unavailable("newer_schema") or sqlite3's errors."""
        migrate(connection, self._path)

    def write(self, connection: sqlite3.Connection, events: Sequence[Event]) -> dict[int, Poison]:
        rows, failures = shape(events)
        for index, row in rows:
            connection.execute("SAVEPOINT event")  # Why: an event and its exits stand or fall together
            try:
                if _insert_event(connection, row):
                    connection.executemany(_INSERT_EXIT, map(_exit_values, row.exits))
            # Too big, no text that SQLite can hold, or against a rule that an operator made.
            except (sqlite3.DataError, sqlite3.IntegrityError, UnicodeError) as error:
                connection.execute("ROLLBACK TO event")
                failures[index] = Poison(
                    "refused_by_database", getattr(error, "sqlite_errorname", type(error).__name__)
                )
            connection.execute("RELEASE event")
        return failures


def _insert_event(connection: sqlite3.Connection, row: EventRow) -> bool:
    """Say whether the event is new."""
    values: Iterable[str | None] = (
        *(row.source, row.id, row.type, row.subject, _iso(row.time_ms), _iso(row.recorded_ms)),
        *(row.app_id, row.partition_key, row.position, row.body),
    )
    return connection.execute(_INSERT_EVENT, tuple(values)).rowcount == 1


def _exit_values(one: MemberExit) -> tuple[str | int | None, ...]:
    return (
        *(one.source, one.event_id, one.member_no, one.app_id, one.group_id, one.group_type),
        *(one.member, one.operator, one.exit_type, iso_time(one.time_ms)),
    )


def _iso(time_ms: int | None) -> str | None:
    return None if time_ms is None else iso_time(time_ms)
