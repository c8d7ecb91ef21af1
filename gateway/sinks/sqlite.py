"""The sqlite sink: a table of events and one of member exits in a SQLite file, each event once.

It owns the file. Tables and their versions: ``sqlite_schema``.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from gateway.config import SqliteSink
from gateway.errors import Poison, Unavailable
from gateway.event import Event, iso_time
from gateway.exits import ExitsQuery, MemberExit, iso_to_ms
from gateway.sinks import Failures
from gateway.sinks.local import OwnThread, make_folder, open_private, sync_folder, unavailable
from gateway.sinks.rows import EXIT_COLUMNS, conditions
from gateway.sinks.sqlite_rows import EventTables
from gateway.sinks.sqlite_schema import transaction
from gateway.sinks.sqlite_table import OwnTable

# How long to wait for another process that writes or reads, before the worker is told to come again.
_BUSY_TIMEOUT_S = 5.0
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


class _Form(Protocol):
    """Which tables there are, and what becomes of an event there."""

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Create and migrate what is needed. Raises Unavailable or sqlite3's errors."""
        ...

    def write(self, connection: sqlite3.Connection, events: Sequence[Event]) -> dict[int, Poison]:
        """Write *events* in the transaction that is open; return those that can never be written."""
        ...


class Sqlite:
    """The file ``config.path``: ``events`` has every event, ``member_exits`` a row per member that left.

    With ``table`` in its configuration there is that one alone: a table of the user's own.
    """

    def __init__(self, config: SqliteSink, name: str) -> None:
        self._path = config.path.absolute()
        self._is_own = config.table is not None
        self._thread = OwnThread(f"sink-{name}")
        self._form: _Form = OwnTable(config, self._path) if config.table else EventTables(self._path)
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
            _make_durable(self._connection, may_be_wal=self._is_own)
            self._form.prepare(self._connection)

    def _write(self, events: Sequence[Event]) -> dict[int, Poison]:
        if self._connection is None:
            raise Unavailable("not_open", f"{self._path} is not open.")
        with self._closed_after_failure(), transaction(self._connection):
            return self._form.write(self._connection, events)

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


def _make_durable(connection: sqlite3.Connection, *, may_be_wal: bool) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    # Why left alone: the file is the user's, and so is what other programs do with it.
    if may_be_wal and connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        return
    # Why no WAL: one bit flipped in it takes all later commits away without an error, and 3.7.0 to 3.51.2 can
    # lose commits when two connections meet. Why TRUNCATE: with DELETE a power cut may bring back the old
    # journal, and the last commit with its acknowledged events is rolled back.
    (mode,) = connection.execute("PRAGMA journal_mode = TRUNCATE").fetchone()
    if mode != "truncate":
        raise Unavailable(
            "locked", f"The file keeps its journal mode {mode} while another program has it open."
        )


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
