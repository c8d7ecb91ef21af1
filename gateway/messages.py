"""The elements of a message (``MsgBody``) in our names. Pure.

Source: trtc.io/document/33527. Unknown element types and fields are kept.
"""

from __future__ import annotations

from typing import Any

from gateway.names import free_name, snake, to_time_ms, typed

ELEMENT_TYPES = {
    "TIMTextElem": "text",
    "TIMLocationElem": "location",
    "TIMFaceElem": "face",
    "TIMCustomElem": "custom",
    "TIMSoundElem": "sound",
    "TIMImageElem": "image",
    "TIMFileElem": "file",
    "TIMVideoFileElem": "video",
    "TIMRelayElem": "relay",
}
"""Our names of the types; others keep the sender's."""

# A message inside a relay has these names at its own top.
_MESSAGE_NAMES = {
    "MsgKey": "key",
    "MsgSeq": "seq",
    "MsgRandom": "random",
    "Random": "random",
    "MsgId": "id",
    "MsgID": "id",
    "CloudCustomData": "cloud_custom_data",
}
_ELEMENT_NAMES = frozenset(("type", "content"))
"""Promised by the schemas; no unknown field may take them."""
_MESSAGE_TIMES = frozenset(("MsgTime", "MsgTimeStamp", "MsgTimestamp"))


def elements(value: Any) -> list[dict[str, Any]] | None:
    """Return ``MsgBody`` as a list of ``{"type": …, "content": {…}}``, or None when it is no such list."""
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, dict) for item in items):
        return None
    return [_element(item) for item in items]


def mentions_all(value: Any) -> bool:
    """Say whether ``GroupAtInfo`` mentions everybody."""
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, dict) and item.get("GroupAtAllFlag") in (1, True, "1") for item in items)


def _element(item: dict[str, Any]) -> dict[str, Any]:
    element: dict[str, Any] = {}
    kind = item.get("MsgType")
    content = item.get("MsgContent")
    if isinstance(kind, str):
        element["type"] = ELEMENT_TYPES.get(kind, kind)
    if isinstance(content, dict):
        element["content"] = _relay(content) if kind == "TIMRelayElem" else _content(content)
    for wire, value in item.items():
        if (wire == "MsgType" and "type" in element) or (wire == "MsgContent" and "content" in element):
            continue
        _put(element, snake(wire), wire, value, _ELEMENT_NAMES)
    return element


def _content(content: dict[str, Any]) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for wire, value in content.items():
        _put(inner, snake(wire), wire, value)
    return inner


def _relay(content: dict[str, Any]) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for wire, value in content.items():
        if wire == "MsgList" and isinstance(value, list):
            messages = [_message(item) if isinstance(item, dict) else item for item in value]
            inner[free_name("messages", wire, inner)] = messages
        else:
            _put(inner, snake(wire), wire, value)
    return inner


def _message(item: dict[str, Any]) -> dict[str, Any]:
    """Return a message inside a relay; relays may hold relays, as deep as the body may be."""
    message: dict[str, Any] = {}
    for wire, value in item.items():
        # Why lists only: wrapping single ones would nest deeper than the body did.
        if wire == "MsgBody" and isinstance(value, list):
            found = elements(value)
            if found is not None:
                message[free_name("elements", wire, message)] = found
                continue
        if wire in _MESSAGE_TIMES:
            time_ms = to_time_ms(value)
            if time_ms is not None:
                message[free_name("time_ms", wire, message)] = time_ms
                continue
        _put(message, _MESSAGE_NAMES.get(wire) or snake(wire), wire, value)
    return message


def _put(
    target: dict[str, Any], name: str, wire: str, value: Any, reserved: frozenset[str] = frozenset()
) -> None:
    name, value = typed(name, wire, value)
    target[free_name(name, wire, target, reserved)] = value
