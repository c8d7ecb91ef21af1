"""The generated part of ``docs/events.md``: each type with a sample event and its fields. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gateway.callback import Callback
from gateway.catalogue import ROWS, Command, Field, Kind
from gateway.fields import name_of
from gateway.normalise import ID_RECIPE, normalise
from gateway.samples import TIME_MS, sample_body
from gateway.schema import data_fields, known_values

MARKER = "<!-- From here on: gateway schema --markdown -->"

_ABOUT = {"official_account": "official account", "c2c": "the two users"}
_KINDS = {
    Kind.OPAQUE: "text, the app's own: never parsed",
    Kind.ACCOUNT: "id",
    Kind.ACCOUNTS: "list of ids",
    Kind.TEXTS: "list of texts",
    Kind.INTS: "list of integers",
    Kind.GROUP_ID: "id",
    Kind.TOPIC_ID: "id",
    Kind.OFFICIAL_ID: "id",
    Kind.ROOM_ID: "id",
    Kind.INT: "integer",
    Kind.UINT32: "integer, unsigned 32 bits",
    Kind.BOOL: "boolean",
    Kind.ENUM: "word, lower case",
    Kind.SECONDS: "time, Unix ms",
    Kind.ELEMENTS: "list of `{type, content}`",
}


def markdown() -> str:
    """Return the overview and a section for each type."""
    lines = ["## Types", "", "| type | command | phase | about |", "|---|---|---|---|"]
    lines += [
        f"| [`{row.type}`](#{_anchor(row.type)}) | {_commands(row)} | {row.phase} | {_about(row)} |"
        for row in ROWS
    ]
    for row in ROWS:
        lines += ["", *_section(row)]
    return "\n".join(lines) + "\n"


def sample_event(row: Command) -> dict[str, Any]:
    """Return the event of the row's sample body, without ``raw``."""
    query = (
        f"SdkAppid=1400000000&CallbackCommand={row.name}&contenttype=json&ClientIP=127.0.0.1&OptPlatform=Web"
    )
    callback = Callback(
        app_id="1400000000",
        query=query,
        body=json.dumps(sample_body(row)).encode(),
        peer="127.0.0.1",
        received_ms=TIME_MS + 77,
        verified=True,
        id_recipe=ID_RECIPE,
        id_window_s=10,
    )
    event: dict[str, Any] = json.loads(normalise(callback, "4f2a.17")[0].body)
    del event["data"]["raw"]
    return event


def _section(row: Command) -> Iterator[str]:
    yield f"### {row.type}"
    yield ""
    unsure = "" if row.is_documented else " Unverified."
    older = f" Older name: {', '.join(f'`{name}`' for name in row.older)}." if row.older else ""
    yield f"`{row.name}` ({row.source}).{older}{unsure}{' ' + row.note if row.note else ''}"
    yield ""
    event = sample_event(row)
    yield "```json"
    data = event.pop("data")
    yield json.dumps(event, ensure_ascii=False)[:-1] + ","
    parts = [f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in data.items()]
    yield ' "data": {\n' + ",\n".join(parts) + "}}"
    yield "```"
    fields = list(_rows(data_fields(row), ""))
    if fields:
        yield ""
        yield "| field | on the wire | what |"
        yield "|---|---|---|"
        yield from fields


def _rows(fields: list[Field], path: str) -> Iterator[str]:
    for field in fields:
        name = f"{path}{name_of(field)}"
        wire = ", ".join(f"`{one}`" for one in (field.wire, *field.also))
        yield f"| `{name}` | {wire} | {_what(field)} |"
        yield from _rows(list(field.fields), f"{name}[]." if field.kind is Kind.OBJECTS else f"{name}.")


def _what(field: Field) -> str:
    values = ", ".join(f"`{value}`" for value in known_values(field))
    parts = [
        _KINDS.get(field.kind, str(field.kind)) + (f": {values} …" if values else ""),
        "may be absent" if field.optional else "",
        field.note.rstrip("."),
    ]
    return "; ".join(part for part in parts if part)


def _commands(row: Command) -> str:
    return f"`{row.name}`"


def _about(row: Command) -> str:
    kinds = dict.fromkeys(text.split(":")[0] for text in row.about)
    return ", ".join(_ABOUT.get(kind, kind) for kind in kinds) or "app"


def _anchor(event_type: str) -> str:
    return event_type.replace(".", "")
