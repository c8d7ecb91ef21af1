"""The sqlite sink: a table of events and one of member exits in a SQLite file, each event once.

It owns the file. Tables and their versions: ``sqlite_schema``.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from gateway.config import SqliteSink
from gateway.errors import Poison, Unavailable
from gateway.event import Event, iso_time
from gateway.exits import ExitsQuery, MemberExit, iso_to_ms
from gateway.sinks import Failures
from gateway.sinks.local import OwnThread, make_folder, open_private, sync_folder, unavailable
from gateway.sinks.rows import EXIT_COLUMNS, EventRow, conditions, shape
from gateway.sinks.sqlite_schema import migrate, transaction

# How long to wait for another process that writes or reads, before the worker is told to come again.
_BUSY_TIMEOUT_S = 5.0
_INSERT_EVENT = """INSERT INTO events
    (source, id, type, subject, time, recordedtime, app_id, partitionkey, position, event)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (source, id) DO NOTHING"""
_INSERT_EXIT = f"""INSERT INTO member_exits ({EXIT_COLUMNS})
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""  # noqa: S608 - our own column names
_REASONS = {
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_FULL: "disk_full",
    sqlite3.SQLITE_PERM: "no_rights",
    sqlite3.SQLITE_READONLY: "no_rights",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
    sqlite3.SQLITE_ERROR: "no_table",  # what is left of it once our SQL is right: a table or column is gone
}


class Sqlite:
    """The file ``config.path``: ``events`` has every event, ``member_exits`` a row per member that left."""

    def __init__(self, config: SqliteSink, name: str) -> None:
        self._path = config.path.absolute()
        self._thread = OwnThread(f"sink-{name}")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Open the file, created and migrated where needed.

        Raises Unavailable: ``locked``, ``newer_schema``, ``damaged``, ``disk_full``, ``no_rights`` or
        ``io_error``.
        """
        await self._thread.run(self._open)

    async def write(self, events: Sequence[Event]) -> Failures:
        """Write *events* in one transaction; those that stand there already change nothing.

        Raises Unavailable as ``open`` does, ``no_table`` and ``moved`` too; nothing was written then.
        """
        return await self._thread.run(lambda: self._write(events))

    async def close(self) -> None:
        """Close the file."""
        await self._thread.end(self._close)

    def _open(self) -> None:
        if self._connection is not None:
            return
        with self._closed_after_failure():
            make_folder(self._path.parent)
            os.close(open_private(self._path, os.O_RDWR))
            sync_folder(self._path.parent)
            self._connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            _make_durable(self._connection)
            migrate(self._connection, self._path)

    def _write(self, events: Sequence[Event]) -> dict[int, Poison]:
        if self._connection is None:
            raise Unavailable("not_open", f"{self._path} is not open.")
        rows, failures = shape(events)
        with self._closed_after_failure(), transaction(self._connection):
            for index, row in rows:
                try:
                    is_new = _insert_event(self._connection, row)
                # The statement alone was rolled back: too big, or no text that SQLite can hold.
                except (sqlite3.DataError, sqlite3.IntegrityError, UnicodeError) as error:
                    failures[index] = Poison("refused_by_database", type(error).__name__)
                    continue
                if is_new:
                    self._connection.executemany(_INSERT_EXIT, map(_exit_values, row.exits))
        return failures

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):  # Why: what was committed is on disk already
                self._connection.close()
        self._connection = None

    @contextmanager
    def _closed_after_failure(self) -> Iterator[None]:
        try:
            with _errors_in_our_words(self._path):
                yield
        except BaseException:
            self._close()
            raise


async def read_exits(config: SqliteSink, query: ExitsQuery) -> list[MemberExit]:
    """Return the exits that match *query*, newest first; the file is opened read-only. Raises Unavailable."""
    return await asyncio.to_thread(_read_exits, config.path.absolute(), query)


def _read_exits(path: Path, query: ExitsQuery) -> list[MemberExit]:
    if not path.exists():
        raise Unavailable("no_table", f"No worker has written to {path} yet.")
    pairs = conditions(query, iso_time)
    where = " AND ".join(f"{term} ?" for term, _ in pairs) or "TRUE"
    sql = f"""SELECT {EXIT_COLUMNS} FROM member_exits WHERE {where}
        ORDER BY time DESC, source, event_id, member_no LIMIT ?"""  # noqa: S608 - our own column names
    uri = f"{path.as_uri()}?mode=ro"
    with _errors_in_our_words(path), closing(_connect_to_read(uri)) as connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'member_exits'").fetchone() is None:
            raise Unavailable("no_table", f"No worker has written member exits to {path} yet.")
        found = connection.execute(sql, (*(value for _, value in pairs), query.limit)).fetchall()
    return [MemberExit(*(*row[:-1], iso_to_ms(row[-1]))) for row in found]


def _connect_to_read(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, timeout=_BUSY_TIMEOUT_S, isolation_level=None, uri=True)


def _make_durable(connection: sqlite3.Connection) -> None:
    # Why no WAL: one bit flipped in it takes all later commits away without an error, and 3.7.0 to 3.51.2 can
    # lose commits when two connections meet. Why TRUNCATE: with DELETE a power cut may bring back the old
    # journal, and the last commit with its acknowledged events is rolled back.
    (mode,) = connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()
    if mode != "truncate":
        raise Unavailable(
            "locked", f"The file keeps its journal mode {mode} while another program has it open."
        )
    connection.execute("PRAGMA synchronous = FULL")


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


@contextmanager
def _errors_in_our_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unavailable(error, path) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        reason = _REASONS.get(code & 0xFF, "io_error")
        detail = str(error)
        if code == sqlite3.SQLITE_READONLY_DBMOVED:
            reason, detail = "moved", "the file was moved or deleted; a new one is made at the next try"
        if code == sqlite3.SQLITE_READONLY_ROLLBACK:
            reason = "locked"
            detail = "a worker died in the middle of a write; start it, it puts the file right"
        raise Unavailable(reason, f"{path}: {detail}.") from error
