"""What a request over the admin port asks to be published again, and whether that may be done."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.admin import ApiError
from gateway.config import SinkBase
from gateway.exits import iso_to_ms
from gateway.journal import JournalReader, Stored
from gateway.normalise import command_named

Place = Annotated[int, Field(ge=1, lt=2**63)]


class Asked(BaseModel):
    """A range by position or time of receipt, narrowed down by command and app."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: Place | None = None
    last: Place | None = None
    """Inclusive."""
    since: str | None = None
    """RFC 3339."""
    until: str | None = None
    """Exclusive."""
    command: str | None = None
    """``*`` and ``?`` stand for any text."""
    app: str | None = None
    sink: str | None = None
    """Only to this one."""
    rate: Annotated[float, Field(ge=0.1, le=1e5)] = 500
    """Events a second."""
    process: Annotated[int, Field(ge=1)] = 1
    """Whose journal, where there are several."""
    dry_run: bool = False
    yes: bool = False
    """Also to sinks that write an event again when it comes again."""

    @classmethod
    def of(cls, given: object) -> Asked:
        """Return what *given*, parsed JSON, asks for; ApiError when it asks for nothing, or for no sense."""
        try:
            asked = cls.model_validate(given)
        except ValidationError as error:
            places = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise ApiError(400, "bad_request", places) from error
        chosen = (asked.first, asked.last, asked.since, asked.until, asked.command, asked.app)
        if all(one is None for one in chosen):
            raise ApiError(
                400, "nothing_chosen", "choose by first, last, since, until, command or app; first 1: all"
            )
        asked.times_ms()
        return asked

    def times_ms(self) -> tuple[int | None, int | None]:
        """Return since and until, Unix milliseconds."""
        try:
            since_ms, until_ms = (None if one is None else iso_to_ms(one) for one in (self.since, self.until))
        except ValueError as error:
            raise ApiError(400, "bad_request", f"since, until: {error}") from error
        return since_ms, until_ms

    def check(self, sinks: Mapping[str, SinkBase]) -> None:
        """Raise ApiError for a sink that is none, or that would write again what nobody said yes to."""
        if self.sink is not None and self.sink not in sinks:
            raise ApiError(404, "no_such_sink", "the configuration has no sink of this name")
        again = [name for name, sink in sinks.items() if sink.effect != "once" and self.sink in (None, name)]
        if again and not (self.yes or self.dry_run):
            raise ApiError(
                400,
                "needs_yes",
                f"these sinks write an event again when it comes again: {', '.join(again)}. Say yes if that"
                " is fine, or choose a sink whose effect is once",
            )

    def positions(self, reader: JournalReader) -> tuple[int, int]:
        """Return (after, to): confirmed callbacks only, since what waits is forwarded anyway."""
        since_ms, _ = self.times_ms()
        after = reader.first - 1 if since_ms is None else reader.behind(since_ms)
        after = max(after, (self.first or 1) - 1)
        last = reader.cursor if self.last is None else min(self.last, reader.cursor)
        return after, max(after, last)

    def takes(self, stored: Stored) -> bool:
        """Say whether *stored* is meant, its position aside."""
        callback, (since_ms, until_ms) = stored.callback, self.times_ms()
        return (
            (since_ms is None or callback.received_ms >= since_ms)
            and (until_ms is None or callback.received_ms < until_ms)
            and (self.app is None or callback.app_id == self.app)
            and (self.command is None or fnmatchcase(command_named(callback), self.command))
        )
