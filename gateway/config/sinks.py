"""One record a kind of sink."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SecretStr, field_validator

from gateway.config.base import AppId, File, Patterns, Seconds, Section, Whole
from gateway.config.expressions import Expression

Effect = Literal["once", "at_least_once"]
"""``once``: an event that comes again changes nothing. ``at_least_once``: it may leave a second trace."""


class SinkBase(Section):
    """What all sinks have."""

    effect: ClassVar[Effect]
    # Why here and not on the sink: who replays has to know it, and need not have the sink's driver installed.

    events: Patterns = ("#",)
    apps: tuple[AppId, ...] = ()
    transform: Expression | None = None
    batch_max_events: Annotated[Whole, Field(ge=1, le=10_000)] = 500
    batch_max_wait_ms: Annotated[Whole, Field(ge=0, le=60_000)] = 20
    write_timeout_s: Seconds = 30
    hold_max_s: Seconds = 60

    @field_validator("events")
    @classmethod
    def _routable(cls, events: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in events:
            if not pattern or len(pattern.encode()) > 255 or any(part == "" for part in pattern.split(".")):
                raise ValueError("a topic pattern has 1 to 255 bytes and no empty word: im.group.#")
        return events


class JsonlSink(SinkBase):
    """One event a line in a file."""

    effect = "at_least_once"

    kind: Literal["jsonl"]
    path: File
    rotate_mb: Annotated[Whole, Field(ge=0)] = 256


class SqliteSink(SinkBase):
    """A SQLite file with a table of events and one of member exits."""

    effect = "once"

    kind: Literal["sqlite"]
    path: File


class PostgresSink(SinkBase):
    """A PostgreSQL database with a table of events and one of member exits."""

    effect = "once"

    kind: Literal["postgres"]
    dsn: SecretStr
    table_prefix: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,30}$")] = "im_"


Sink = Annotated[JsonlSink | SqliteSink | PostgresSink, Field(discriminator="kind")]
KINDS: Mapping[str, type[SinkBase]] = {"jsonl": JsonlSink, "sqlite": SqliteSink, "postgres": PostgresSink}
