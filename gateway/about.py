"""What an event is about and who takes part: subject, actor, subjects; rows made ready for that. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.catalogue import Command
from gateway.fields import Plan, plan_of
from gateway.names import accounts, lone
from gateway.paths import Path, resolve, text_at, values_at

_ENVELOPE = ("CallbackCommand", "EventTime")
_OURS = frozenset(("callback_command", "envelope"))
_PEOPLE = frozenset(("actor", "subjects"))
NO_PLAN: Plan = plan_of((), _OURS, _ENVELOPE)
"""For commands without a row: what stands in the envelope does not in ``data``."""

_GENERAL = (
    ("topic", ("TopicId",)),
    ("group", ("GroupId", "GroupID", "groupID", "ToGroupId")),
    ("official_account", ("Official_Account",)),
    ("room", ("RoomId",)),
)
_USERS = (
    "From_Account",
    "Operator_Account",
    "To_Account",
    "Requester_Account",
    "Requestor_Account",
    "UserId",
)


class Ready(NamedTuple):
    """A row of the catalogue, made ready for use."""

    row: Command
    plan: Plan
    about: tuple[tuple[str, tuple[Path, ...]], ...]
    actor: tuple[Path, ...]
    subjects: tuple[Path, ...]


_READY: dict[str, Ready] = {}


def ready_of(row: Command) -> Ready:
    """Return *row* made ready; once per row, for as long as the catalogue has it."""
    known = _READY.get(row.name)
    if known is None or known.row is not row:
        known = _READY[row.name] = Ready(
            row,
            plan_of(
                row.fields, _OURS | {"message"} | (_PEOPLE if row.is_uniform else frozenset()), _ENVELOPE
            ),
            tuple(
                (kind, tuple(resolve(row, path) for path in paths))
                for kind, *paths in (text.split(":") for text in row.about)
            ),
            tuple(resolve(row, path) for path in row.actor),
            tuple(resolve(row, path) for path in row.subjects),
        )
    return known


def subject_of(ready: Ready | None, body: Mapping[str, Any], app_id: str) -> tuple[str, ...]:
    """Return (kind, id), or ("c2c", id, id): as the row says, else by what the body has, else the app."""
    for kind, paths in ready.about if ready is not None else ():
        ids = tuple(text_at(body, path) for path in paths)
        if all(ids):
            return (kind, *ids)
    for kind, names in _GENERAL:
        for wire in names:
            found = _text(body, wire)
            if found:
                return (kind, found)
    sender, receiver = _text(body, "From_Account"), _text(body, "To_Account")
    if sender and receiver:
        return ("c2c", sender, receiver)
    user = next((found for found in (_text(body, wire) for wire in _USERS) if found), "")
    return ("user", user) if user else ("app", app_id)


def name_people(ready: Ready, body: Mapping[str, Any], data: dict[str, Any]) -> None:
    """Put ``actor`` (who did it, where known) and ``subjects`` (to whom; maybe empty) into *data*."""
    for path in ready.actor:
        actor = text_at(body, path)
        if actor:
            data["actor"] = actor
            break
    found: dict[str, None] = {}
    for path in ready.subjects:
        for value in values_at(body, path):
            found.update(dict.fromkeys(accounts(value)))
    data["subjects"] = list(found)


def _text(body: Mapping[str, Any], wire: str) -> str:
    value = lone(body.get(wire))
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
