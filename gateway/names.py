"""From the wire's names and shapes to ours: the general rules that hold for every command. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from functools import lru_cache
from typing import Any

from gateway.event import is_time

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^A-Za-z0-9_\s]+")
_SECONDS = frozenset(("MsgTime", "LastReadTime", "TaskTime", "CreateTime", "StartTime", "EndTime"))
_ID_ENDS = ("_Account", "Id", "ID")
_ID_LIST_ENDS = (*_ID_ENDS, "IdList", "IDList", "Ids", "IDs")
_QUESTION = re.compile(r"(?:Is|Has|Need)[A-Z].*|.*(?:Disabled|Enabled)")
_BOOLS = {"true": True, "false": False}
_SECONDS_BELOW = 100_000_000_000  # smaller numbers are seconds, larger ones milliseconds (1973-03-03)
_RESERVED = frozenset(("raw", "raw_base64"))
# Where the sender spells one thing in several ways. Source: the pages of the commands, which disagree.
_SYNONYMS = {
    "Requestor_Account": "requester",
    "Modified_Account": "member",
    "ToGroupId": "group_id",
    "SdkAppid": "sdk_app_id",
    "SdkAppID": "sdk_app_id",
}


class Flat(list[Any]):
    """A list of one-key objects without that key, which is remembered: the list has a name of its own."""

    __slots__ = ("wire",)

    def __init__(self, wire: str, items: list[Any]) -> None:
        super().__init__(items)
        self.wire = wire


def snake(wire: str) -> str:
    """Return our name for a wire name: ``Operator_Account`` is ``operator``, ``GroupId`` is ``group_id``."""
    return _snake(wire) if len(wire) <= 64 else wire


@lru_cache(maxsize=4096)
def _snake(wire: str) -> str:
    if wire in _SYNONYMS:
        return _SYNONYMS[wire]
    # Why C2C first: it is one word to the sender, C2CMsgInfo is c2c_msg_info.
    stem = wire.removesuffix("_Account") or wire
    words = _WORD.findall(stem.replace("C2C", "C2c").replace("IDs", "Ids").replace("WithDraw", "Withdraw"))
    joined = "_".join(words).lower()
    return re.sub(r"(?<=[a-z])_(?=\d)|(?<=\d)_(?=[a-z]\b|[a-z]_)", "", joined) or wire


def typed(name: str, wire: str, value: Any) -> tuple[str, Any]:
    """Apply the general rules to one value: ids become strings, seconds ``…_ms``, nested names ours."""
    if isinstance(value, str):
        if wire == "Platform":
            return name, value.lower()
        if value.lower() in _BOOLS and _QUESTION.fullmatch(wire):
            return name, _BOOLS[value.lower()]
    elif isinstance(value, bool):
        return name, value
    if wire in _SECONDS:
        time_ms = to_time_ms(value)
        if time_ms is not None:
            return f"{name}_ms", time_ms
    if isinstance(value, (int, float)) and wire.endswith(_ID_ENDS):
        return name, str(value)
    if isinstance(value, list) and wire.endswith(_ID_LIST_ENDS):
        return name, [str(item) if is_number(item) else nested(item) for item in value]
    return name, nested(value)


def nested(value: Any) -> Any:
    """Return *value* with the general rules applied to everything inside it."""
    if isinstance(value, dict):
        inner: dict[str, Any] = {}
        for wire, item in value.items():
            name, item = typed(snake(wire), wire, item)
            inner[free_name(name, wire, inner, frozenset())] = item
        return inner
    if isinstance(value, list):
        keys = {next(iter(item)) if isinstance(item, dict) and len(item) == 1 else None for item in value}
        if len(keys) == 1 and None not in keys:
            wire = str(keys.pop())
            return Flat(wire, [typed("", wire, item[wire])[1] for item in value])
        return [nested(item) for item in value]
    return value


def is_number(value: Any) -> bool:
    """Say whether *value* is a JSON number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def accounts(value: Any) -> list[str]:
    """Return the accounts in *value*, which the wire writes as a string, a list of them, or of objects."""
    found = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            for key, inner in item.items():
                if key.endswith("_Account"):
                    item = inner
                    break
            else:
                continue
        if isinstance(item, (str, int)) and not isinstance(item, bool) and item != "":
            found.append(str(item))
    return found


def lone(value: Any) -> Any:
    """Return the one item of a list of one, else *value*: the wire writes some accounts either way."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def has_unread(items: list[Any], found: list[str]) -> bool:
    """Say whether *items*, of which *found* are the accounts, hold more, in a shape unknown here."""
    if len(found) == len(items):
        return False
    return any(item not in (None, "", {}, []) and not accounts([item]) for item in items)


def to_time_ms(value: Any) -> int | None:
    """Return *value* (number or its text, seconds or milliseconds) as Unix ms, None when it is no time."""
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e16:
        return None
    time_ms = round(value * 1000) if value < _SECONDS_BELOW else int(value)
    return time_ms if is_time(time_ms) else None


def free_name(name: str, wire: str, taken: Container[str], reserved: Container[str] = _RESERVED) -> str:
    """Return *name*, or *wire* when two wire names became one: neither is lost, and ``raw`` stays ours."""
    for candidate in (name, wire):
        if candidate not in taken and candidate not in reserved:
            return candidate
    while wire in taken or wire in reserved:
        wire += "_"
    return wire


def event_time(body: Mapping[str, Any]) -> tuple[int | None, str]:
    """Return when the fact of *body* happened (Unix ms, None: it does not say) and what said so.

    EventTime, also inside of an object like ``RoomInfo``; else MsgTime; else ``received``. Ids depend on it.
    """
    time_ms = to_time_ms(body.get("EventTime"))
    if time_ms is not None:
        return time_ms, "EventTime"
    for value in map(lone, body.values()):
        if isinstance(value, dict):
            time_ms = to_time_ms(value.get("EventTime"))
            if time_ms is not None:
                return time_ms, "EventTime"
    time_ms = to_time_ms(body.get("MsgTime"))
    return (time_ms, "MsgTime") if time_ms is not None else (None, "received")
