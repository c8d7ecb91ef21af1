"""What a delivery's frames say: our own messages quickly, everything else as pamqp reads it. Pure.

What can't be read of a message is left out: an error would end the connection of all sinks, again and again.

Source: AMQP 0-9-1, 4.2; the errata on field tables for the types S and l.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

import pamqp.frame
from pamqp.exceptions import PAMQPException
from pamqp.header import ContentHeader

_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _MESSAGE_ID, _TYPE = (1 << bit for bit in (15, 13, 12, 7, 5))
_OTHERS = 0xFFFF & ~(_CONTENT_TYPE | _HEADERS | _DELIVERY_MODE | _MESSAGE_ID | _TYPE)
_TEXT, _INTEGER = b"Sl"
_HEAD_BYTES = 7
_BASIC = b"\x00\x3c"  # class 60
_LEAST_BYTES = 14
"""Class, weight, size of the body and flags."""
_long = struct.Struct(">I").unpack_from
_size_and_flags = struct.Struct(">QH").unpack_from
_integer = struct.Struct(">q").unpack_from


class Properties(NamedTuple):
    """What we know of a message beside its body."""

    body_bytes: int
    headers: dict[str, str | int]
    """Without those that are neither text nor numbers."""
    message_id: str
    type: str


class Arrival(NamedTuple):
    """A message as the broker delivers it."""

    tag: int
    is_redelivered: bool
    exchange: str
    routing_key: str
    properties: Properties
    body: bytes


def properties_of(data: bytes, at: int, end: int) -> Properties:
    """Return what the header frame from *at* to *end* says."""
    try:
        found = _usual(data, at + _HEAD_BYTES + 4, end - 1)
    except (struct.error, IndexError, UnicodeDecodeError):
        found = None
    return _any(data[at:end]) if found is None else found


def _usual(data: bytes, at: int, end: int) -> Properties | None:
    """Return what the header says, which is from *at* to *end*; None where it has what we never send."""
    body_bytes, flags = _size_and_flags(data, at)
    if flags & _OTHERS:
        return None
    at += 10
    headers: dict[str, str | int] = {}
    message_id = kind = ""
    if flags & _CONTENT_TYPE:
        at += 1 + data[at]
    if flags & _HEADERS:
        ends = at + 4 + _long(data, at)[0]
        at += 4
        while at < ends:
            value = at + 1 + data[at]
            name = _text(data[at + 1 : value])
            if data[value] == _TEXT:
                at = value + 5 + _long(data, value + 1)[0]
                headers[name] = data[value + 5 : at].decode()
            elif data[value] == _INTEGER:
                at = value + 9
                headers[name] = _integer(data, value + 1)[0]
            else:
                return None
        if at != ends:
            return None
    if flags & _DELIVERY_MODE:
        at += 1
    if flags & _MESSAGE_ID:
        start, at = at + 1, at + 1 + data[at]
        message_id = data[start:at].decode()
    if flags & _TYPE:
        start, at = at + 1, at + 1 + data[at]
        kind = _text(data[start:at])
    return Properties(body_bytes, headers, message_id, kind) if at == end else None


def _any(frame: bytes) -> Properties:
    """Return what the header *frame* says, as pamqp reads it. Raises ValueError for what is no header."""
    if len(frame) <= _HEAD_BYTES + _LEAST_BYTES or not frame.startswith(_BASIC, _HEAD_BYTES):
        raise ValueError("no header")
    try:
        _, _, header = pamqp.frame.unmarshal(frame)
    except PAMQPException:
        # Why: another program's id may be no UTF-8, or its timestamp count in microseconds.
        return Properties(_size_and_flags(frame, _HEAD_BYTES + 4)[0], {}, "", "")
    assert isinstance(header, ContentHeader)
    properties = header.properties
    headers: dict[str, str | int] = {
        name: value for name, value in (properties.headers or {}).items() if isinstance(value, (str, int))
    }
    return Properties(header.body_size, headers, properties.message_id or "", properties.message_type or "")


@lru_cache(maxsize=4096)
def route_of(names: bytes) -> tuple[str, str]:
    """Return exchange and routing key."""
    at = 1 + names[0]
    if at + 1 + names[at] != len(names):
        raise ValueError("no exchange and routing key")
    return names[1:at].decode(errors="replace"), names[at + 1 :].decode(errors="replace")


@lru_cache(maxsize=4096)
def _text(encoded: bytes) -> str:
    """Return what comes again and again."""
    return encoded.decode()
