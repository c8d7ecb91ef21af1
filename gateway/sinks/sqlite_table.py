"""A table of the user's own in a SQLite file: made or completed where needed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from gateway.config import SqliteSink
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.sinks.own_rows import NEWER, Mapping, as_value, check_columns, newest
from gateway.sinks.sqlite_schema import transaction


class OwnTable:
    """Writes rows as the configuration's ``columns`` say."""

    def __init__(self, config: SqliteSink, path: Path) -> None:
        self._mapping = Mapping(config)
        self._mapping.encoders = [as_value] * len(self._mapping.columns)
        self._path = path
        self._table = ".".join(map(_quoted, self._mapping.table.split(".")))
        self._version = _quoted(self._mapping.version_column)
        self._sql = self._upsert()

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Make the table, or its version column, where it is missing; look whether the columns are there.

        Raises Unavailable("no_table") or sqlite3's errors.
        """
        mapping = self._mapping
        if mapping.version_column not in _found(connection, mapping.table):
            with transaction(connection):
                found = _found(connection, mapping.table)
                if mapping.version_column not in found:
                    connection.execute(self._addition() if found else self._creation())
        found = _found(connection, mapping.table)
        check_columns(mapping, found, [name for name, is_required in found.items() if is_required], None)
        try:
            connection.execute(f"EXPLAIN {self._sql}", [None] * (len(mapping.columns) + 1))
        except sqlite3.OperationalError as error:
            raise Unavailable(
                "no_table",
                f"{self._path}: table {mapping.table} is not one to write to by {', '.join(mapping.key)}"
                f" ({error}). It needs a unique index on just these",
            ) from error

    def write(self, connection: sqlite3.Connection, events: Sequence[Event]) -> dict[int, Poison]:
        units, failures = self._mapping.shape(events)
        for unit in units:
            connection.execute("SAVEPOINT event")
            try:
                connection.executemany(self._sql, [(*row.values, row.version) for row in newest([unit])])
            except (sqlite3.DataError, sqlite3.IntegrityError, UnicodeError, OverflowError) as error:
                connection.execute("ROLLBACK TO event")
                poison = Poison(
                    "refused_by_database", getattr(error, "sqlite_errorname", type(error).__name__)
                )
                failures.update(dict.fromkeys(unit.indexes, poison))
            connection.execute("RELEASE event")
        return failures

    def _creation(self) -> str:
        key = ", ".join(map(_quoted, self._mapping.key))
        needs = dict.fromkeys(self._mapping.key, " NOT NULL")
        columns = "".join(f"{_quoted(name)}{needs.get(name, '')}, " for name in self._mapping.columns)
        return f"CREATE TABLE {self._table} ({columns}{self._version} TEXT, PRIMARY KEY ({key}))"

    def _addition(self) -> str:
        return f"ALTER TABLE {self._table} ADD COLUMN {self._version} TEXT"

    def _upsert(self) -> str:
        names = [_quoted(name) for name in (*self._mapping.columns, self._mapping.version_column)]
        key = [_quoted(name) for name in self._mapping.key]
        changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key)
        newer = NEWER.format(old=f"old.{self._version}", new=f"excluded.{self._version}")
        return (
            f"INSERT INTO {self._table} AS old ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - names are quoted
            f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes} WHERE {newer}"
        )


def _found(connection: sqlite3.Connection, table: str) -> dict[str, bool]:
    """Return the columns of *table*, and whether each needs a value."""
    schema, _, name = table.rpartition(".")
    rows = connection.execute(
        'SELECT name, "notnull" AND dflt_value IS NULL AND NOT pk FROM pragma_table_info(?, ?)',
        (name, schema or "main"),
    )
    return {column: bool(is_required) for column, is_required in rows}


def _quoted(name: str) -> str:
    """Return *name* as SQL takes it whatever it is; the configuration lets no quotes through."""
    return f'"{name}"'
