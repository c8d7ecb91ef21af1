"""The tables of the sqlite sink, and how an older file gets them. The version stands in ``user_version``."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import Unavailable

# Each step takes the file from version n to n + 1. Steps only add: rows and columns stay.
_STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE IF NOT EXISTS events (
            seq INTEGER PRIMARY KEY,
            source TEXT NOT NULL, id TEXT NOT NULL, type TEXT NOT NULL, subject TEXT,
            time TEXT, recordedtime TEXT,
            app_id TEXT NOT NULL, partitionkey TEXT, position TEXT,
            event TEXT NOT NULL,
            inserted_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
            UNIQUE (source, id)
        )""",
        "CREATE INDEX IF NOT EXISTS events_type_time ON events (type, time)",
        """CREATE TABLE IF NOT EXISTS member_exits (
            source TEXT NOT NULL, event_id TEXT NOT NULL, member_no INTEGER NOT NULL,
            app_id TEXT NOT NULL, group_id TEXT NOT NULL, group_type TEXT, member TEXT NOT NULL,
            operator TEXT, exit_type TEXT, time TEXT NOT NULL,
            UNIQUE (source, event_id, member_no)
        )""",
        "CREATE INDEX IF NOT EXISTS member_exits_time ON member_exits (time)",
        "CREATE INDEX IF NOT EXISTS member_exits_group ON member_exits (group_id, time)",
        "CREATE INDEX IF NOT EXISTS member_exits_member ON member_exits (member, time)",
        "CREATE INDEX IF NOT EXISTS member_exits_operator ON member_exits (operator, time)",
    ),
)
SCHEMA_VERSION = len(_STEPS)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to ``SCHEMA_VERSION``, in one transaction. Raises Unavailable("newer_schema")."""
    if _version(connection, path) == SCHEMA_VERSION:
        return
    with transaction(connection):
        # Again, under the lock: another worker may have done it meanwhile.
        for step in _STEPS[_version(connection, path) :]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise Unavailable(
            "newer_schema",
            f"{path} has schema version {version}, this gateway knows {SCHEMA_VERSION}: a newer gateway or"
            " another program made it. Upgrade this one, or name another file",
        )
    return version


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what happens inside, or roll it back when it raises."""
    connection.execute("BEGIN IMMEDIATE")  # Why IMMEDIATE: a second writer waits here, not in the middle
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
