"""Events as rows of the SQL sinks: one of events, one per member that left. Pure.

Source, id and the event itself are exact. The other columns are there to search by, so they are clipped:
whoever publishes chooses how long a group id is, and it stands in every member's row and in the indexes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from gateway.errors import Poison
from gateway.event import Event
from gateway.exits import EXIT_TYPE, ExitsQuery, MemberExit, iso_to_ms, member_exits

# Bound: an exit row holds at most 6 such texts. Tencent's own ids have at most 48 bytes. 4 bytes a character
# stay below PostgreSQL's 2,704 bytes for an index entry and InnoDB's 3,072.
MAX_TEXT_CHARS = 256
EXIT_COLUMNS = "source, event_id, member_no, app_id, group_id, group_type, member, operator, exit_type, time"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


class EventRow(NamedTuple):
    """One row of events and its rows of member exits."""

    source: str
    id: str
    type: str
    subject: str | None
    time_ms: int | None
    recorded_ms: int | None
    app_id: str
    partition_key: str | None
    position: str | None
    body: str
    exits: tuple[MemberExit, ...]


def shape(events: Sequence[Event]) -> tuple[list[tuple[int, EventRow]], dict[int, Poison]]:
    """Return the rows of *events* with their index, in order, and what can't be a row.

    That is Poison("bad_exit"), the type of a member exit without its shape, or Poison("bad_event"), no text;
    only another publisher than the gateway can have sent it.
    """
    rows: list[tuple[int, EventRow]] = []
    failures: dict[int, Poison] = {}
    for index, event in enumerate(events):
        try:
            rows.append((index, _row(event)))
        except (ValueError, KeyError, TypeError) as error:
            reason = "bad_exit" if event.type == EXIT_TYPE else "bad_event"
            failures[index] = Poison(reason, f"not shaped as its type says ({type(error).__name__})")
    return rows, failures


def clip(text: str) -> str:
    """Return *text* as a column holds it: at most 256 characters, NUL and lone surrogates as U+FFFD.

    The last character of a longer text becomes an ellipsis.
    """
    if len(text) <= MAX_TEXT_CHARS and text.isprintable():
        return text  # Why first: nearly all are, and neither NUL nor a surrogate is printable
    if len(text) > MAX_TEXT_CHARS:
        text = text[: MAX_TEXT_CHARS - 1] + "…"
    return clean(text)


def clean(text: str) -> str:
    """Return *text* with NUL and lone surrogates, which not every database holds, as U+FFFD."""
    return _NOT_TEXT.sub("\ufffd", text)


def conditions(query: ExitsQuery, moment: Callable[[int], object]) -> list[tuple[str, object]]:
    """Return what *query* asks as pairs of SQL that wants one value behind it, and the value.

    *moment* turns Unix milliseconds into what the column ``time`` holds.
    """
    pairs: list[tuple[str, object]] = [
        (f"{column} =", clip(text))
        for column, text in (
            ("group_id", query.group),
            ("member", query.member),
            ("operator", query.operator),
            ("app_id", query.app),
        )
        if text is not None
    ]
    if query.since_ms is not None:
        pairs.append(("time >=", moment(query.since_ms)))
    if query.until_ms is not None:
        pairs.append(("time <", moment(query.until_ms)))
    return pairs


def moment(time_ms: int | None) -> datetime | None:
    """Return *time_ms* (Unix, ms) as the drivers of database servers take it."""
    return None if time_ms is None else _EPOCH + timedelta(milliseconds=time_ms)


def to_ms(time: datetime) -> int:
    """Return *time*, as a driver gives it, as Unix milliseconds; without a zone it is UTC."""
    return (time.replace(tzinfo=time.tzinfo or UTC) - _EPOCH) // timedelta(milliseconds=1)


def _row(event: Event) -> EventRow:
    return EventRow(
        source=event.source,
        id=event.id,
        type=clip(event.type),
        subject=_optional(event, "subject"),
        time_ms=_time_ms(event, "time"),
        recorded_ms=_time_ms(event, "recordedtime"),
        app_id=clip(event.app_id),
        partition_key=_optional(event, "partitionkey"),
        position=_optional(event, "position"),
        body=event.body.decode(),
        exits=tuple(_clipped(one) for one in member_exits(event)),
    )


def _clipped(one: MemberExit) -> MemberExit:
    return MemberExit(
        one.source,
        one.event_id,
        one.member_no,
        clip(one.app_id),
        clip(one.group_id),
        None if one.group_type is None else clip(one.group_type),
        clip(one.member),
        None if one.operator is None else clip(one.operator),
        None if one.exit_type is None else clip(one.exit_type),
        one.time_ms,
    )


def _optional(event: Event, name: str) -> str | None:
    value = event.attributes.get(name)
    return None if value is None else clip(str(value))


def _time_ms(event: Event, name: str) -> int | None:
    try:
        return iso_to_ms(str(event.attributes[name]))
    except (KeyError, ValueError):
        return None
