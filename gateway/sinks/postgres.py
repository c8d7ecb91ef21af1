"""The postgres sink: a table of events and one of member exits, each event once, a batch in one statement.

It owns one connection. Tables and their versions: ``postgres_schema``; errors: ``postgres_errors``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import asyncpg

from gateway.config import PostgresSink
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.exits import ExitsQuery, MemberExit
from gateway.sinks import Failures
from gateway.sinks.batches import Keyed, halves, parts, place_of, sorted_by_key
from gateway.sinks.postgres_errors import is_content, refused, unavailable
from gateway.sinks.postgres_rows import INSERT, columns
from gateway.sinks.postgres_schema import Connection, check_server, prepare
from gateway.sinks.postgres_table import OwnTable
from gateway.sinks.rows import EXIT_COLUMNS, EventRow, conditions, moment, shape, to_ms

_CONNECT_TIMEOUT_S = 10.0


class _Form(Protocol):
    """Which tables there are, and what becomes of an event there."""

    async def prepare(self, connection: Connection) -> None:
        """Create and migrate what is needed. Raises Unavailable or what asyncpg raises."""
        ...

    async def shape(self, events: Sequence[Event]) -> tuple[list[Keyed[Any]], dict[int, Poison]]:
        """Return what is to be written, in an order that all workers keep, and what can't be."""
        ...

    def statement(self, rows: Sequence[Keyed[Any]]) -> tuple[str, list[Sequence[object]]]:
        """Return the one statement that writes *rows*, and its arguments."""
        ...


class EventTables:
    """The tables of events and of member exits."""

    def __init__(self, config: PostgresSink) -> None:
        self._prefix = config.table_prefix
        self._insert = INSERT.format(p=config.table_prefix)

    async def prepare(self, connection: Connection) -> None:
        await prepare(connection, self._prefix)

    async def shape(self, events: Sequence[Event]) -> tuple[list[Keyed[EventRow]], dict[int, Poison]]:
        rows, failures = shape(events)
        return sorted_by_key(rows), failures

    def statement(self, rows: Sequence[Keyed[EventRow]]) -> tuple[str, list[Sequence[object]]]:
        return self._insert, columns([keyed.row for keyed in rows])


class Postgres:
    """``<prefix>events`` has every event, ``<prefix>member_exits`` a row per member that left.

    With ``table`` in its configuration there is that one alone: a table of the user's own.
    """

    def __init__(self, config: PostgresSink, name: str) -> None:
        self._config = config
        self._name = name
        self._where = place_of(config.dsn)
        self._form: _Form = EventTables(config) if config.table is None else OwnTable(config, name)
        self._connection: Connection | None = None

    async def open(self) -> None:
        """Connect; create and migrate the tables where needed.

        Raises Unavailable with a reason of ``postgres_errors`` or ``postgres_schema``.
        """
        if self._connection is not None and not self._connection.is_closed():
            return
        with self._dropped_after_failure():
            self._connection = await _connect(self._config, f"im-callback-gateway {self._name}")
            await check_server(self._connection)
            await self._form.prepare(self._connection)

    async def write(self, events: Sequence[Event]) -> Failures:
        """Write *events*; those that stand there already change nothing.

        What the server refuses for its content comes back as Poison("refused_by_database"). Raises
        Unavailable; a part of a large batch may be written then, and is no obstacle when it comes again.
        """
        connection = self._connection
        if connection is None:
            raise Unavailable("not_open", f"PostgreSQL {self._where}: not connected.")
        rows, failures = await self._form.shape(events)
        with self._dropped_after_failure():
            for part in parts(rows):
                await self._write_part(connection, part, failures)
        return failures

    async def close(self) -> None:
        """Close the connection, in order where the server answers."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await _disconnect(connection)

    async def _write_part(
        self, connection: Connection, part: list[Keyed[Any]], failures: dict[int, Poison]
    ) -> None:
        """Write *part*; halve it until the rows that the server refuses stand alone in *failures*."""
        waiting = [part]
        while waiting:
            rows = waiting.pop()
            try:
                sql, values = self._form.statement(rows)
                await connection.execute(sql, *values)
            except asyncpg.PostgresError as error:
                if not is_content(error):
                    raise
                if len(rows) == 1:
                    failures.update(dict.fromkeys(rows[0].indexes, refused(error)))
                else:
                    waiting += halves(rows)

    @contextmanager
    def _dropped_after_failure(self) -> Iterator[None]:
        # Why: after a failure, or when the caller stopped waiting, nobody knows where the connection stands.
        try:
            with _errors_in_our_words(self._where):
                yield
        except BaseException:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.terminate()
            raise


async def read_exits(config: PostgresSink, query: ExitsQuery) -> list[MemberExit]:
    """Return the exits that match *query*, newest first, read-only. Raises Unavailable."""
    table = f"{config.table_prefix}member_exits"
    pairs = conditions(query, moment)
    where = " AND ".join(f"{term} ${number}" for number, (term, _) in enumerate(pairs, 1)) or "TRUE"
    sql = f"""SELECT {EXIT_COLUMNS}
        FROM {table} WHERE {where} ORDER BY time DESC, source, event_id, member_no LIMIT {query.limit:d}"""  # noqa: S608 - values are parameters
    with _errors_in_our_words(place_of(config.dsn)):
        connection = await _connect(config, "im-callback-gateway exits")
        try:
            async with connection.transaction(readonly=True):
                if await connection.fetchval("SELECT to_regclass($1)", table) is None:
                    raise Unavailable(
                        "no_table",
                        f"No worker has written to {table} in PostgreSQL {place_of(config.dsn)} yet.",
                    )
                found = await connection.fetch(sql, *(value for _, value in pairs))
        finally:
            await _disconnect(connection)
    return [MemberExit(*(*row[:-1], to_ms(row["time"]))) for row in found]


async def _connect(config: PostgresSink, program: str) -> Connection:
    # Why no timeouts in server_settings: poolers such as PgBouncer refuse parameters that they do not know.
    try:
        return await asyncpg.connect(
            config.dsn.get_secret_value(),
            timeout=min(_CONNECT_TIMEOUT_S, config.write_timeout_s),
            command_timeout=config.write_timeout_s,
            server_settings={"application_name": program[:63]},
        )
    except OSError:
        raise  # Why: a certificate that can't be verified is a ValueError too
    except ValueError as error:
        # Why no message: it may quote a part of the password as the port, say.
        raise Unavailable(
            "unreachable",
            f"PostgreSQL {place_of(config.dsn)}: the DSN is not usable; its form is postgresql://…",
        ) from error


async def _disconnect(connection: Connection) -> None:
    try:
        await connection.close(timeout=_CONNECT_TIMEOUT_S)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()


@contextmanager
def _errors_in_our_words(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise unavailable(error, where) from error
