"""One record a kind of sink."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from gateway.config.amqp import AmqpSink
from gateway.config.base import STREAM as _STREAM
from gateway.config.base import Cidr, File, Number, Seconds, Target, Whole
from gateway.config.databases import MysqlSink, PostgresSink, SqliteSink
from gateway.config.endpoints import Headers, HttpUrl, RedisUrl, WebhookSecrets
from gateway.config.sink import SinkBase


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
    url: RedisUrl
    tls_ca: File | None = None
    stream: Annotated[str, Field(pattern=_STREAM, min_length=1, max_length=200)] = "im:events"
    max_len: Annotated[Whole, Field(ge=0)] = 1_000_000
    window_s: Annotated[Whole, Field(ge=1, le=2_592_000)] = 3600


class HttpSink(SinkBase):
    """An HTTP service of somebody's that gets each event, or batches of them, as signed webhooks."""

    effect = "at_least_once"

    kind: Literal["http"]
    url: HttpUrl
    secrets: WebhookSecrets
    headers: Headers = Field(default_factory=dict)
    tls_ca: File | None = None
    allow_networks: tuple[Cidr, ...] = ()
    batch: bool = False
    timeout_s: Seconds = 10
    retry_after_cap_s: Seconds = 300
    wait_statuses: tuple[Annotated[Whole, Field(ge=400, le=499)], ...] = (401, 403, 404, 405, 407, 408, 425)
    # Why other defaults: here an event takes as long as the other side needs, and a batch as many times that.
    concurrency: Annotated[Whole, Field(ge=1, le=64)] = 8
    batch_max_events: Annotated[Whole, Field(ge=1, le=10_000)] = 25
    write_timeout_s: Annotated[Seconds, Field(le=300)] = 300

    @model_validator(mode="after")
    def _ends_in_time(self) -> HttpSink:
        # Why: a write that is cut off is sent again from its beginning, for ever if it is always too long.
        requests = 1 if self.batch else self.batch_max_events
        if requests * self.timeout_s > self.write_timeout_s:
            raise ValueError(
                f"batch_max_events: {requests} requests of up to timeout_s ({self.timeout_s:g} s) each may"
                f" take longer than write_timeout_s ({self.write_timeout_s:g} s); lower it, or raise that"
            )
        return self


BuiltIn = Annotated[
    JsonlSink | SqliteSink | PostgresSink | MysqlSink | RedisSink
    | HttpSink | AmqpSink | PythonSink,
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
