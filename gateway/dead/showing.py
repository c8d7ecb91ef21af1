"""A parked event as JSON, for lists, files and the admin API."""

from __future__ import annotations

import base64
from typing import Any

import orjson

from gateway.broker import Delivery
from gateway.dead.choice import app_of, group_of, parked_ms, reason_of, type_of
from gateway.event import MAX_DEPTH, is_time, iso_time, json_text, one_line, parse_json
from gateway.retries import HISTORY
from gateway.veil import hidden, veiled

_TOLD = frozenset(("reason", "parked_ms", "partitionkey", HISTORY))


def fields(delivery: Delivery) -> dict[str, Any]:
    """Return what a list says of *delivery*: never its body."""
    time_ms = parked_ms(delivery)
    return {
        "id": delivery.message_id,
        "type": type_of(delivery),
        "app": app_of(delivery),
        "group": group_of(delivery),
        "reason": reason_of(delivery),
        "parked": iso_time(time_ms) if time_ms is not None and is_time(time_ms) else None,
        "attempt": delivery.attempt,
        "bytes": len(delivery.body),
    }


def whole(delivery: Delivery) -> dict[str, Any]:
    """Return all of *delivery* for orjson: ``event``, exactly, or ``body`` where that is no JSON object.

    ``history`` has what failed, the oldest first: ``<RFC 3339> <sink> <reason>`` each.
    """
    more = {name: value for name, value in delivery.headers.items() if name not in _TOLD}
    history = str(delivery.headers.get(HISTORY, ""))
    failed = history.split("; ") if history else []
    return {**fields(delivery), "history": failed, "headers": more, **_content(delivery.body)}


def veiled_whole(delivery: Delivery) -> dict[str, Any]:
    """Return what ``whole`` does, without what people wrote."""
    shown = whole(delivery)
    if "event" in shown:
        return {**shown, "event": veiled(parse_json(delivery.body, MAX_DEPTH + 2))}
    return {
        name: hidden(value) if name in ("body", "body_base64") else value for name, value in shown.items()
    }


def exported(delivery: Delivery) -> bytes:
    """Return all of *delivery* as one line."""
    return orjson.dumps(whole(delivery)) + b"\n"


def _content(body: bytes) -> dict[str, Any]:
    try:
        parse_json(body, MAX_DEPTH + 2)
    except ValueError:
        return _text(body)
    return {"event": orjson.Fragment(one_line(json_text(body)))}


def _text(body: bytes) -> dict[str, Any]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}
