"""A table of the user's own in PostgreSQL: made or completed where needed, and written with one statement."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from gateway.config import PostgresSink
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.heavy import Heavy
from gateway.sinks.batches import Keyed
from gateway.sinks.own_rows import NEWER, Encoder, Mapping, OwnRows, as_json, as_text, check_columns, newest
from gateway.sinks.postgres_schema import Connection, alone

# Why -1 and not the type's modifier: a cast to varchar(9) would cut what does not fit; storing it is refused.
_COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, -1) AS type,
    t.typcategory = 'A' AS is_array, t.typname IN ('json', 'jsonb') AS is_json,
    CASE WHEN t.typname IN ('varchar', 'bpchar') AND a.atttypmod > 0 THEN a.atttypmod - 4 END AS chars,
    a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS is_required
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
"""


class OwnTable:
    """Writes rows as the configuration's ``columns`` say."""

    def __init__(self, config: PostgresSink, name: str) -> None:
        self._mapping = Mapping(config)
        self._heavy = Heavy(f"columns-{name}")
        self._table = ".".join(map(quoted, self._mapping.table.split(".")))
        self._version = quoted(self._mapping.version_column)
        self._sql = ""

    async def prepare(self, connection: Connection) -> None:
        """Make the table, or its version column, where it is missing; look whether the columns are there.

        Raises Unavailable ("no_table") or what asyncpg raises.
        """
        mapping = self._mapping
        found = await connection.fetch(_COLUMNS, self._table)
        if mapping.version_column not in [row["name"] for row in found]:
            async with alone(connection, self._table):
                await connection.execute(self._addition() if found else self._creation())
            found = await connection.fetch(_COLUMNS, self._table)
        types = {row["name"]: row for row in found}
        required = [row["name"] for row in found if row["is_required"]]
        chars = next((row["chars"] for row in found if row["name"] == mapping.version_column), None)
        check_columns(mapping, types, required, chars)
        mapping.encoders = [_encoder(types[name]) for name in mapping.columns]
        self._sql = self._upsert([types[name] for name in (*mapping.columns, mapping.version_column)])
        # Why with nothing in it: what is wrong with rights or key is said now, and not with the first event.
        try:
            await connection.execute(self._sql, *([] for _ in range(len(mapping.columns) + 1)))
        except asyncpg.InvalidColumnReferenceError as error:  # nothing that ON CONFLICT could mean
            raise Unavailable(
                "no_table",
                f"Table {mapping.table} has no unique index on just {', '.join(mapping.key)}. Add one (ALTER"
                f" TABLE {self._table} ADD UNIQUE ({', '.join(map(quoted, mapping.key))})), or change key",
            ) from error

    async def shape(self, events: Sequence[Event]) -> tuple[list[Keyed[OwnRows]], dict[int, Poison]]:
        # Why away from the loop: expressions may take as long as it takes to read the events.
        return await self._heavy.run(sum(len(event.body) for event in events), self._mapping.shape, events)

    def statement(self, rows: Sequence[Keyed[OwnRows]]) -> tuple[str, list[Sequence[object]]]:
        own = newest(rows)
        columns: list[Sequence[object]] = [
            [row.values[place] for row in own] for place in range(len(self._mapping.columns))
        ]
        return self._sql, [*columns, [row.version for row in own]]

    def _creation(self) -> str:
        key = ", ".join(map(quoted, self._mapping.key))
        columns = "".join(f"{quoted(name)} text, " for name in self._mapping.columns)
        return (
            f'CREATE TABLE IF NOT EXISTS {self._table} ({columns}{self._version} text COLLATE "C",'
            f" PRIMARY KEY ({key}))"
        )

    def _addition(self) -> str:
        return f'ALTER TABLE {self._table} ADD COLUMN IF NOT EXISTS {self._version} text COLLATE "C"'

    def _upsert(self, types: Sequence[asyncpg.Record]) -> str:
        names = [quoted(one["name"]) for one in types]
        values = ", ".join(_cast(f"v.c{at}", one) for at, one in enumerate(types, 1))
        arrays = ", ".join(f"${at}::text[]" for at in range(1, len(types) + 1))
        aliases = ", ".join(f"c{at}" for at in range(1, len(types) + 1))
        key = [quoted(name) for name in self._mapping.key]
        changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key)
        newer = NEWER.format(
            old=f'(old.{self._version}::text COLLATE "C")',
            new=f'(excluded.{self._version}::text COLLATE "C")',
        )
        return (
            f"INSERT INTO {self._table} AS old ({', '.join(names)})"  # noqa: S608 - names are quoted
            f" SELECT {values} FROM unnest({arrays}) AS v ({aliases})"
            f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes} WHERE {newer}"
        )


def quoted(name: str) -> str:
    """Return *name* as SQL takes it whatever it is; the configuration lets no quotes through."""
    return f'"{name}"'


def _encoder(column: asyncpg.Record) -> Encoder:
    return as_json if column["is_json"] or column["is_array"] else as_text


def _cast(value: str, column: asyncpg.Record) -> str:
    if not column["is_array"]:
        return f"{value}::{column['type']}"
    return (
        f"CASE WHEN {value} IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text({value}::jsonb)) END"
        f"::{column['type']}"
    )
