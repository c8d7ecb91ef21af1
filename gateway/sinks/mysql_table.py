"""A table of the user's own in MySQL: made or completed where needed, and written with one statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from gateway.config import MysqlSink
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.exits import iso_to_ms
from gateway.sinks.batches import Keyed
from gateway.sinks.mysql_link import Link
from gateway.sinks.mysql_schema import alone, exact_collation
from gateway.sinks.own_rows import (
    NEWER,
    VERSION_CHARS,
    Encoder,
    Mapping,
    OwnRows,
    as_json,
    as_value,
    check_columns,
    newest,
)
from gateway.sinks.rows import moment

_TIMES = frozenset(("date", "datetime", "timestamp"))
_MAX_KEY_CHARS = 767  # InnoDB's 3,072 bytes for an index entry, at 4 bytes a character
_VERSION_TYPE = f"varchar({VERSION_CHARS}) CHARACTER SET ascii COLLATE ascii_bin"
_COLUMNS = """
SELECT column_name, data_type, character_maximum_length,
    is_nullable = 'NO' AND column_default IS NULL AND extra NOT LIKE '%%auto_increment%%'
    AND extra NOT LIKE '%%GENERATED%%'
FROM information_schema.columns WHERE table_schema = COALESCE(%s, DATABASE()) AND table_name = %s
ORDER BY ordinal_position
"""
_UNIQUE = """
SELECT index_name, column_name, sub_part
FROM information_schema.statistics
WHERE table_schema = COALESCE(%s, DATABASE()) AND table_name = %s AND non_unique = 0
"""


class _Column(NamedTuple):
    type: str
    chars: int | None
    is_required: bool


class OwnTable:
    """Writes rows as the configuration's ``columns`` say."""

    def __init__(self, config: MysqlSink) -> None:
        self._mapping = Mapping(config)
        schema, _, table = self._mapping.table.rpartition(".")
        self._place = (schema or None, table)
        self._table = ".".join(map(_quoted, self._mapping.table.split(".")))
        self._head, self._tail = self._upsert()

    def prepare(self, link: Link) -> None:
        """Make the table, or its version column, where it is missing; look whether the columns are there.

        Raises Unavailable ("no_table" | "ambiguous_key" | "locked") or the driver's errors.
        """
        mapping = self._mapping
        found = self._found(link)
        if mapping.version_column not in found:
            with alone(link, mapping.table):
                found = self._found(link)
                if mapping.version_column not in found:
                    link.run(self._addition() if found else self._creation(link))
            found = self._found(link)
        version = found.get(mapping.version_column)
        required = [name for name, column in found.items() if column.is_required]
        check_columns(mapping, found, required, version and version.chars)
        self._check_key(link)
        link.run("SET SESSION autocommit = 1")  # Why: it is one statement, and saves the commit's round trip
        mapping.encoders = [_encoder(found[name].type) for name in mapping.columns]

    def shape(self, events: Sequence[Event]) -> tuple[list[Keyed[OwnRows]], dict[int, Poison]]:
        return self._mapping.shape(events)

    def write(self, link: Link, rows: Sequence[Keyed[OwnRows]]) -> None:
        own = newest(rows)
        if not own:
            return
        row = f"({', '.join(['%s'] * (len(self._mapping.columns) + 1))})"
        link.run(
            f"{self._head} {', '.join([row] * len(own))} {self._tail}",
            [value for one in own for value in (*one.values, one.version)],
        )

    def _found(self, link: Link) -> dict[str, _Column]:
        link.commit()  # Why: what another worker has made meanwhile is to be seen
        rows = link.rows(_COLUMNS, self._place)
        return {name: _Column(str(kind).lower(), chars, bool(needs)) for name, kind, chars, needs in rows}

    def _check_key(self, link: Link) -> None:
        """Raise Unavailable unless an event can meet a row by the key, and by nothing else."""
        indexes: dict[str, set[str]] = {}
        loose = set()  # on a column's first characters: different values are one to them
        for index, column, part in link.rows(_UNIQUE, self._place):
            indexes.setdefault(index, set()).add(column)
            loose |= {index} if part is not None else set()
        key, written = set(self._mapping.key), set(self._mapping.columns)
        if not any(columns == key and index not in loose for index, columns in indexes.items()):
            raise Unavailable(
                "no_table",
                f"Table {self._mapping.table} has no unique index on just {', '.join(self._mapping.key)}."
                " Add one, or change key",
            )
        for index, columns in indexes.items():
            if columns <= written and (index in loose or not columns >= key):
                raise Unavailable(
                    "ambiguous_key",
                    f"Table {self._mapping.table} has the unique index {index} too. MySQL would change the"
                    " row that an event meets there, whatever its key. Make that the key, or leave its"
                    " columns out of columns",
                )

    def _creation(self, link: Link) -> str:
        chars = min(255, _MAX_KEY_CHARS // len(self._mapping.key))
        types = dict.fromkeys(self._mapping.key, f"varchar({chars}) NOT NULL")
        columns = "".join(
            f"{_quoted(name)} {types.get(name, 'longtext')}, " for name in self._mapping.columns
        )
        key = ", ".join(map(_quoted, self._mapping.key))
        return (
            f"CREATE TABLE {self._table} ({columns}{_quoted(self._mapping.version_column)} {_VERSION_TYPE},"
            f" PRIMARY KEY ({key})) ENGINE=InnoDB ROW_FORMAT=DYNAMIC"
            f" DEFAULT CHARSET=utf8mb4 COLLATE={exact_collation(link)}"
        )

    def _addition(self) -> str:
        return f"ALTER TABLE {self._table} ADD COLUMN {_quoted(self._mapping.version_column)} {_VERSION_TYPE}"

    def _upsert(self) -> tuple[str, str]:
        """Return what stands before and behind the values of the statement."""
        version = _quoted(self._mapping.version_column)
        names = [_quoted(name) for name in (*self._mapping.columns, self._mapping.version_column)]
        newer = NEWER.format(old=version, new=f"VALUES({version})")
        # Why the version last: what is assigned before is what the assignments behind it compare with.
        changed = [name for name in names if name not in map(_quoted, self._mapping.key)]
        changes = ", ".join(f"{name} = IF({newer}, VALUES({name}), {name})" for name in changed)
        return (
            f"INSERT INTO {self._table} ({', '.join(names)}) VALUES",
            f"ON DUPLICATE KEY UPDATE {changes}",
        )


def _quoted(name: str) -> str:
    """Return *name* as SQL takes it whatever it is; the configuration lets no quotes through."""
    return f"`{name}`"


def _encoder(kind: str) -> Encoder:
    if kind == "json":
        return as_json
    return _as_time if kind in _TIMES else as_value


def _as_time(value: Any) -> object:
    """Return *value* as MySQL takes it: a time of ours is UTC, without T and Z."""
    try:
        return moment(iso_to_ms(value))
    except (TypeError, ValueError):
        return as_value(value)  # the server says what it thinks of it
