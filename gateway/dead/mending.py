"""An event that somebody edits: its text made readable without changing a digit, and what it must be then."""

from __future__ import annotations

import re

from gateway.broker import Delivery
from gateway.event import Event

_PIECES = re.compile(r'"(?:\\.|[^"\\])*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_KEY_MAX_BYTES = 255  # Source: AMQP 0-9-1, a routing key is a short string


def indented(text: str) -> str:
    """Return the JSON *text* on many lines; each value as it is written, numbers beyond 64 bits too."""
    written: list[str] = []
    depth, before = 0, ""
    for piece in _PIECES.findall(text):
        closes = piece in ("}", "]")
        depth -= closes
        if (closes or before in ("{", "[", ",")) and not (closes and before in ("{", "[")):
            written.append("\n" + "  " * depth)
        written.append(": " if piece == ":" else piece)
        depth += piece in ("{", "[")
        before = piece
    return "".join(written) + "\n"


def compact(text: str) -> str:
    """Return the JSON *text* without any blank between its values."""
    return "".join(_PIECES.findall(text))


def mended(delivery: Delivery, text: str, *, may_rename: bool = False) -> Delivery:
    """Return *delivery* with the event in *text*, on one line; ValueError with a sentence if that can't be.

    It has to be an event still, and the same one (``source``, ``id``) unless it *may_rename*: under another
    name it is another event, which a sink adds to what it has.
    """
    # Why before it is compact: that passes over what is no JSON, such as a quote too many.
    event = Event.parse(text.encode())
    if not may_rename:
        for name, was in _names_of(delivery).items():
            now = str(event.attributes[name])
            if now != was:
                raise ValueError(f"{name} was {was!r} and is {now!r} now, so this would be another event")
    if len(event.routing_key.encode()) > _KEY_MAX_BYTES:
        raise ValueError("type and appid are longer than a routing key may be")
    key = event.attributes.get("partitionkey", "")
    if not isinstance(key, str):
        raise ValueError("partitionkey is no text")  # noqa: TRY004 - bad input is a bad value here
    return delivery._replace(
        body=compact(text).encode(),
        message_id=event.id,
        type=event.type,
        routing_key=event.routing_key,
        headers={**delivery.headers, "partitionkey": key},
    )


def _names_of(delivery: Delivery) -> dict[str, str]:
    """Return what names the event, as far as that can be told: what is parked may be no event at all."""
    try:
        event = Event.parse(delivery.body)
    except ValueError:
        return {"id": delivery.message_id} if delivery.message_id else {}
    return {"source": event.source, "id": event.id}
