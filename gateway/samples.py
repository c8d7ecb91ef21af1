"""A body as the sender would write it, from a row of the catalogue alone. Pure: the same each time."""

from __future__ import annotations

from typing import Any

from gateway.catalogue import Command, Field, Kind

TIME_MS = 1_670_574_414_123
_ACCOUNTS = {
    "From_Account": "jared", "To_Account": "jonh", "Operator_Account": "leckie", "Owner_Account": "leckie",
    "Member_Account": "tommy", "Peer_Account": "jonh", "Report_Account": "jared", "GroupAt_Account": "tommy",
    "Requester_Account": "jared", "Initiator_Account": "jared", "Official_Account": "@TOA#_2J4SZEAEL",
}  # fmt: skip
_IDS = {
    Kind.GROUP_ID: "@TGS#2J4SZEAEL",
    Kind.TOPIC_ID: "@TGS#_@TGS#cQVLVHIM62CJ@TOPIC#_TestTopic",
    Kind.OFFICIAL_ID: "@TOA#_2J4SZEAEL",
    Kind.ROOM_ID: "room-1",
}
_KNOWN: dict[str, Any] = {
    "MsgKey": "48374_2837546_1557481126", "MsgSeq": 48374, "MsgRandom": 2837546, "Random": 2837546,
    "MsgId": "144115233406643804-1727580296-4026038328", "MsgTime": 1557481126, "SendMsgResult": 0,
    "FileURL": "https://example.com/file", "FaceUrl": "https://example.com/face.png", "Name": "MyFirstGroup",
}  # fmt: skip
_TIMES = {Kind.EVENT_MS: TIME_MS, Kind.EVENT_MS_TEXT: str(TIME_MS), Kind.EVENT_S: TIME_MS // 1000}


def sample_body(row: Command) -> dict[str, Any]:
    """Return a body of *row* with every field that it has, as text and numbers the sender would use."""
    body = sample_object(row.fields)
    named = {} if row.name.startswith("ContentCallback.") else {"CallbackCommand": row.name}
    return {row.envelope: [{**named, **body}]} if row.envelope else {**named, **body}


def sample_object(fields: tuple[Field, ...]) -> dict[str, Any]:
    """Return an object with all *fields*."""
    return {field.wire: sample_value(field) for field in fields}


def sample_value(field: Field) -> Any:
    """Return what *field* holds on the wire."""
    kind = field.kind
    if kind in _TIMES:
        return _TIMES[kind]
    if kind is Kind.OBJECT:
        return sample_object(field.fields)
    if kind is Kind.OBJECTS:
        return [sample_object(field.fields)]
    if kind is Kind.ELEMENTS:
        return [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "red packet"}}]
    if kind is Kind.INTS:
        return [1, 2]
    if kind is Kind.ACCOUNTS:
        return [{field.item: _ACCOUNTS.get(field.item, "jared")}] if field.item else ["jared"]
    if kind is Kind.TEXTS:
        one = field.values[0] if field.values else _KNOWN.get(field.item, f"{field.wire.lower()} text")
        return [{field.item: one}] if field.item else [one]
    return _scalar(field)


def _scalar(field: Field) -> Any:
    if field.wire in _KNOWN:
        return _KNOWN[field.wire]
    if field.kind is Kind.ACCOUNT:
        return _ACCOUNTS.get(field.wire, "jared")
    if field.kind in _IDS:
        return _IDS[field.kind]
    if field.values:
        return field.values[0]
    if field.kind in (Kind.INT, Kind.UINT32):
        return 1
    if field.kind is Kind.SECONDS:
        return TIME_MS // 1000
    if field.kind is Kind.BOOL:
        return 1 if field.wire.endswith("Flag") else True
    return f"{field.wire.lower()} text"
