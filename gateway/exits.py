"""Member exits as rows: who left which group, by whom, how, when. Shared by the sinks that keep the table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from gateway.event import Event, is_time

EXIT_TYPE = "im.group.member.exited"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS = 86_400_000


class MemberExit(NamedTuple):
    """One member of one exit event. ``(source, event_id, member_no)`` is unique."""

    source: str
    event_id: str
    member_no: int
    """Place in the event's list of members, from 0."""
    app_id: str
    group_id: str
    group_type: str | None
    member: str
    operator: str | None
    exit_type: str | None
    time_ms: int
    """When it happened (Unix, ms); the time of receipt where the callback carries none."""


@dataclass(frozen=True, slots=True)
class ExitsQuery:
    """Which exits to read; None means any. Newest first, at most ``limit`` rows."""

    group: str | None = None
    member: str | None = None
    operator: str | None = None
    app: str | None = None
    since_ms: int | None = None
    """Inclusive."""
    until_ms: int | None = None
    """Exclusive."""
    limit: int = 100


def member_exits(event: Event) -> list[MemberExit]:
    """Return one row per member of *event*, or nothing when it is of another type.

    Raises ValueError (KeyError, TypeError included) for an event that has our type but not our shape.
    """
    if event.type != EXIT_TYPE:
        return []
    data = event.data
    members = data.get("members", [])
    if not isinstance(members, list) or not all(isinstance(member, str) for member in members):
        raise ValueError("members is not a list of strings")
    time_ms = iso_to_ms(str(event.attributes["time"]))
    source, event_id, app_id = event.source, event.id, event.app_id
    group_id, group_type = str(data.get("group_id", "")), _text(data.get("group_type"))
    operator, exit_type = _text(data.get("operator")), _text(data.get("exit_type"))
    return [
        MemberExit(
            source, event_id, number, app_id, group_id, group_type, member, operator, exit_type, time_ms
        )
        for number, member in enumerate(members)
    ]


def iso_to_ms(text: str) -> int:
    """Return the ISO 8601 date or time *text* as Unix milliseconds; without a zone it is UTC.

    Raises ValueError for anything else, and for what lies before 1970 or after the year 9999.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - _EPOCH
    time_ms = since.days * _DAY_MS + since.seconds * 1000 + since.microseconds // 1000
    if time_ms != 0 and not is_time(time_ms):
        raise ValueError("not between the years 1970 and 9999")
    return time_ms


def _text(value: object) -> str | None:
    return None if value is None else str(value)
