"""The mysql sink, for MySQL and MariaDB: a table of events and one of member exits, each event once.

It owns one connection, on a thread of its own, because the driver blocks. Tables: ``mysql_schema``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pymysql

from gateway.config import MysqlSink
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.exits import ExitsQuery, MemberExit
from gateway.sinks import Failures
from gateway.sinks.batches import STATEMENT_BYTES, Keyed, halves, parts, place_of, sorted_by_key
from gateway.sinks.local import OwnThread, Result
from gateway.sinks.mysql_errors import DEADLOCK, is_content, number_of, refused
from gateway.sinks.mysql_link import Link, errors_in_our_words
from gateway.sinks.mysql_rows import write_new
from gateway.sinks.mysql_schema import check_server, has_table, prepare
from gateway.sinks.mysql_table import OwnTable
from gateway.sinks.rows import EXIT_COLUMNS, EventRow, conditions, moment, shape, to_ms

# A deadlock undoes one of two transactions, so each is over after few of them.
_DEADLOCK_TRIES = 10


class _Form(Protocol):
    """Which tables there are, and what becomes of an event there."""

    def prepare(self, link: Link) -> None:
        """Create and migrate what is needed. Raises Unavailable or the driver's errors."""
        ...

    def shape(self, events: Sequence[Event]) -> tuple[list[Keyed[Any]], dict[int, Poison]]:
        """Return what is to be written, in an order that all workers keep, and what can't be."""
        ...

    def write(self, link: Link, rows: Sequence[Keyed[Any]]) -> None:
        """Write *rows* and commit. Raises the driver's errors; then the caller has to roll back."""
        ...


class EventTables:
    """The tables of events and of member exits."""

    def __init__(self, config: MysqlSink) -> None:
        self._prefix = config.table_prefix

    def prepare(self, link: Link) -> None:
        prepare(link, self._prefix)

    def shape(self, events: Sequence[Event]) -> tuple[list[Keyed[EventRow]], dict[int, Poison]]:
        rows, failures = shape(events)
        return sorted_by_key(rows), failures

    def write(self, link: Link, rows: Sequence[Keyed[EventRow]]) -> None:
        write_new(link, self._prefix, rows)


class Mysql:
    """``<prefix>events`` has every event, ``<prefix>member_exits`` a row per member that left.

    With ``table`` in its configuration there is that one alone: a table of the user's own.
    """

    def __init__(self, config: MysqlSink, name: str) -> None:
        self._config = config
        self._name = name
        self._where = place_of(config.dsn)
        self._thread = OwnThread(f"sink-{name}")
        self._form: _Form = EventTables(config) if config.table is None else OwnTable(config)
        self._link: Link | None = None

    async def open(self) -> None:
        """Connect; create and migrate the tables where needed.

        Raises Unavailable with a reason of ``mysql_errors`` or ``mysql_schema``, or "tls_files".
        """
        await self._run(self._open)

    async def write(self, events: Sequence[Event]) -> Failures:
        """Write *events*; those that stand there already change nothing.

        What the server refuses for its content comes back as Poison("refused_by_database"). Raises
        Unavailable; a part of a large batch may be written then, and is no obstacle when it comes again.
        """
        return await self._run(lambda: self._write(events))

    async def close(self) -> None:
        """Close the connection, in order where the server answers."""
        await self._thread.end(self._drop)

    async def _run(self, work: Callable[[], Result]) -> Result:
        try:
            return await self._thread.run(work)
        except asyncio.CancelledError:
            # Why: nobody waits for the server any more, and the thread is needed for what comes next.
            if (link := self._link) is not None:
                link.cut()
            raise

    def _open(self) -> None:
        if self._link is not None and self._link.is_usable:
            return
        with self._dropped_after_failure():
            self._drop()
            self._link = Link(self._config, f"im-callback-gateway {self._name}")
            check_server(self._link)
            self._form.prepare(self._link)

    def _write(self, events: Sequence[Event]) -> dict[int, Poison]:
        link = self._link
        if link is None:
            raise Unavailable("not_open", f"MySQL {self._where}: not connected.")
        rows, failures = self._form.shape(events)
        with self._dropped_after_failure():
            # Why half: quotes and line breaks take two characters in a statement.
            for part in parts(rows, min(STATEMENT_BYTES, link.most_bytes // 2)):
                self._write_part(link, part, failures)
        return failures

    def _write_part(self, link: Link, part: list[Keyed[Any]], failures: dict[int, Poison]) -> None:
        """Write *part*; halve it until the rows that the server refuses stand alone in *failures*."""
        waiting = [part]
        while waiting:
            rows = waiting.pop()
            try:
                self._write_rows(link, rows)
            except (pymysql.err.Error, UnicodeError) as error:
                if not is_content(error):
                    raise
                link.rollback()
                if len(rows) == 1:
                    failures.update(dict.fromkeys(rows[0].indexes, refused(error)))
                else:
                    waiting += halves(rows)

    def _write_rows(self, link: Link, rows: list[Keyed[Any]]) -> None:
        for left in reversed(range(_DEADLOCK_TRIES)):
            try:
                return self._form.write(link, rows)
            except pymysql.err.Error as error:
                if number_of(error) != DEADLOCK or not left:
                    raise
                link.rollback()
        return None

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    @contextmanager
    def _dropped_after_failure(self) -> Iterator[None]:
        # Why: after a failure nobody knows where the connection stands.
        try:
            with errors_in_our_words(self._where):
                yield
        except BaseException:
            self._drop()
            raise


async def read_exits(config: MysqlSink, query: ExitsQuery) -> list[MemberExit]:
    """Return the exits that match *query*, newest first, read-only. Raises Unavailable."""
    return await asyncio.to_thread(_read_exits, config, query)


def _read_exits(config: MysqlSink, query: ExitsQuery) -> list[MemberExit]:
    table, where = f"{config.table_prefix}member_exits", place_of(config.dsn)
    pairs = conditions(query, moment)
    terms = " AND ".join(f"{term} %s" for term, _ in pairs) or "TRUE"
    sql = f"""SELECT {EXIT_COLUMNS}
        FROM {table} WHERE {terms} ORDER BY time DESC, source, event_id, member_no LIMIT %s"""  # noqa: S608 - values are parameters
    with errors_in_our_words(where):
        link = Link(config, "im-callback-gateway exits")
        try:
            link.run("START TRANSACTION READ ONLY")
            if not has_table(link, table):
                raise Unavailable("no_table", f"No worker has written to {table} in MySQL {where} yet.")
            found = link.rows(sql, (*(value for _, value in pairs), query.limit))
        finally:
            link.close()
    return [MemberExit(*(*row[:-1], to_ms(row[-1]))) for row in found]
