"""Bodies that vary as the sender's do, made from the catalogue's fields. Pure: same seed, same bodies.

No two callbacks of one seed tell the same fact, so each has event ids of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.catalogue import COMMANDS, EVENT_TIMES, Command, Field, Kind
from gateway.simulator.draw import Draw
from gateway.simulator.mends import MENDS
from gateway.simulator.query import PLATFORMS, legacy_query_of, query_of
from gateway.simulator.values import Maker, maker_of

# Source: the pages of the commands, read 2026-11; one sample without EventTime is one without it on the wire.
_UNTIMED = frozenset(
    (
        "Alert.RequestOverLimit",
        "Bot.OnC2CMessage",
        "C2C.CallbackAfterSendMsg",
        "C2C.CallbackBeforeSendMsg",
        "ContentCallback.ResultNotify",
        "Group.CallbackAfterCreateTopic",
        "Group.CallbackAfterTopicDestroyed",
        "Group.CallbackAfterTopicInfoChanged",
        "Group.CallbackBeforeCreateTopic",
        "Live.CallbackAfterCreateRoom",  # its EventTime stands inside RoomInfo
        "Live.CallbackBeforeSendGift",
        "Sns.CallbackBlackListAdd",
        "Sns.CallbackBlackListDelete",
        "Sns.CallbackFriendAdd",
        "Sns.CallbackFriendDelete",
    )
)
# Old bodies lack it, newer ones have it.
_AT_TIMES_UNTIMED = frozenset(
    (
        "C2C.CallbackAfterMsgReport",
        "C2C.CallbackAfterMsgWithDraw",
        "Group.CallbackAfterMemberExit",
        "Group.CallbackAfterNewMemberJoin",
        "Group.CallbackOnMemberStateChange",
        "State.StateChange",
    )
)
# The international pages have text, the Chinese ones and captures a number.
_EITHER_SPELLING = frozenset(
    (
        "Group.CallbackAfterGroupInfoChanged",
        "Group.CallbackAfterMemberExit",
        "Group.CallbackAfterNewMemberJoin",
        "Group.CallbackAfterRecallMsg",
        "Group.CallbackAfterSendMsg",
        "Group.CallbackBeforeSendMsg",
    )
)
_WITHOUT_COMMAND = frozenset(("ContentCallback.ResultNotify",))
_TIMED_INSIDE = frozenset(("Live.CallbackAfterCreateRoom",))
_PRODUCTS = ("Mic.", "Live.", "Call.")
_SEQUENCED = frozenset(("MsgKey", "MsgSeq", "Random"))
_ALWAYS = frozenset(("MemberList", "RoomId", "UserList"))  # optional, but little is said without them
_OPTIONAL_SHARE = 0.7
_MANY = 0.02


@dataclass(frozen=True, slots=True)
class _Recipe:
    """One command, made ready."""

    row: Command
    make: Callable[[Draw], dict[str, Any]]
    has_topic: bool
    is_sequenced: bool


class Bodies:
    """Makes callbacks of one app, one after the other."""

    def __init__(self, seed: int, app_id: str, groups: int, base_ms: int, *, is_legacy: bool = False) -> None:
        """Take *groups*, how many there are, and *base_ms*, the Unix time in milliseconds of the first.

        *is_legacy*: as the old room and call engines, lower case in the query and no command in the body.
        """
        self._draw = Draw(seed, groups, base_ms)
        self._app_id = app_id
        self._is_legacy = is_legacy
        self._recipes: dict[str, _Recipe] = {}

    def make(self, number: int, command: str) -> tuple[str, bytes]:
        """Return the unsigned query and the body of callback *number*, a *command* of the catalogue."""
        recipe = self._recipes.get(command) or self._recipes.setdefault(command, _recipe(command))
        body = self._envelope(recipe, number) if recipe.row.envelope else self._body(recipe, command, number)
        if self._is_legacy:
            body.pop("CallbackCommand", None)
            return legacy_query_of(command, self._app_id), orjson.dumps(body)
        query = query_of(command, self._app_id, self._draw.address(), self._draw.one_of(PLATFORMS))
        return query, orjson.dumps(body)

    def _body(self, recipe: _Recipe, command: str, number: int) -> dict[str, Any]:
        draw = self._draw
        name = recipe.row.name
        is_timed = name not in _UNTIMED and not (name in _AT_TIMES_UNTIMED and draw.happens(0.3))
        draw.begin(
            number,
            needs_fresh=not is_timed and not recipe.is_sequenced,
            is_community=recipe.has_topic and draw.happens(0.3),
        )
        body: dict[str, Any] = {} if name in _WITHOUT_COMMAND else {"CallbackCommand": command}
        body.update(recipe.make(draw))
        if is_timed:
            body["EventTime"] = _spelled(recipe.row, draw)
        mend = MENDS.get(name)
        if mend is not None:
            mend(body, draw)
        return body

    def _envelope(self, recipe: _Recipe, number: int) -> dict[str, Any]:
        draw = self._draw
        items = []
        for _ in range(100 if draw.happens(_MANY) else 1 + draw.below(4)):
            draw.begin(number, needs_fresh=False, is_community=False)
            item = {"CallbackCommand": recipe.row.name, **recipe.make(draw)}
            item["EventTime"] = draw.now_ms() // 1000
            mend = MENDS.get(recipe.row.name)
            if mend is not None:
                mend(item, draw)
            items.append(item)
        return {recipe.row.envelope: items}


def _recipe(command: str) -> _Recipe:
    row = COMMANDS[command]
    needed = {path.rstrip("?").split(".")[0] for path in (*row.fact, *row.once)}
    number_accounts = row.name.startswith(_PRODUCTS)
    wires = {field.wire for field in row.fields}
    return _Recipe(
        row,
        _object_maker(row.fields, frozenset(needed), number_accounts, row.name in _TIMED_INSIDE),
        has_topic="TopicId" in wires,
        is_sequenced=bool(wires & _SEQUENCED),
    )


def _object_maker(
    fields: tuple[Field, ...], needed: frozenset[str], number_accounts: bool, is_timed_inside: bool
) -> Callable[[Draw], dict[str, Any]]:
    """Return what makes an object of *fields*: all of them but the time, the optional ones not always."""

    def inner(deeper: tuple[Field, ...]) -> Maker:
        make = _object_maker(deeper, frozenset(), number_accounts, False)
        if not (is_timed_inside and any(field.wire == "EventTime" for field in deeper)):
            return make
        return lambda draw: {**make(draw), "EventTime": draw.now_ms()}

    makers = [
        (
            field.wire,
            maker_of(field, number_accounts=number_accounts, inner=inner),
            field.optional and field.wire not in needed and field.wire not in _ALWAYS,
            field.kind is Kind.TOPIC_ID,
        )
        for field in fields
        if field.kind not in EVENT_TIMES
    ]

    def make(draw: Draw) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for wire, value_of, is_optional, is_topic in makers:
            if is_topic:
                if draw.is_community or not is_optional:
                    made[wire] = value_of(draw)
            elif not is_optional or draw.happens(_OPTIONAL_SHARE):
                made[wire] = value_of(draw)
        return made

    return make


def _spelled(row: Command, draw: Draw) -> int | str:
    time_ms = draw.now_ms()
    spelling: Mapping[str, Kind] = {field.wire: field.kind for field in row.fields}
    is_text = spelling.get("EventTime") is Kind.EVENT_MS_TEXT
    if is_text and row.name in _EITHER_SPELLING and draw.happens(0.3):
        return time_ms
    return str(time_ms) if is_text else time_ms
