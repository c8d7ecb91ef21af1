"""Callback to events: names, times, ids, in one place and pure. Never raises on anything the journal holds.

The general rules serve every command; a row of the catalogue refines them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import orjson

from gateway.callback import Callback, command_of, parse_query
from gateway.catalogue import COMMANDS, MALFORMED_TYPE, UNKNOWN_TYPE, Command
from gateway.errors import Refused
from gateway.event import Event, iso_time, json_text, parse_json
from gateway.names import accounts, free_name, snake, to_time_ms, typed

ID_RECIPE = 1
"""Version of the id rules, stored with each callback: a change of rules adds a version, never edits one."""

MAX_ITEMS = 100
"""Events in one Push envelope. Source: cloud.tencent.com/document/product/269/102567."""

_KEY_BYTES = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff]")
_SEQUENCES = ("MsgSeq", "MsgKey", "MsgId", "MsgID", "MsgRandom", "Random")
_CONSUMED = frozenset(("CallbackCommand", "EventTime"))


def normalise(callback: Callback, position: str) -> list[Event]:
    """Return the events of *callback*, at least one; *position* is ``<journal id>.<position>``."""
    try:
        body = parse_json(callback.body)
    except ValueError:
        return [malformed(callback, position, "malformed_body")]
    command, _ = command_of(_params(callback), body)
    items = body.get("Events")
    if not (command.startswith("Push.") and isinstance(items, list) and items):
        return [_event(callback, command, body, orjson.Fragment(json_text(callback.body)), f"{position}.0")]
    if len(items) > MAX_ITEMS:
        return [malformed(callback, position, "too_many_items")]
    return [
        _event(
            callback, command, item if isinstance(item, dict) else {"item": item}, item, f"{position}.{at}"
        )
        for at, item in enumerate(items)
    ]


def malformed(callback: Callback, position: str, reason: str, *, with_body: bool = True) -> Event:
    """Return an ``im.malformed`` event for a callback that can't go out as what it is."""
    command, _ = command_of(_params(callback), {})
    data: dict[str, Any] = {"reason": reason}
    if with_body:
        data["raw_base64"] = base64.b64encode(callback.body).decode()
    identity: tuple[str, ...] = ("malformed", callback.body.hex())
    return _envelope(
        callback, command, f"{position}.0", MALFORMED_TYPE, None, f"app/{callback.app_id}", None, "received",
        _id(callback, command, identity, is_timed=False), data,
    )  # fmt: skip


def _event(callback: Callback, command: str, body: dict[str, Any], raw: Any, position: str) -> Event:
    row = COMMANDS.get(command)
    data = _data(command, row, body)
    time_ms, timesource = _time(body)
    if row is not None and row.fact:
        identity = tuple(_fact(data.get(name)) for name in row.fact)
        if any(_has_unread(body[wire]) for wire in row.accounts if wire in body):
            # Why the whole body then: facts that differ only in what can't be read would be taken for one.
            identity = (*identity, _canonical(body, time_ms if timesource == "EventTime" else None))
        is_timed = time_ms is not None
    else:
        identity = (_canonical(body, time_ms if timesource == "EventTime" else None),)
        is_timed = time_ms is not None or any(name in body for name in _SEQUENCES)
    event_id = _id(callback, command, (*identity, str(time_ms or "")), is_timed=is_timed)
    in_body = body.get("CallbackCommand")
    if isinstance(in_body, str) and in_body != command:
        data.setdefault("callback_command", in_body)
    data["raw"] = raw
    return _envelope(
        callback, command, position, row.type if row else UNKNOWN_TYPE, row.phase if row else _phase(command),
        _subject(callback, body), time_ms, timesource, event_id, data,
    )  # fmt: skip


def _envelope(
    callback: Callback,
    command: str,
    position: str,
    event_type: str,
    phase: str | None,
    subject: str,
    time_ms: int | None,
    timesource: str,
    event_id: str,
    data: dict[str, Any],
) -> Event:
    params = _params(callback)
    about = _plain(subject)
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": event_id,
        "source": f"/tencent-im/{callback.app_id}",
        "type": event_type,
        "subject": about,
        "time": iso_time(callback.received_ms if time_ms is None else time_ms),
        "datacontenttype": "application/json",
        "dataschema": f"urn:im-gateway:event:{event_type}:1",
        "partitionkey": about,
        "position": position,
        "recordedtime": iso_time(callback.received_ms),
        "appid": callback.app_id,
        "command": _plain(command),
        "phase": phase,
        "timesource": timesource,
        "clientip": _plain(params.get("clientip", "")),
        "platform": _plain(params.get("optplatform", "").lower()),
        "verified": callback.verified,
        "data": data,
    }
    attributes = {name: value for name, value in attributes.items() if value not in (None, "")}
    return Event(orjson.dumps(attributes), attributes)


def _data(command: str, row: Command | None, body: Mapping[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for wire, value in body.items():
        if wire in _CONSUMED:
            continue
        if row is not None and wire in row.accounts:
            value = accounts(value)
        elif row is not None and wire in row.enums and isinstance(value, str):
            value = value.lower()
        name = (row.names.get(wire) if row else None) or _name(command, wire)
        name, value = typed(name, wire, value)
        data[free_name(name, wire, data)] = value
    if row is not None and row.mend is not None:
        row.mend(data)
    return data


def _name(command: str, wire: str) -> str:
    return "group_type" if wire == "Type" and command.startswith("Group.") else snake(wire)


def _time(body: Mapping[str, Any]) -> tuple[int | None, str]:
    for wire in ("EventTime", "MsgTime"):
        time_ms = to_time_ms(body.get(wire))
        if time_ms is not None:
            return time_ms, wire
    return None, "received"


def _subject(callback: Callback, body: Mapping[str, Any]) -> str:
    def text(wire: str) -> str:
        value = body.get(wire)
        return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""

    group = text("GroupId") or text("GroupID") or text("ToGroupId")
    if group:
        return f"group/{group}"
    sender, receiver = text("From_Account"), text("To_Account")
    if sender and receiver:
        return "c2c/" + "/".join(sorted((sender, receiver)))
    user = sender or text("Operator_Account") or receiver
    return f"user/{user}" if user else f"app/{callback.app_id}"


def _plain(text: str) -> str:
    """Return *text* fit for a CloudEvents attribute and an AMQP header: no control characters, 255 bytes.

    A longer one is cut and ends in a hash of the whole, so that different ones stay different.
    Source: CloudEvents 1.0.2, type system, String.
    """
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


def _has_unread(value: Any) -> bool:
    """Say whether *value*, a list of accounts, has entries that hold none."""
    return isinstance(value, (list, dict)) and len(accounts(value)) < len(value)


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps(sorted(str(item) for item in value))
    return json.dumps(value, sort_keys=True, default=str)


def _canonical(body: Mapping[str, Any], time_ms: int | None) -> str:
    """Return *body* as text that equal facts share: keys sorted, EventTime as a number, no command."""
    facts = {wire: value for wire, value in body.items() if wire != "CallbackCommand"}
    if time_ms is not None:
        facts["EventTime"] = time_ms
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))


def _id(callback: Callback, command: str, identity: tuple[str, ...], *, is_timed: bool) -> str:
    """Return the event's id, 32 hex digits, over the recipe's version, app, command and *identity*."""
    parts = [str(callback.id_recipe), callback.app_id, command, *identity]
    if not is_timed:
        parts.append(str(callback.received_ms // (callback.id_window_s * 1000)))
    # Why JSON: it keeps the borders between parts, so that no two lists of parts give one text.
    return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
