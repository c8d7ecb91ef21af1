"""A message as the AMQP 0-9-1 frames that publish it, put together from parts that hardly ever change. Pure.

pamqp's own marshalling takes 17 us a message, which was a fifth of what publishing an event costs; this takes
4. Source: AMQP 0-9-1, 2.3.5 and 4.2; the errata on field tables for the types S and l.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_BASIC_PUBLISH = b"\x00\x3c\x00\x28\x00\x00"  # class 60, method 40, a ticket that means nothing
_MANDATORY = b"\x01"
_BASIC = b"\x00\x3c\x00\x00"  # class 60, weight 0
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _EXPIRATION, _MESSAGE_ID, _TYPE = (
    1 << bit for bit in (15, 13, 12, 8, 7, 5)
)
_PERSISTENT = b"\x02"
_frame_head = struct.Struct(">BHI").pack
_long = struct.Struct(">I").pack
_size_and_flags = struct.Struct(">QH").pack
_integer = struct.Struct(">q").pack
_EVENTS = b"\x1capplication/cloudevents+json"


def publish_frames(
    channel: int,
    most_bytes: int,
    exchange: str,
    routing_key: str,
    body: bytes,
    headers: Mapping[str, str | int],
    message_id: str = "",
    kind: str = "",
    expiration_ms: int | None = None,
) -> bytes:
    """Return the frames of one persistent, mandatory message; *most_bytes* of *body* a frame at most.

    *kind* is the property ``type``. ValueError for a name of more than 255 bytes.
    """
    flags = _CONTENT_TYPE | _HEADERS | _DELIVERY_MODE
    fields = [_EVENTS, _table(headers), _PERSISTENT]
    if expiration_ms is not None:
        flags |= _EXPIRATION
        fields.append(_short(str(expiration_ms)))
    if message_id:
        flags |= _MESSAGE_ID
        fields.append(_short(message_id))
    if kind:
        flags |= _TYPE
        fields.append(_known(kind))
    properties = b"".join((_BASIC, _size_and_flags(len(body), flags), *fields))
    frames = [
        _method(channel, exchange, routing_key),
        _frame_head(_HEADER, channel, len(properties)), properties, _END,
    ]  # fmt: skip
    if len(body) <= most_bytes:
        if body:
            frames += (_frame_head(_BODY, channel, len(body)), body, _END)
    else:
        for at in range(0, len(body), most_bytes):
            part = body[at : at + most_bytes]
            frames += (_frame_head(_BODY, channel, len(part)), part, _END)
    return b"".join(frames)


@lru_cache(maxsize=16_384)
def _method(channel: int, exchange: str, routing_key: str) -> bytes:
    payload = _BASIC_PUBLISH + _short(exchange) + _short(routing_key) + _MANDATORY
    return _frame_head(_METHOD, channel, len(payload)) + payload + _END


def _short(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > 255:
        raise ValueError(f"AMQP allows names of 255 bytes, this one has {len(encoded)}")
    return bytes((len(encoded),)) + encoded


def _table(headers: Mapping[str, str | int]) -> bytes:
    fields: list[bytes] = []
    for name, value in headers.items():
        if isinstance(value, str):
            encoded = value.encode()
            fields += (_known(name), b"S", _long(len(encoded)), encoded)
        elif isinstance(value, bool):
            fields += (_known(name), b"t", b"\x01" if value else b"\x00")
        else:
            fields += (_known(name), b"l", _integer(value))
    table = b"".join(fields)
    return _long(len(table)) + table


_known = lru_cache(maxsize=4096)(_short)
"""For what comes again and again."""
