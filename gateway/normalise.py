"""Callback to events, in one place and pure. Never raises on anything the journal holds.

What an event says of the body is made in ``content``, which fact it is in ``ids``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import orjson

from gateway.about import ready_of, subject_of
from gateway.callback import Callback, command_of
from gateway.catalogue import COMMANDS, MALFORMED_TYPE, UNKNOWN_TYPE
from gateway.content import data_of
from gateway.errors import Refused
from gateway.event import Event, iso_time, json_text, parse_json
from gateway.ids import ID_RECIPE, event_id, malformed_id
from gateway.names import event_time
from gateway.query import parse_query
from gateway.redact import Redaction

__all__ = ["ID_RECIPE", "MAX_ITEMS", "command_named", "malformed", "normalise", "normalise_or_keep"]

MAX_ITEMS = 100
"""Events in one Push envelope. Source: cloud.tencent.com/document/product/269/102567."""

_ENVELOPE_BYTES = 4096
_KEY_BYTES = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff]")
_MODERATION = "ContentCallback.ResultNotify"
_OPEN = Redaction()


def normalise(callback: Callback, position: str, redaction: Redaction = _OPEN) -> list[Event]:
    """Return the events of *callback*, at least one; *position* is ``<journal id>.<position>``.

    *redaction* says what this app's events may not show.
    """
    try:
        body = parse_json(callback.body)
    except ValueError:
        return [malformed(callback, position, "malformed_body", redaction=redaction)]
    params = _params(callback)
    command = _command(params, body)
    items = body.get("Events")
    if not (command.startswith("Push.") and isinstance(items, list) and items):
        raw = orjson.Fragment(json_text(callback.body))
        return [_event(callback, params, command, body, raw, f"{position}.0", redaction)]
    if len(items) > MAX_ITEMS:
        return [malformed(callback, position, "too_many_items", redaction=redaction)]
    around = {name: value for name, value in body.items() if name not in ("Events", "CallbackCommand")}
    # Why once when large: a megabyte around a hundred items would be a hundred megabytes of events.
    is_small = len(orjson.dumps(around)) <= _ENVELOPE_BYTES
    return [
        _event(
            callback, params, command, item if isinstance(item, dict) else {"item": item}, item,
            f"{position}.{at}", redaction, around if is_small or at == 0 else None,
        )
        for at, item in enumerate(items)
    ]  # fmt: skip


def normalise_or_keep(
    callback: Callback,
    position: str,
    redaction: Redaction = _OPEN,
    on_error: Callable[[Exception], None] = lambda error: None,
) -> list[Event]:
    """Return the events of *callback* whatever happens: a bug of ours makes it one ``im.malformed``.

    One callback must never hold up those behind it; *on_error* gets what went wrong.
    """
    try:
        return normalise(callback, position, redaction)
    except Exception as error:  # noqa: BLE001 - see above
        on_error(error)
        return [malformed(callback, position, "normalise_error", redaction=redaction)]


def command_named(callback: Callback) -> str:
    """Return the command that the event of *callback* has, "" when nothing names one."""
    params = _params(callback)
    # Why first: it stands there nearly always, and reading every body takes long.
    if in_query := params.get("callbackcommand"):
        return in_query
    try:
        return _command(params, parse_json(callback.body))
    except ValueError:
        return _command(params, {})


def malformed(
    callback: Callback, position: str, reason: str, *, with_body: bool = True, redaction: Redaction = _OPEN
) -> Event:
    """Return an ``im.malformed`` event for a callback that can't go out as what it is."""
    params = _params(callback)
    command, _ = command_of(params, {})
    data: dict[str, Any] = {"reason": reason}
    if with_body and not redaction.is_active:
        data["raw_base64"] = base64.b64encode(callback.body).decode()
    return _envelope(
        callback, params, command, f"{position}.0", MALFORMED_TYPE, None, f"app/{callback.app_id}", None,
        "received", malformed_id(callback, command), data, redaction,
    )  # fmt: skip


def _event(
    callback: Callback,
    params: Mapping[str, str],
    command: str,
    body: dict[str, Any],
    raw: Any,
    position: str,
    redaction: Redaction,
    around: Mapping[str, Any] | None = None,
) -> Event:
    row = COMMANDS.get(command)
    ready = ready_of(row) if row is not None else None
    data = data_of(command, ready, body, around, redaction)
    if not redaction.is_active:
        data["raw"] = raw
    about = subject_of(ready, body, callback.app_id)
    ids = redaction.subject(about) if redaction.is_active else about.ids
    subject = (about.kind, *(sorted(ids) if about.kind == "c2c" else ids))
    time_ms, timesource = event_time(body)
    return _envelope(
        callback, params, command, position, row.type if row else UNKNOWN_TYPE,
        row.phase if row else _phase(command), "/".join(subject), time_ms, timesource,
        event_id(callback, command, row, body, time_ms, timesource), data, redaction,
    )  # fmt: skip


def _envelope(
    callback: Callback,
    params: Mapping[str, str],
    command: str,
    position: str,
    event_type: str,
    phase: str | None,
    subject: str,
    time_ms: int | None,
    timesource: str,
    identity: str,
    data: dict[str, Any],
    redaction: Redaction,
) -> Event:
    about = _plain(subject)
    recorded = iso_time(callback.received_ms)
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": identity,
        "source": f"/tencent-im/{callback.app_id}",
        "type": event_type,
        "subject": about,
        "time": recorded if time_ms is None else iso_time(time_ms),
        "datacontenttype": "application/json",
        "dataschema": f"urn:im-gateway:event:{event_type}:1",
        "partitionkey": about,
        "position": position,
        "recordedtime": recorded,
        "appid": callback.app_id,
    }
    if command:
        attributes["command"] = _plain(command)
    if phase:
        attributes["phase"] = phase
    attributes["timesource"] = timesource
    clientip, platform = params.get("clientip", ""), params.get("optplatform", "").lower()
    if redaction.is_active:
        clientip = redaction.attribute("clientip", clientip)
        platform = redaction.attribute("platform", platform)
    if clientip:
        attributes["clientip"] = _plain(clientip)
    if platform:
        attributes["platform"] = _plain(platform)
    attributes["verified"] = callback.verified
    attributes["data"] = data
    return Event(orjson.dumps(attributes), attributes)


def _command(params: Mapping[str, str], body: Mapping[str, Any]) -> str:
    """Return the command: as the query or the body says, else as the shape of the body shows."""
    command, _ = command_of(params, body)
    if command:
        return command
    items = body.get("Events")
    if isinstance(items, list) and items and isinstance(items[0], dict):
        inner = items[0].get("CallbackCommand")
        return inner if isinstance(inner, str) else ""
    # Source: 269/95616, the only body of its product and the only one without CallbackCommand.
    return _MODERATION if "CtxcbRequestId" in body and "CtxcbResult" in body else ""


def _plain(text: str) -> str:
    """Return *text* fit for a CloudEvents attribute and an AMQP header: no control characters, 255 bytes.

    A longer one is cut and ends in a hash of the whole, so that different ones stay different.
    Source: CloudEvents 1.0.2, type system, String.
    """
    if len(text) <= _KEY_BYTES and text.isascii() and text.isprintable():
        return text
    clean = _CONTROL.sub("\ufffd", text)
    encoded = clean.encode("utf-8", "replace")
    if len(encoded) <= _KEY_BYTES:
        return encoded.decode()
    mark = blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()
    return encoded[: _KEY_BYTES - 33].decode("utf-8", "ignore") + "~" + mark


def _phase(command: str) -> str | None:
    if "Before" in command or "Prev" in command:
        return "before"
    return "after" if "After" in command else None


def _params(callback: Callback) -> dict[str, str]:
    try:
        return parse_query(callback.query)
    except Refused:
        return {}
