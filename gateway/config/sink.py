"""What the records of all sinks share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from gateway.config.base import AppId, Patterns, Seconds, Section, Whole
from gateway.config.expressions import Expression

Effect = Literal["once", "once_in_a_window", "at_least_once"]
"""``once``: an event that comes again changes nothing. ``at_least_once``: it may leave a second trace;
``once_in_a_window``: only after the time that the sink's ``window_s`` names."""


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
