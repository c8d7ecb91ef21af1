"""The generated part of ``docs/config.md``: every key with its type, bounds and default. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.config import Config

MARKER = "<!-- From here on: gateway schema --config -->"
_BOUNDS = (
    ("minimum", "≥"),
    ("ge", "≥"),
    ("exclusiveMinimum", ">"),
    ("gt", ">"),
    ("maximum", "≤"),
    ("le", "≤"),
)


def config_table() -> str:
    """Return a table for each section, and for each kind of sink, in the order of the file."""
    whole = Config.model_json_schema()
    found = whole["$defs"]
    lines: list[str] = []
    for name, about in whole["properties"].items():
        if name == "sinks":
            for one in found:
                if one.endswith("Sink"):
                    kind = found[one]["properties"]["kind"].get("const", "(of an installed package)")
                    lines += _section(f"sinks.NAME, kind: {kind}", found[one])
        elif "$ref" in about:
            lines += _section(name, found[_last(about["$ref"])])
        elif "additionalProperties" in about:
            lines += _section(f"{name}.NAME", found[_last(about["additionalProperties"]["$ref"])])
    return "\n".join(lines) + "\n"


def _section(title: str, about: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"## {title}", "")
    if text := about.get("description"):
        yield from (" ".join(text.replace("``", "`").split()), "")
    yield from ("| key | type | default |", "|---|---|---|")
    for key, field in about.get("properties", {}).items():
        default = f"`{json.dumps(field['default'], ensure_ascii=False)}`" if "default" in field else ""
        yield f"| `{key}` | {_type(field)} | {default} |".replace("|  |", "| |")
    yield ""


def _type(field: Mapping[str, Any]) -> str:
    """Return the type in words, with its bounds."""
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    ways = [one for one in field.get("anyOf", field.get("oneOf", ())) if one.get("type") != "null"]
    if ways:
        return " or ".join(dict.fromkeys(_type(one) for one in ways))
    if "$ref" in field:
        return _last(field["$ref"]).lower()
    kind = str(field.get("type", "any"))
    if kind == "array" and isinstance(field.get("items"), dict):
        return f"list of {_type(field['items'])}"
    bounds = [f"{sign} {field[name]:.15g}" for name, sign in _BOUNDS if name in field]
    return " ".join((kind, ", ".join(bounds))).strip()


def _last(reference: str) -> str:
    return reference.rpartition("/")[2]
