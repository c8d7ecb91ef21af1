"""Where a value stands in ``data`` and what stands there, by the names of the catalogue. Pure.

A place is the names from ``data`` down to a value, lists left out: ``("contact_item", "to")``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway.catalogue import ROWS, Field, Kind
from gateway.fields import name_of
from gateway.names import snake

Place = tuple[str, ...]

_PEOPLE = frozenset((Kind.ACCOUNT, Kind.ACCOUNTS))
_TEXTS = frozenset((Kind.TEXT, Kind.OPAQUE, Kind.ANY, Kind.ENUM))


def places_of(place: Place, key: str) -> tuple[Place, ...]:
    """Return what *key* of the object at *place* stands for: our name, and what else its wire name may mean.

    ``MsgBody`` is ``message.elements``, and so ``message`` too; ``Member_Account`` may be one of ``members``.
    """
    name = snake(key)
    # Why not always: an unknown command, or a value that did not fit, has the wire's name and not ours.
    also = _OTHER_NAMES.get(name, ()) if key != name or name not in _OURS else ()
    return ((*place, name), *((*place, *other) for other in also))


def is_content(places: tuple[Place, ...]) -> bool:
    """Say whether one of *places* is what people wrote: the elements of a message."""
    return any(place[-1] == "elements" for place in places)


def is_text(place: Place) -> bool:
    """Say whether *place* is known to hold text or a word, and no id."""
    return place[-1] in _WORDS


def is_account(places: tuple[Place, ...], named: frozenset[str]) -> bool:
    """Say whether *places*, those of one key, hold accounts of people: by the catalogue, or by *named*.

    That is what ``account_names`` found in the body.
    """
    return any(place[-1] in _ACCOUNTS for place in places) or places[0][-1] in named


def account_names(*bodies: Any) -> frozenset[str]:
    """Return our names of all keys in *bodies*, at any depth, that the wire calls accounts."""
    names = (snake(key) for body in bodies for key in _keys(body) if key.endswith("_Account"))
    return frozenset(names) - _NO_PEOPLE


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _keys(inner)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item)


def _last_name(field: Field) -> str:
    """Return the last part of the field's name in ``data``."""
    return name_of(field).rpartition(".")[2]


def _fields(fields: tuple[Field, ...]) -> Iterator[Field]:
    for field in fields:
        yield field
        yield from _fields(field.fields)


def _other_names() -> dict[str, tuple[Place, ...]]:
    """Return our places of each wire name that the general rule names otherwise."""
    found: dict[str, set[Place]] = {wire: {(name,)} for wire, name in _IN_ELEMENTS}
    for field in _ALL:
        place = tuple(name_of(field).split("."))
        of_items = (field.item,) if field.item.endswith("_Account") else ()
        for wire in (field.wire, *field.also, *of_items):
            if (snake(wire),) != place:
                found.setdefault(snake(wire), set()).update(place[: at + 1] for at in range(len(place)))
    return {name: tuple(sorted(places)) for name, places in found.items()}


_IN_ELEMENTS = (
    ("msg_type", "type"),
    ("msg_content", "content"),
    ("msg_list", "messages"),
    ("msg_time", "time_ms"),
    ("msg_time_stamp", "time_ms"),
    ("msg_timestamp", "time_ms"),
)
_ALL = tuple(field for row in ROWS for field in _fields(row.fields))
_OTHER_NAMES = _other_names()
_OURS = frozenset(("type", *(name_of(field) for field in _ALL)))
_ACCOUNTS = frozenset(_last_name(field) for field in _ALL if field.kind in _PEOPLE)
_NO_PEOPLE = frozenset(_last_name(field) for field in _ALL if field.kind is Kind.OFFICIAL_ID)
_WORDS = frozenset(
    _last_name(field)
    for field in _ALL
    if field.kind in _TEXTS or (field.kind is Kind.TEXTS and not field.wire.endswith("IdList"))
)
