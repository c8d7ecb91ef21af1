"""One field of a known command: from what stands on the wire to what stands in ``data``, by its kind. Pure.

A converter returns MISFIT for a value that is not what the catalogue says; it is kept under the wire's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gateway.catalogue import EVENT_TIMES, Field, Kind
from gateway.messages import elements
from gateway.names import accounts, free_name, has_unread, is_number, lone, nested, snake, to_time_ms, typed

MISFIT = object()
"""The value does not fit its field."""
LEAVE_OUT = object()
"""The value says nothing: an empty topic id, for example."""

Convert = Callable[[Any], Any]
_MAX_DIGITS = 18


class Slot(NamedTuple):
    """Where a wire name goes."""

    wire: str
    """The field's first spelling; the others give way to it."""
    name: str
    """Our name; the part behind ``message.`` where ``in_message``."""
    in_message: bool
    convert: Convert | None
    """None: the value is used elsewhere, and not part of ``data``."""


class Plan(NamedTuple):
    """What is known of an object."""

    slots: Mapping[str, Slot]
    """By wire name, all spellings included."""
    converts: Mapping[str, Convert]
    """By our name: a wire name that the row does not have may become one of ours, and has to fit too."""
    reserved: frozenset[str] = frozenset()
    """Names that no field of the wire may take."""


def plan_of(
    fields: tuple[Field, ...],
    reserved: frozenset[str] = frozenset(),
    elsewhere: tuple[str, ...] = (),
) -> Plan:
    """Return the plan for an object that holds *fields*; wire names in *elsewhere* are used elsewhere."""
    plan: dict[str, Slot] = {wire: Slot(wire, "", False, None) for wire in elsewhere}
    for field in fields:
        convert = None if field.kind in EVENT_TIMES else _converter(field)
        name = name_of(field)
        in_message = name.startswith("message.")
        for wire in (field.wire, *field.also):
            plan.setdefault(wire, Slot(field.wire, name.removeprefix("message."), in_message, convert))
    converts = {slot.name: slot.convert for slot in plan.values() if slot.convert and not slot.in_message}
    return Plan(plan, converts, reserved)


def name_of(field: Field) -> str:
    """Return the field's name in ``data``, with ``message.`` in front where it stands in there."""
    name = field.name or snake(field.wire)
    return f"{name}_ms" if field.kind is Kind.SECONDS else name


def fill(
    plan: Plan, body: Mapping[str, Any], data: dict[str, Any], message: dict[str, Any]
) -> list[tuple[str, str, Any]]:
    """Put what *plan* knows of *body* into *data* and *message*; return the rest as (name, wire, value)."""
    rest = []
    slots = plan.slots
    for wire, value in body.items():
        slot = slots.get(wire)
        if slot is None:
            rest.append(("", wire, value))
            continue
        convert = slot.convert
        if convert is None or value is None:
            continue
        if wire != slot.wire and body.get(slot.wire) not in (None, ""):
            rest.append(("", wire, value))
            continue
        fitted = convert(value)
        target = message if slot.in_message else data
        if fitted is MISFIT or slot.name in target:
            # Why the underscore: where both names are one, the typed one stays free.
            rest.append((wire if wire != slot.name else f"{wire}_", wire, value))
        elif fitted is not LEAVE_OUT:
            target[slot.name] = fitted
            if convert is accounts and isinstance(value, list) and has_unread(value, fitted):
                rest.append((wire if wire != slot.name else f"{wire}_", wire, value))
    return rest


def keep(
    plan: Plan, rest: list[tuple[str, str, Any]], data: dict[str, Any], group_type: bool = False
) -> None:
    """Put *rest* into *data* by the general rules, beside what stands there."""
    for name, wire, value in rest:
        if name:
            data[_free(plan, name, wire, data)] = nested(value)
            continue
        ours = "group_type" if group_type and wire == "Type" else snake(wire)
        ours, ruled = typed(ours, wire, value)
        convert = plan.converts.get(ours)
        if convert is not None and ours not in data:
            fitted = convert(value)
            if fitted is not MISFIT:
                if fitted is not LEAVE_OUT:
                    data[ours] = fitted
                continue
        data[_free(plan, ours, wire, data)] = ruled


def _free(plan: Plan, name: str, wire: str, data: dict[str, Any]) -> str:
    """Return *name* or, where that is taken or means a known field, what is free of the wire's."""
    own = wire
    while own in plan.converts or own in plan.reserved:
        own += "_"
    return free_name(own if name in plan.converts or name in plan.reserved else name, own, data)


def _converter(field: Field) -> Convert:
    if field.kind is Kind.OBJECT:
        return _object_of(plan_of(field.fields))
    if field.kind is Kind.OBJECTS:
        return _objects_of(_object_of(plan_of(field.fields)), field.item)
    if field.kind is Kind.TEXTS:
        return _texts_of(field.item)
    if field.kind is Kind.ANY:
        wire = field.wire
        return lambda value: typed("", wire, value)[1]
    return _PLAIN[field.kind]


def _object_of(plan: Plan) -> Convert:
    def convert(value: Any) -> Any:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, dict):
            return MISFIT
        data: dict[str, Any] = {}
        keep(plan, fill(plan, value, data, data), data)
        return data

    return convert


def _objects_of(one: Convert, bare: str) -> Convert:
    def convert(value: Any) -> Any:
        items = value if isinstance(value, list) else [value]
        # Why bare: some pages write a list of objects as one of plain values.
        objects = [one({bare: item} if bare and not isinstance(item, dict) else item) for item in items]
        return MISFIT if any(item is MISFIT for item in objects) else objects

    return convert


def _texts_of(key: str) -> Convert:
    def convert(value: Any) -> Any:
        items = value if isinstance(value, list) else [value]
        texts = [_text(item.get(key) if key and isinstance(item, dict) else item) for item in items]
        if any(text is MISFIT for text in texts):
            return MISFIT
        return [text.lower() for text in texts] if key == "Platform" else texts

    return convert


def _ints(value: Any) -> Any:
    numbers = [_int(item) for item in (value if isinstance(value, list) else [value])]
    return MISFIT if any(number is MISFIT for number in numbers) else numbers


def _text(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return _exact(value) if is_number(value) else MISFIT


def _topic(value: Any) -> Any:
    return LEAVE_OUT if value == "" else _text(value)


def _enum(value: Any) -> Any:
    text = _text(value)
    return text if text is MISFIT else text.lower()


def _int(value: Any) -> Any:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 1e15 else MISFIT
    if isinstance(value, str):
        digits = value.removeprefix("-")
        return int(value) if digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS else MISFIT
    return MISFIT


def _bool(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        value = value.strip().lower()
    return _BOOLS.get(value, MISFIT) if isinstance(value, (str, int)) else MISFIT


def _seconds(value: Any) -> Any:
    time_ms = to_time_ms(value)
    return MISFIT if time_ms is None else time_ms


def _elements(value: Any) -> Any:
    found = elements(value)
    return MISFIT if found is None else found


def _exact(value: float) -> str:
    return str(int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value)


_BOOLS: Mapping[Any, bool] = {"true": True, "false": False, "1": True, "0": False, 1: True, 0: False}
_PLAIN: Mapping[Kind, Convert] = {
    Kind.TEXT: _text,
    Kind.OPAQUE: _text,
    Kind.ACCOUNT: lambda value: _text(lone(value)),
    Kind.ACCOUNTS: accounts,
    Kind.GROUP_ID: _text,
    Kind.TOPIC_ID: _topic,
    Kind.OFFICIAL_ID: _text,
    Kind.ROOM_ID: _text,
    Kind.ID: _text,
    Kind.INT: _int,
    Kind.UINT32: _int,
    Kind.INTS: _ints,
    Kind.BOOL: _bool,
    Kind.ENUM: _enum,
    Kind.SECONDS: _seconds,
    Kind.ELEMENTS: _elements,
}
