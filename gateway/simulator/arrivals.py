"""Reads what a sink has, read-only and without the sink's own code, so that the proof does not rest on it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from gateway.config import JsonlSink, MysqlSink, PostgresSink, RedisSink, SinkBase, SqliteSink
from gateway.errors import ConfigError, Unavailable
from gateway.event import parse_json
from gateway.simulator.lines import LineFiles

if TYPE_CHECKING:
    import pymysql

_EVENT_DEPTH = 128
_BUSY_TIMEOUT_S = 5.0
_DATABASE_TIMEOUT_S = 30.0
_PAGE_ENTRIES = 1000


@dataclass(frozen=True, slots=True)
class Arrival:
    """One row or line of a sink, or one event of its queue."""

    id: str
    source: str
    recorded: str
    """``recordedtime``, ISO 8601 in UTC."""


class Arrivals(Protocol):
    """What came to one sink since the last look; keeps where it stopped reading. One class a kind of sink."""

    async def new(self) -> list[Arrival]:
        """Return the rows not returned before. Raises Unavailable when the sink can't be read."""
        ...


def arrivals_of(sink: SinkBase) -> Arrivals:
    """Return the reader for *sink*; ConfigError where what arrived can't be read back."""
    match sink:
        case JsonlSink():
            return _Lines(sink.path)
        case SqliteSink(table=None):
            return _SqliteRows(sink.path)
        case PostgresSink(table=None):
            return _PostgresRows(sink)
        case MysqlSink(table=None):
            return _MysqlRows(sink)
        case RedisSink():
            return _RedisEntries(sink)
    raise ConfigError("--sink: what came to a sink of this kind stands elsewhere; name one of another kind")


def arrival_of(body: bytes) -> Arrival | None:
    """Return the event in *body*, None when it is none of ours."""
    try:
        event = parse_json(body, _EVENT_DEPTH)
    except ValueError:
        return None
    identity, source, recorded = event.get("id"), event.get("source"), event.get("recordedtime", "")
    if isinstance(identity, str) and isinstance(source, str) and isinstance(recorded, str):
        return Arrival(identity, source, recorded)
    return None


class _Lines:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = LineFiles(path)

    async def new(self) -> list[Arrival]:
        found: list[Arrival] = []

        def take(line: bytes) -> None:
            arrival = arrival_of(line)
            if arrival is not None:
                found.append(arrival)

        try:
            await asyncio.to_thread(self._files.read, take)
        except OSError as error:
            if not found:  # else what was read counts, and the next look says it again
                raise Unavailable("no_file", f"{self._path}: {error.strerror}") from error
        return found


class _SqliteRows:
    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._seq = 0

    async def new(self) -> list[Arrival]:
        return await asyncio.to_thread(self._new)

    def _new(self) -> list[Arrival]:
        if not self._path.exists():
            return []
        try:
            with closing(
                sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT_S)
            ) as connection:
                if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone() is None:
                    return []
                rows = connection.execute(
                    "SELECT seq, id, source, recordedtime FROM events WHERE seq > ? ORDER BY seq",
                    (self._seq,),
                ).fetchall()
        except sqlite3.Error as error:
            raise Unavailable("unreadable", f"{self._path}: {error}") from error
        if rows:
            self._seq = rows[-1][0]
        return [Arrival(row[1], row[2], row[3] or "") for row in rows]


class _PostgresRows:
    def __init__(self, sink: PostgresSink) -> None:
        self._sink = sink
        self._seen: set[tuple[str, str]] = set()

    async def new(self) -> list[Arrival]:
        # Why imported here: only this kind of sink needs the driver.
        import asyncpg

        table = f"{self._sink.table_prefix}events"
        try:
            connection = await asyncpg.connect(
                self._sink.dsn.get_secret_value(),
                timeout=_DATABASE_TIMEOUT_S,
                command_timeout=_DATABASE_TIMEOUT_S,
            )
            try:
                if await connection.fetchval("SELECT to_regclass($1)", table) is None:
                    return []
                sql = f"SELECT source, id, coalesce(event->>'recordedtime', '') AS recorded FROM {table}"  # noqa: S608 - the prefix is checked
                rows = await connection.fetch(sql)
            finally:
                await connection.close(timeout=_DATABASE_TIMEOUT_S)
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # Why no text: it may quote a part of the DSN.
            raise Unavailable("unreadable", f"PostgreSQL can't be read ({type(error).__name__})") from error
        fresh = [row for row in rows if (row["source"], row["id"]) not in self._seen]
        self._seen.update((row["source"], row["id"]) for row in fresh)
        return [Arrival(row["id"], row["source"], row["recorded"]) for row in fresh]


class _RedisEntries:
    def __init__(self, sink: RedisSink) -> None:
        self._sink = sink
        self._last = "-"

    async def new(self) -> list[Arrival]:
        # Why imported here: only this kind of sink needs the driver.
        from redis.asyncio import Redis
        from redis.exceptions import RedisError

        client = Redis.from_url(self._sink.url.get_secret_value(), socket_timeout=_DATABASE_TIMEOUT_S)
        if self._sink.tls_ca is not None:
            client.connection_pool.connection_kwargs["ssl_ca_certs"] = str(self._sink.tls_ca)
        bodies: list[bytes] = []
        try:
            while entries := await client.xrange(self._sink.stream, min=self._last, count=_PAGE_ENTRIES):
                self._last = f"({entries[-1][0].decode()}"  # type: ignore[union-attr]
                bodies += (fields[b"event"] for _, fields in entries)  # type: ignore[index, misc]
        except (OSError, KeyError, RedisError) as error:
            raise Unavailable("unreadable", f"Redis can't be read ({type(error).__name__})") from error
        finally:
            await client.aclose()
        return [found for body in bodies if (found := arrival_of(body)) is not None]


class _MysqlRows:
    def __init__(self, sink: MysqlSink) -> None:
        self._sink = sink
        self._seen: set[tuple[str, str]] = set()

    async def new(self) -> list[Arrival]:
        return await asyncio.to_thread(self._new)

    def _new(self) -> list[Arrival]:
        # Why imported here: only this kind of sink needs the driver.
        import pymysql

        table = f"{self._sink.table_prefix}events"
        try:
            with _mysql(self._sink) as connection, connection.cursor() as cursor:
                cursor.execute("SHOW TABLES LIKE %s", (table,))
                if not cursor.fetchall():
                    return []
                cursor.execute(f"SELECT source, id, recordedtime FROM {table}")  # noqa: S608 - the prefix is checked
                rows = cursor.fetchall()
        except (OSError, ValueError, pymysql.err.MySQLError) as error:
            # Why no text: it may quote a part of the DSN.
            raise Unavailable("unreadable", f"MySQL can't be read ({type(error).__name__})") from error
        fresh = [row for row in rows if (row[0], row[1]) not in self._seen]
        self._seen.update((row[0], row[1]) for row in fresh)
        # All times of the table are UTC.
        return [
            Arrival(row[1], row[0], f"{row[2].isoformat(timespec='milliseconds')}Z" if row[2] else "")
            for row in fresh
        ]


def _mysql(sink: MysqlSink) -> pymysql.Connection[pymysql.cursors.Cursor]:
    import pymysql

    url = urlsplit(sink.dsn.get_secret_value())
    files = {"ssl_ca": sink.tls_ca, "ssl_cert": sink.tls_cert, "ssl_key": sink.tls_key}
    tls: dict[str, Any] = {name: str(path) for name, path in files.items() if path is not None}
    return pymysql.connect(
        host=url.hostname, port=url.port or 3306, user=unquote(url.username or ""),
        password=unquote(url.password or ""), database=unquote(url.path[1:]),
        connect_timeout=_DATABASE_TIMEOUT_S, read_timeout=_DATABASE_TIMEOUT_S,
        ssl_disabled=sink.tls == "never", **tls,
    )  # fmt: skip
