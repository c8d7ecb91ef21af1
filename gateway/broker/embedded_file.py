"""The embedded broker's SQLite file: its schema and version, its transactions, and what each error means.

Blocking, for one thread. It knows no queues.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.errors import Unavailable

FORMAT = 2
"""Kept in the file as user_version; a file with a higher one was written by a newer release."""
APPLICATION_ID = 0x494D4342  # "IMCB"

BUSY_TIMEOUT_S = 5.0
TURN_POLL_S = 0.001

# Why TRUNCATE with FULL: truncating the journal is the commit, and only this pair syncs it. With DELETE and
# FULL a power cut may bring the journal back and undo what was confirmed (SQLite: pager_end_transaction).
# Why not WAL: one damaged byte in it silently takes away every commit behind it.
CONNECTION: tuple[str, ...] = ("PRAGMA journal_mode = TRUNCATE", "PRAGMA synchronous = FULL")

_SCHEMA = (
    "CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, message_id TEXT NOT NULL,"
    " routing_key TEXT NOT NULL, partition_key TEXT NOT NULL, body BLOB NOT NULL)",
    # Why AUTOINCREMENT: a consumer reads on behind the last place it saw, so none may be used twice.
    "CREATE TABLE deliveries (place INTEGER PRIMARY KEY AUTOINCREMENT, sink TEXT NOT NULL,"
    " seq INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'retry', 'dead')),"
    " attempt INTEGER NOT NULL DEFAULT 1, not_before_ms INTEGER NOT NULL DEFAULT 0, reason TEXT,"
    " parked_ms INTEGER)",
    "CREATE INDEX deliveries_in_order ON deliveries (sink, state, place)",
    "CREATE INDEX deliveries_of_event ON deliveries (seq)",
    "CREATE INDEX deliveries_due ON deliveries (sink, not_before_ms) WHERE state = 'retry'",
    "CREATE TABLE unrouted (seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, size_bytes INTEGER NOT NULL,"
    " start_byte INTEGER NOT NULL)",
    "CREATE INDEX unrouted_by_age ON unrouted (at_ms)",
    "CREATE INDEX unrouted_by_start ON unrouted (start_byte)",
    "CREATE TABLE totals (dropped INTEGER NOT NULL)",
    "INSERT INTO totals VALUES (0)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    "PRAGMA user_version = 1",
)
_TO_FORMAT_2 = (
    "ALTER TABLE deliveries ADD COLUMN history TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE deliveries ADD COLUMN is_routed INTEGER NOT NULL DEFAULT 0",
    "PRAGMA user_version = 2",
)


class File:
    """The open file; opened at the first use and again after each error."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._db: sqlite3.Connection | None = None
        self._turn_file = -1
        self._identity: tuple[int, int] | None = None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, committed at the end of the block and on disk then; Unavailable when it is not."""
        with self._using() as db:
            with self._turn():
                db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the open file; Unavailable when it can't be used."""
        with self._using() as db, self._turn():
            yield db

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._opened()
        except BaseException as error:
            # Why close: it rolls back, and after a failed write only a new connection knows what is on disk.
            self.close()
            # Damage comes as the plain class; its other subclasses are faults of the caller or of ours.
            if isinstance(error, (sqlite3.OperationalError, OSError)) or type(error) is sqlite3.DatabaseError:
                raise _explain(error, self._path) from error
            raise

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Hold back other processes until this one has the file.

        SQLite's lock goes to whoever happens to ask when it is free, so a busy process starves the others:
        acknowledgements took 1.6 s beside one that publishes. Who waits for SQLite's lock now holds this one,
        and the busy process must get it first: 2 to 12 ms.
        """
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                fcntl.flock(self._turn_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise _locked(self._path) from None
                time.sleep(TURN_POLL_S)
        try:
            yield
        finally:
            fcntl.flock(self._turn_file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file; what was not committed is rolled back."""
        if self._db is not None:
            db, self._db = self._db, None
            with suppress(sqlite3.Error):  # Why: closing follows an error, which is the one to be told
                db.close()
        if self._turn_file >= 0:
            os.close(self._turn_file)
            self._turn_file = -1

    def _opened(self) -> sqlite3.Connection:
        if self._identity is None:
            _create(self._path)
            self._identity = _identity(self._path)
        # Why each time: SQLite would go on writing into a deleted file, and confirm what nobody can read.
        if _identity(self._path) != self._identity:
            raise Unavailable(
                "io_error",
                f"{self._path} was moved, deleted or replaced while in use. Put it back, or stop all"
                " processes that use it and start again with what stands there",
            )
        if self._db is None:
            self._connect()
        assert self._db is not None
        return self._db

    def _connect(self) -> None:
        turn_path = self._path.with_name(f"{self._path.name}.turn")
        self._turn_file = os.open(turn_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._db = sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
        )
        with self._turn():
            for pragma in CONNECTION:
                self._db.execute(pragma)
            _prepare(self._db, self._path)


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Create or change the tables where needed; raise Unavailable when the file is none that we can use."""
    if _version(db, path) == FORMAT:
        return
    db.execute("BEGIN IMMEDIATE")
    # Why again: another process may have done it while this one waited for its turn.
    for statements in (_SCHEMA, _TO_FORMAT_2)[_version(db, path) :]:
        for statement in statements:
            db.execute(statement)
    db.execute("COMMIT")


def _version(db: sqlite3.Connection, path: Path) -> int:
    """Return the format of the file, 0 where it is empty."""
    [(version,)] = db.execute("PRAGMA user_version")
    [(application,)] = db.execute("PRAGMA application_id")
    [(tables,)] = db.execute("SELECT count(*) FROM sqlite_master")
    if tables == 0 and version == 0:
        return 0
    if application != APPLICATION_ID:
        raise Unavailable(
            "foreign_file",
            f"{path} is a SQLite file of another program; it was left as it is. Name another in broker.url",
        )
    if version > FORMAT:
        raise Unavailable(
            "newer_format",
            f"{path} has format {version}, this release knows {FORMAT}: a newer gateway wrote it. Nothing was"
            " changed; use that release, or name another file in broker.url",
        )
    return int(version)


def _explain(error: Exception, path: Path) -> Unavailable:
    """Return what *error* means for whoever uses the file at *path*, and what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return Unavailable(
            "disk_full", f"the disk of {path} is full; nothing is lost, it goes on once there is room"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return _locked(path)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Unavailable(
            "damaged",
            f"{path} is damaged ({error}). Stop all processes that use it and move it away: the gateway then"
            " begins a new one, and sqlite3's .recover gets events out of the old one",
        )
    return Unavailable("io_error", f"{path} can't be used: {error}")


def _locked(path: Path) -> Unavailable:
    return Unavailable("locked", f"{path} is held by another process; if it stays so, find it with fuser")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _create(path: Path) -> None:
    """Create *path* and its folders unless they exist; the file is readable only by its owner."""
    parents = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for folder in (path.parent, *(folder.parent for folder in parents)):
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    # Why: without it a power cut may take away the file itself, with all that was confirmed.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
