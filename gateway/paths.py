"""Where something stands in a body: the paths of the catalogue, resolved. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gateway.catalogue import Command, Field, Kind
from gateway.fields import name_of
from gateway.names import lone, snake
from gateway.places import Place

_LISTS = (Kind.ACCOUNTS, Kind.TEXTS, Kind.INTS, Kind.OBJECTS)


class Path(NamedTuple):
    """A path of a row, with the other spellings that the row knows."""

    ways: tuple[tuple[str, ...], ...]
    """Wire names from the body down; the first way that leads somewhere counts."""
    kind: Kind | None
    """Of the field it leads to, None where the row does not describe it."""
    is_list: bool
    """What it leads to is a list, of accounts, texts, numbers or objects."""
    is_optional: bool
    place: Place
    """Where in ``data`` it stands."""


def resolve(row: Command, text: str) -> Path:
    """Return the path *text* of *row* (``ContactItem.To_Account``, with ``?`` at the end: optional)."""
    ways: tuple[tuple[str, ...], ...] = ((),)
    fields: tuple[Field, ...] = row.fields
    kind = None
    place: Place = ()
    for name in text.removesuffix("?").split("."):
        field = next((one for one in fields if name in (one.wire, *one.also)), None)
        names = (name, *(other for other in (field.wire, *field.also) if other != name)) if field else (name,)
        ways = tuple((*way, other) for way in ways for other in names)
        fields = field.fields if field else ()
        kind = field.kind if field else None
        place += tuple(name_of(field).split(".")) if field else (snake(name),)
    return Path(ways, kind, kind in _LISTS, text.endswith("?"), place)


def value_at(body: Mapping[str, Any], path: Path) -> Any:
    """Return the first value on *path* that is neither null nor empty, else None; through lists, a list."""
    for way in path.ways:
        if len(way) == 1:
            value = body.get(way[0])
        else:
            found = list(_walk(body, way))
            value = found[0] if len(found) == 1 else found
        if value is not None and value != "" and value != []:
            return value
    return None


def text_at(body: Mapping[str, Any], path: Path) -> str:
    """Return the text or number on *path* as text, the first one through lists; "" when there is none."""
    for way in path.ways:
        for found in (body.get(way[0]),) if len(way) == 1 else _walk(body, way):
            value = lone(found)
            if isinstance(value, str):
                if value:
                    return value
            elif isinstance(value, int) and not isinstance(value, bool):
                return str(value)
    return ""


def values_at(body: Mapping[str, Any], path: Path) -> Iterator[Any]:
    """Yield all values on all ways of *path*."""
    for way in path.ways:
        yield from _walk(body, way)


def _walk(value: Any, way: tuple[str, ...]) -> Iterator[Any]:
    if not way:
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, way)
    elif isinstance(value, dict) and way[0] in value:
        yield from _walk(value[way[0]], way[1:])
