"""What the records of all sinks share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from gateway.config.base import AppId, Number, Patterns, Seconds, Section, Whole
from gateway.config.expressions import Expression

Effect = Literal["once", "once_in_a_window", "at_least_once"]
"""``once``: an event that comes again changes nothing. ``at_least_once``: it may leave a second trace;
``once_in_a_window``: only after the time that the sink's ``window_s`` names."""


class SinkBase(Section):
    """What all sinks have."""

    effect: ClassVar[Effect]
    # Why here and not on the sink: who replays has to know it, and need not have the sink's driver installed.
    has_one_writer: ClassVar[bool] = False
    """What it writes to takes one writer only, so concurrency is 1."""

    kind: str
    events: Patterns = ("#",)
    apps: tuple[AppId, ...] = ()
    transform: Expression | None = None
    batch_max_events: Annotated[Whole, Field(ge=1, le=10_000)] = 500
    batch_max_wait_ms: Annotated[Whole, Field(ge=0, le=60_000)] = 20
    write_timeout_s: Annotated[Seconds, Field(le=300)] = 30
    hold_max_s: Annotated[Seconds, Field(le=600)] = 60
    # Why bounds: RabbitMQ takes back what is held for half an hour, with the whole channel.
    concurrency: Annotated[Whole, Field(ge=1, le=64)] = 1
    partitions: Annotated[Whole, Field(ge=1, le=64)] = 1
    order: Literal["loose", "strict"] = "loose"
    strict_hold_s: Annotated[Seconds, Field(le=900)] = 600
    max_attempts: Annotated[Whole, Field(ge=1, le=1000)] = 10
    park_limit_consecutive: Annotated[Whole, Field(ge=0)] = 50
    park_limit_ratio: Annotated[Number, Field(gt=0, le=1)] = 0.5

    @field_validator("concurrency")
    @classmethod
    def _possible(cls, concurrency: int) -> int:
        if cls.has_one_writer and concurrency > 1:
            raise ValueError("must be 1: a file has one writer")
        return concurrency

    @field_validator("events")
    @classmethod
    def _routable(cls, events: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in events:
            if not pattern or len(pattern.encode()) > 255 or any(part == "" for part in pattern.split(".")):
                raise ValueError("a topic pattern has 1 to 255 bytes and no empty word: im.group.#")
        return events
