"""The sinks with tables, one record a kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator

from gateway.config.base import File
from gateway.config.sink import SinkBase


class SqliteSink(SinkBase):
    """A SQLite file with a table of events and one of member exits."""

    effect = "once"
    has_one_writer = True

    kind: Literal["sqlite"]
    path: File


class ServerSink(SinkBase):
    """A database server with a table of events and one of member exits."""

    effect = "once"

    dsn: SecretStr
    table_prefix: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,30}$")] = "im_"


class PostgresSink(ServerSink):
    """A PostgreSQL database; TLS is a matter of the DSN (``sslmode``, ``sslrootcert``, …)."""

    kind: Literal["postgres"]


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
