"""One record a kind of sink."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, SecretStr, Tag, field_validator, model_validator

from gateway.config.amqp import AmqpSink
from gateway.config.base import STREAM as _STREAM
from gateway.config.base import File, Number, Target, Whole
from gateway.config.databases import MysqlSink, PostgresSink, SqliteSink
from gateway.config.sink import SinkBase

_DATABASE = re.compile(r"(/[0-9]{0,4})?")
_REDIS_URL = (
    "must be redis://user:password@host:6379/0, or rediss:// for TLS, without a query; special characters"
    " in user and password are written as %40"
)


class JsonlSink(SinkBase):
    """One event a line in a file."""

    effect = "at_least_once"
    has_one_writer = True

    kind: Literal["jsonl"]
    path: File
    rotate_mb: Annotated[Whole, Field(ge=0)] = 256
    rotate_h: Annotated[Number, Field(ge=0, le=876_000, allow_inf_nan=False)] = 0
    gzip: bool = False
    keep_files: Annotated[Whole, Field(ge=0)] = 0
    keep_d: Annotated[Number, Field(ge=0, le=36_500, allow_inf_nan=False)] = 0
    fsync: Literal["always", "interval", "never"] = "always"


class PythonSink(SinkBase):
    """A class of the user's own."""

    effect = "at_least_once"

    kind: Literal["python"]
    target: Target
    options: dict[str, Any] = Field(default_factory=dict)


class RedisSink(SinkBase):
    """A Redis stream with one entry an event."""

    effect = "once_in_a_window"

    kind: Literal["redis"]
    url: SecretStr
    tls_ca: File | None = None
    stream: Annotated[str, Field(pattern=_STREAM, min_length=1, max_length=200)] = "im:events"
    max_len: Annotated[Whole, Field(ge=0)] = 1_000_000
    window_s: Annotated[Whole, Field(ge=1, le=2_592_000)] = 3600

    @field_validator("url")
    @classmethod
    def _readable(cls, url: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(url.get_secret_value())
            is_good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            is_good = False
        # Why no query: the driver would take timeouts and "do not verify" from there.
        if not is_good or parts.scheme not in ("redis", "rediss") or parts.query or parts.fragment:
            raise ValueError(_REDIS_URL)
        if not _DATABASE.fullmatch(parts.path):
            raise ValueError(_REDIS_URL)
        return url


BuiltIn = Annotated[
    JsonlSink | SqliteSink | PostgresSink | MysqlSink | RedisSink
    | AmqpSink | PythonSink,
    Field(discriminator="kind"),
]  # fmt: skip
KINDS: Mapping[str, type[SinkBase]] = {
    get_args(record.model_fields["kind"].annotation)[0]: record for record in get_args(get_args(BuiltIn)[0])
}
GROUP = "gateway.sinks"


def plugins() -> dict[str, EntryPoint]:
    """Return the kinds that installed packages bring, by name."""
    return {one.name: one for one in entry_points(group=GROUP)}


class PluginSink(SinkBase):
    """A kind that an installed package brings, by an entry point of the group ``gateway.sinks``."""

    effect = "at_least_once"

    kind: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _is_installed(cls, value: Any) -> Any:
        # Why before: of a kind that does not exist nobody knows the keys, and each would be a fault more.
        kind = str(value["kind"])
        known = sorted({*KINDS, *plugins()})
        if kind not in known:
            near = get_close_matches(kind, known, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(
                f"there is no kind {kind!r}; {hint}There are: {', '.join(known)}."
                f" Installed packages add kinds by entry points of the group {GROUP}"
            )
        return value


def _family(value: Any) -> str | None:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    if not isinstance(kind, str):
        return None
    return "built-in" if kind in KINDS else "plug-in"


FAMILIES = ("built-in", "plug-in")
Sink = Annotated[
    Annotated[BuiltIn, Tag("built-in")] | Annotated[PluginSink, Tag("plug-in")], Discriminator(_family)
]
