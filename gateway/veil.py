"""Events without what people wrote, for who looks after the gateway and not after its users. Pure.

It lets through what is known to be harmless and hides the rest, so that nothing shows because it is new.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.catalogue import EVENT_TIMES, ROWS, Field, Kind
from gateway.fields import name_of
from gateway.names import snake

_IDS = frozenset(
    (Kind.ACCOUNT, Kind.ACCOUNTS, Kind.GROUP_ID, Kind.TOPIC_ID, Kind.OFFICIAL_ID, Kind.ROOM_ID, Kind.ID,
     Kind.SECONDS, *EVENT_TIMES)
)  # fmt: skip
_WRITTEN = frozenset((Kind.TEXT, Kind.TEXTS, Kind.OPAQUE, Kind.ANY, Kind.ENUM, Kind.ELEMENTS))
# Under these nothing shows, not even numbers: a place on a map is what somebody said, too.
_CLOSED = frozenset(
    ("elements", "msg_body", "msg_content", "content", "cloud_custom_data", "custom_info", "data", "value")
)
_OPEN = frozenset(
    ("callback_command", "sdk_app_id", "client_ip", "opt_platform", "platform", "actor", "subjects")
)


def veiled(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return *event* (its JSON, parsed) with its texts replaced by their length, those of ``raw`` too."""
    if not isinstance(event.get("data"), dict):
        return {name: hidden(value) if name == "data" else value for name, value in event.items()}
    data = {name: _part(name, value) for name, value in event["data"].items()}
    return {**event, "data": data}


def hidden(value: Any) -> str:
    """Return what stands for *value*."""
    return f"(hidden: {len(value)} characters)" if isinstance(value, str) else "(hidden)"


def _part(name: str, value: Any) -> Any:
    if name in ("raw_base64", "body_base64"):
        return hidden(value)
    key = snake(name)
    if key in _CLOSED:
        return hidden(value)
    return _shown(key, value)


def _shown(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _part(name, inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shown(key, item) for item in value]
    if not isinstance(value, str) or not value or key in _KEPT:
        return value
    return value if value.lower() in _WORDS.get(key, ()) else hidden(value)


def _fields(fields: tuple[Field, ...]) -> Iterator[Field]:
    for field in fields:
        yield field
        yield from _fields(field.fields)


def _names(field: Field) -> set[str]:
    """Return the names under which *field*, or the items of its list, stand in ``data`` and in the body."""
    wires = [field.wire, *field.also, *([field.item] if field.item else [])]
    return {snake(wire) for wire in wires} | {name_of(field).rpartition(".")[2]}


def _words() -> dict[str, frozenset[str]]:
    """Return, by name, the words that a text there is known to be."""
    found: dict[str, set[str]] = {}
    for field in _ALL:
        for name in _names(field):
            words = (str(value).lower() for value in field.values if field.kind in _WRITTEN)
            found.setdefault(name, set()).update(words)
    return {name: frozenset(words) for name, words in found.items()}


_ALL = tuple(field for row in ROWS for field in _fields(row.fields))
_HELD = frozenset(name for field in _ALL if field.kind in _WRITTEN for name in _names(field))
_KEPT = _OPEN | {name for field in _ALL if field.kind in _IDS for name in _names(field)} - _HELD
_WORDS = _words()
