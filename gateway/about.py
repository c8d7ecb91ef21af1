"""What an event is about and who takes part: subject, actor, subjects; rows made ready for that. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gateway.catalogue import ROWS, Command
from gateway.fields import Plan, plan_of
from gateway.names import accounts, lone
from gateway.paths import Path, resolve, text_at, values_at
from gateway.places import Place, places_of

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


_PLACES = {wire: places_of((), wire) for _, names in (*_GENERAL, ("", _USERS)) for wire in names}
Show = Callable[[Place, str], str | None]


class About(NamedTuple):
    """What an event is about."""

    kind: str
    ids: tuple[str, ...]
    """One; two for ``c2c``."""
    places: tuple[tuple[Place, ...], ...]
    """Where in ``data`` each of them stands, or would."""


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


def subject_of(ready: Ready | None, body: Mapping[str, Any], app_id: str) -> About:
    """Return what an event is about: as the row says, else by what the body has, else the app."""
    for kind, paths in ready.about if ready is not None else ():
        ids = tuple(text_at(body, path) for path in paths)
        if all(ids):
            return About(kind, ids, tuple((path.place,) for path in paths))
    for kind, names in _GENERAL:
        for wire in names:
            found = _text(body, wire)
            if found:
                return About(kind, (found,), (_PLACES[wire],))
    sender, receiver = _text(body, "From_Account"), _text(body, "To_Account")
    if sender and receiver:
        return About("c2c", (sender, receiver), (_PLACES["From_Account"], _PLACES["To_Account"]))
    for wire in _USERS:
        found = _text(body, wire)
        if found:
            return About("user", (found,), (_PLACES[wire],))
    return About("app", (app_id,), ((),))


def name_people(
    ready: Ready, body: Mapping[str, Any], data: dict[str, Any], shown: Show | None = None
) -> None:
    """Put ``actor`` (who did it, where known) and ``subjects`` (to whom; maybe empty) into *data*.

    *shown* says how an account from its place may be shown, None: not at all; without it all are as they are.
    """
    for path in ready.actor:
        actor: str | None = text_at(body, path)
        if actor:
            actor = actor if shown is None else shown(path.place, actor)
            if actor is not None:
                data["actor"] = actor
            break
    found: dict[str | None, None] = {}
    for path in ready.subjects:
        for value in values_at(body, path):
            people = accounts(value)
            found.update(
                dict.fromkeys(people if shown is None else (shown(path.place, one) for one in people))
            )
    found.pop(None, None)
    data["subjects"] = list(found)


def _text(body: Mapping[str, Any], wire: str) -> str:
    value = lone(body.get(wire))
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def _subject_places() -> dict[str, frozenset[Place]]:
    """Return for each kind of subject all places that any command takes such an id from."""
    found: dict[str, set[Place]] = {}
    for row in ROWS:
        for kind, paths in ready_of(row).about:
            found.setdefault(kind, set()).update(path.place for path in paths)
    for kind, names in (*_GENERAL, ("c2c", ("From_Account", "To_Account")), ("user", _USERS)):
        for wire in names:
            found.setdefault(kind, set()).update(_PLACES[wire])
    return {kind: frozenset(places) for kind, places in found.items()}


SUBJECT_PLACES: Mapping[str, frozenset[Place]] = _subject_places()
"""By kind of subject: where its ids come from, in any command."""
