"""The tables of the postgres sink, and how an older database gets them. Several workers may come at once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg

from gateway.errors import Unavailable

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
# What migrating may wait for: another worker that migrates, or someone's long transaction on the tables.
_LOCK_TIMEOUT_MS = 10_000
_log = logging.getLogger(__name__)
# Each step takes the database from version n to n + 1; "{p}" is the prefix. Steps only add: rows stay.
_STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE IF NOT EXISTS {p}schema_version (
            version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now()
        )""",
        """CREATE TABLE IF NOT EXISTS {p}events (
            source text NOT NULL, id text NOT NULL, type text NOT NULL, subject text,
            time timestamptz, recordedtime timestamptz,
            app_id text NOT NULL, partitionkey text, position text,
            event jsonb NOT NULL,
            inserted_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (source, id)
        )""",
        "CREATE INDEX IF NOT EXISTS {p}events_type_time ON {p}events (type, time)",
        """CREATE TABLE IF NOT EXISTS {p}member_exits (
            source text NOT NULL, event_id text NOT NULL, member_no integer NOT NULL,
            app_id text NOT NULL, group_id text NOT NULL, group_type text, member text NOT NULL,
            operator text, exit_type text, time timestamptz NOT NULL,
            PRIMARY KEY (source, event_id, member_no)
        )""",
        "CREATE INDEX IF NOT EXISTS {p}member_exits_time ON {p}member_exits (time)",
        "CREATE INDEX IF NOT EXISTS {p}member_exits_group ON {p}member_exits (group_id, time)",
        "CREATE INDEX IF NOT EXISTS {p}member_exits_member ON {p}member_exits (member, time)",
        "CREATE INDEX IF NOT EXISTS {p}member_exits_operator ON {p}member_exits (operator, time)",
    ),
)
SCHEMA_VERSION = len(_STEPS)


async def prepare(connection: Connection, prefix: str) -> None:
    """Bring the tables to ``SCHEMA_VERSION``; where they are, no right but to read the version is needed.

    Raises Unavailable("newer_schema") or what asyncpg raises.
    """
    if await _version(connection, prefix) == SCHEMA_VERSION:
        return
    async with alone(connection, prefix):
        for step in _STEPS[await _version(connection, prefix) :]:
            for statement in step:
                await connection.execute(statement.format(p=prefix))
        await connection.execute(
            f"INSERT INTO {prefix}schema_version (version) VALUES ($1) ON CONFLICT DO NOTHING",  # noqa: S608 - checked
            SCHEMA_VERSION,
        )


async def check_server(connection: Connection) -> None:
    """Warn of a server that may lose commits. Raises Unavailable("encoding") where it would refuse text."""
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":  # Why: it would refuse event after event, and all of them would be parked
        raise Unavailable("encoding", f"The database's encoding is {encoding}; create one with UTF8.")
    if await connection.fetchval("SHOW synchronous_commit") == "off":
        _log.warning(
            "The database has synchronous_commit off: acked events are lost when its server crashes."
        )


@asynccontextmanager
async def alone(connection: Connection, name: str) -> AsyncIterator[None]:
    """Hold a transaction that no other worker has for *name* at the same time."""
    # Why read committed: what is read behind the lock must be what the last holder committed.
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _lock_key(name))
        yield


async def _version(connection: Connection, prefix: str) -> int:
    if await connection.fetchval("SELECT to_regclass($1)", f"{prefix}schema_version") is None:
        return 0
    version = await connection.fetchval(f"SELECT max(version) FROM {prefix}schema_version") or 0  # noqa: S608
    if version > SCHEMA_VERSION:
        raise Unavailable(
            "newer_schema",
            f"{prefix}schema_version is {version}, this gateway knows {SCHEMA_VERSION}: a newer gateway made"
            " the tables. Upgrade this one, or choose another table_prefix",
        )
    return int(version)


def _lock_key(name: str) -> int:
    digest = hashlib.sha256(f"im-callback-gateway {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
