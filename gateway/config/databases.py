"""The sinks with tables, one record a kind."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from gateway.config.base import COLUMN, TABLE, File, Whole
from gateway.config.expressions import Expression
from gateway.config.sink import SinkBase

ColumnName = Annotated[str, Field(pattern=COLUMN)]


class TableSink(SinkBase):
    """A database with a table of events and one of member exits, or with ``table``, one of the user's own."""

    effect = "once"

    table: Annotated[str, Field(pattern=TABLE)] | None = None
    each: Expression | None = None
    columns: dict[ColumnName, Expression] = Field(default_factory=dict)
    key: tuple[ColumnName, ...] = ()
    version_column: ColumnName = "im_version"

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.table is None:
            given = [name for name in ("each", "columns", "key") if getattr(self, name)]
            if given:
                raise ValueError(f"{' and '.join(given)} describe a table of your own: name it in table")
            return self
        if not self.columns or not self.key:
            raise ValueError(
                "table needs columns, like {group_id: data.group_id}, and key: those of them whose values"
                " name a row"
            )
        if unknown := [name for name in self.key if name not in self.columns]:
            raise ValueError(f"key names {', '.join(unknown)}, and columns does not; add an expression there")
        # Why by lower case: names that differ in nothing else are one column in MySQL and SQLite.
        names = [name.lower() for name in (*self.columns, self.version_column)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"columns: {', '.join(twice)} stands there twice, or is the version_column")
        return self


class SqliteSink(TableSink):
    """A SQLite file."""

    has_one_writer = True

    kind: Literal["sqlite"]
    path: File


class ServerSink(TableSink):
    """A database server."""

    dsn: SecretStr
    table_prefix: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,30}$")] = "im_"


class PostgresSink(ServerSink):
    """A PostgreSQL database; TLS is a matter of the DSN (``sslmode``, ``sslrootcert``, …)."""

    kind: Literal["postgres"]
    # Why 2: one lane shapes its rows while the server writes the other's; measured 1.4 times as fast.
    concurrency: Annotated[Whole, Field(ge=1, le=64)] = 2


class MysqlSink(ServerSink):
    """A MySQL or MariaDB database."""

    kind: Literal["mysql"]
    tls: Literal["prefer", "require", "verify", "never"] = "prefer"
    tls_ca: File | None = None
    tls_cert: File | None = None
    tls_key: File | None = None

    @model_validator(mode="after")
    def _tls_makes_sense(self) -> MysqlSink:
        if self.tls_ca is not None and self.tls != "verify":
            raise ValueError("tls_ca is looked at with tls: verify only; set it, or leave tls_ca out")
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("tls_key belongs to a tls_cert; name that file too")
        if self.tls_cert is not None and self.tls in ("prefer", "never"):
            raise ValueError("tls_cert needs tls: verify, or tls: require")
        return self
