"""What events look like, for machines: JSON Schema of each type, AsyncAPI of where they go. Pure.

Open schemas: only the envelope is required, known values are examples, so a new field never makes an event
invalid. What does not fit its field stands under the sender's own name in ``data``, so the types hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.catalogue import EVENT_TIMES, MALFORMED_TYPE, ROWS, UNKNOWN_TYPE, Command, Field, Kind
from gateway.fields import name_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"
CONTENT_TYPE = "application/cloudevents+json"

_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_TYPES: Mapping[Kind, Mapping[str, Any]] = {
    Kind.ACCOUNTS: _TEXTS,
    Kind.TEXTS: _TEXTS,
    Kind.INTS: {"type": "array", "items": {"type": "integer"}},
    Kind.INT: {"type": "integer"},
    Kind.UINT32: {"type": "integer"},
    Kind.SECONDS: {"type": "integer", "description": "Unix time in milliseconds."},
    Kind.BOOL: {"type": "boolean"},
    Kind.ANY: {},
    Kind.ELEMENTS: {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"type": _TEXT, "content": {"type": "object"}},
        },
    },
}

_ENVELOPE: Mapping[str, tuple[bool, Mapping[str, Any], str]] = {
    "specversion": (True, {"const": "1.0"}, "CloudEvents version."),
    "id": (True, {"type": "string", "pattern": "^[0-9a-f]{32}$"}, "Derived from what happened."),
    "source": (True, {"type": "string", "pattern": "^/tencent-im/"}, "The app."),
    "subject": (True, _TEXT, "What it is about."),
    "time": (True, {"type": "string", "format": "date-time"}, "When it happened."),
    "datacontenttype": (True, {"const": "application/json"}, "Of data."),
    "dataschema": (True, {"type": "string", "format": "uri"}, "Names this schema."),
    "partitionkey": (True, _TEXT, "Events with one key keep their order."),
    "position": (True, _TEXT, "Where the callback stands in the journal."),
    "recordedtime": (True, {"type": "string", "format": "date-time"}, "When the gateway received it."),
    "appid": (True, _TEXT, "SDKAppID."),
    "command": (False, _TEXT, "Tencent's CallbackCommand."),
    "phase": (
        False,
        {"type": "string", "examples": ["before", "after", "sync", "alert"]},
        "When it is sent.",
    ),
    "timesource": (True, {"type": "string", "examples": ["EventTime", "MsgTime", "received"]}, "Says time."),
    "clientip": (False, _TEXT, "As the query said."),
    "platform": (False, _TEXT, "As the query said, lower case."),
    "verified": (True, {"type": "boolean"}, "Whether a Sign was checked and matched."),
    "traceparent": (False, _TEXT, "W3C trace context."),
}


def event_types() -> tuple[str, ...]:
    """Return all types that the gateway publishes."""
    return (*sorted({row.type for row in ROWS}), UNKNOWN_TYPE, MALFORMED_TYPE)


def event_schema(event_type: str) -> dict[str, Any]:
    """Return the JSON Schema of *event_type*; KeyError when there is no such type."""
    rows = [row for row in ROWS if row.type == event_type]
    if not rows and event_type not in (UNKNOWN_TYPE, MALFORMED_TYPE):
        raise KeyError(event_type)
    properties: dict[str, Any] = {
        name: {**schema, "description": said} for name, (_, schema, said) in _ENVELOPE.items()
    }
    properties["type"] = {"const": event_type}
    properties["data"] = _data_schema(event_type, rows)
    required = [name for name, (is_required, _, _) in _ENVELOPE.items() if is_required]
    return {
        "$schema": DIALECT,
        "$id": f"urn:im-gateway:event:{event_type}:1",
        "title": event_type,
        "description": description_of(event_type, rows),
        "type": "object",
        "required": [*required, "type", "data"],
        "properties": properties,
    }


def description_of(event_type: str, rows: list[Command]) -> str:
    """Return what the type is, in a sentence or two."""
    if event_type == UNKNOWN_TYPE:
        return "A callback whose command the gateway does not know; everything of it is kept."
    if event_type == MALFORMED_TYPE:
        return "A callback that could not go out as what it is; `reason` says why."
    return " ".join(f"Command {row.name} ({row.source}).{' ' + row.note if row.note else ''}" for row in rows)


def field_schema(field: Field) -> dict[str, Any]:
    """Return the schema of what *field* becomes in ``data``."""
    schema: dict[str, Any] = dict(_TYPES.get(field.kind, _TEXT))
    if field.kind is Kind.OBJECT:
        schema = _object_schema(field.fields)
    elif field.kind is Kind.OBJECTS:
        schema = {"type": "array", "items": _object_schema(field.fields)}
    values = known_values(field)
    if values:
        schema["examples"] = [[value] for value in values] if schema.get("type") == "array" else list(values)
    if field.note:
        schema["description"] = field.note
    return schema


def known_values(field: Field) -> tuple[Any, ...]:
    """Return the values that are known, as ``data`` has them."""
    if field.kind is Kind.ENUM or field.item == "Platform":
        return tuple(value.lower() for value in field.values)
    return field.values


def data_fields(row: Command) -> list[Field]:
    """Return the fields of *row* that become part of ``data``."""
    return [field for field in row.fields if field.kind not in EVENT_TIMES]


def _data_schema(event_type: str, rows: list[Command]) -> dict[str, Any]:
    properties: dict[str, Any] = {"raw": {"description": "The body as it came; absent where an app redacts."}}
    if event_type == MALFORMED_TYPE:
        properties = {"reason": _TEXT, "raw_base64": _TEXT}
    message: dict[str, Any] = {}
    for row in rows:
        for field in data_fields(row):
            name = name_of(field)
            target = message if name.startswith("message.") else properties
            target.setdefault(name.removeprefix("message."), field_schema(field))
        if row.is_uniform:
            properties["actor"] = {"type": "string", "description": "Who did it."}
            properties["subjects"] = {**_TEXTS, "description": "Whom it happened to."}
    if "mentions" in message:
        message["mentions_all"] = {"type": "boolean"}
    if message:
        properties["message"] = {"type": "object", "properties": message}
    properties["callback_command"] = {"type": "string", "description": "What the body said where it differs."}
    return {"type": "object", "properties": properties}


def _object_schema(fields: tuple[Field, ...]) -> dict[str, Any]:
    known = [field for field in fields if field.kind not in EVENT_TIMES]
    return {"type": "object", "properties": {name_of(field): field_schema(field) for field in known}}


def asyncapi(exchange: str, version: str) -> dict[str, Any]:
    """Return an AsyncAPI 3 document: one channel a type on the topic exchange *exchange*."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for event_type in event_types():
        key = event_type.replace(".", "_")
        schema = event_schema(event_type)
        messages[key] = {
            "name": event_type,
            "contentType": CONTENT_TYPE,
            "summary": schema["description"],
            "payload": {"schemaFormat": "application/schema+json;version=draft-2020-12", "schema": schema},
        }
        channels[key] = {
            "address": f"{event_type}.{{appid}}",
            "description": "The routing key.",
            "parameters": {"appid": {"description": "SDKAppID."}},
            "messages": {key: {"$ref": f"#/components/messages/{key}"}},
            "bindings": {"amqp": _exchange_binding(exchange)},
        }
        operations[f"publish_{key}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{key}"},
            "messages": [{"$ref": f"#/channels/{key}/messages/{key}"}],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "IM callback gateway",
            "version": version,
            "description": "Callbacks of Tencent Cloud Chat as CloudEvents.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }


def _exchange_binding(exchange: str) -> dict[str, Any]:
    return {
        "is": "routingKey",
        "exchange": {"name": exchange, "type": "topic", "durable": True, "autoDelete": False},
        "bindingVersion": "0.3.0",
    }
