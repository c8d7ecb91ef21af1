"""Wiring: which sink keeps the table of member exits, and how it is read."""

from __future__ import annotations

from functools import partial

from gateway.config import Config, MysqlSink, PostgresSink, SqliteSink
from gateway.console import ReadExits
from gateway.errors import ConfigError
from gateway.exits import ExitsQuery, MemberExit

Database = SqliteSink | PostgresSink | MysqlSink


def databases(config: Config) -> dict[str, Database]:
    """Return the sinks that keep such a table, by name; the first is the one that is read by default."""
    kinds = (SqliteSink, PostgresSink, MysqlSink)
    return {key: sink for key, sink in config.sinks.items() if isinstance(sink, kinds) and sink.table is None}


def database(config: Config, name: str | None) -> Database:
    """Return the sink *name*, or the first that keeps such a table; ConfigError when there is none."""
    found = databases(config)
    if name is not None and name not in found:
        raise ConfigError(
            f"--sink: {name!r} is no sqlite, postgres or mysql sink with a table of exits; there are:"
            f" {', '.join(found) or 'none'}"
        )
    if not found:
        raise ConfigError(
            "sinks: exits are kept by a sink of kind sqlite, postgres or mysql without a table of your own,"
            " and none is configured"
        )
    return found[name] if name is not None else next(iter(found.values()))


def readers(config: Config) -> dict[str, ReadExits]:
    """Return what reads the exits of each such sink, by its name."""
    return {name: partial(read_exits, sink) for name, sink in databases(config).items()}


async def read_exits(sink: Database, query: ExitsQuery) -> list[MemberExit]:
    """Return the exits that match *query*, newest first. Raises Unavailable, ConfigError without a driver."""
    # Why imported here: only this kind of sink needs the driver.
    if isinstance(sink, SqliteSink):
        from gateway.sinks.sqlite import read_exits as read_sqlite

        return await read_sqlite(sink, query)
    if isinstance(sink, MysqlSink):
        from gateway.sinks.mysql import read_exits as read_mysql

        return await read_mysql(sink, query)
    from gateway.sinks.postgres import read_exits as read_postgres

    return await read_postgres(sink, query)
