"""The event's id: which fact it is, whatever it was spelled like. Pure.

Recipe 1 is final once it has been released: a change of anything here, or of what the catalogue's rows say
under ``fact`` and ``once``, is recipe 2 beside it. Callbacks carry the recipe they were stored under.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from gateway.callback import Callback
from gateway.catalogue import Command, Kind
from gateway.names import lone, to_time_ms
from gateway.paths import Path, resolve, value_at

ID_RECIPE = 1
"""Version of the id rules, stored with each callback: a change of rules adds a version, never edits one."""
FACT_DIGITS = 16
"""Where the time of receipt takes part, the first digits of an id are the fact's and the others its window's,
so that the ids of one fact can be told without knowing when it was received."""

_SEQUENCES = ("MsgSeq", "MsgKey", "MsgId", "MsgID", "MsgRandom", "Random")
_text = json.encoder.encode_basestring_ascii
"""JSON of a string, as json.dumps writes it."""
# Two spellings of one field, lower case: bodies that differ only in these are the same fact.
_SYNONYMS = {
    "togroupid": "groupid",
    "requestor_account": "requester_account",
    "modified_account": "member_account",
    "msgrandom": "random",
    "memberlist_account": "memberlist",
}
_TIMES = frozenset(("eventtime", "msgtime"))


class _Rule(NamedTuple):
    fact: tuple[Path, ...]
    once: tuple[Path, ...]


def event_id(
    callback: Callback,
    command: str,
    row: Command | None,
    body: Mapping[str, Any],
    time_ms: int | None,
    timesource: str,
) -> str:
    """Return the id, 32 hex digits, of the event that *body* (of one push item, that item) becomes.

    *command* is the sender's word, not our type, which may get better.
    """
    rule = _rule(row) if row is not None and row.since <= callback.id_recipe else None
    identity = _fact(body, rule.fact) if rule is not None and rule.fact else None
    if identity is None:
        identity = (_canonical_text(body),)
    if rule is None:
        is_timed = time_ms is not None or any(name in body for name in _SEQUENCES)
    else:
        is_timed = timesource == "EventTime" or any(
            lone(value_at(body, path)) not in (None, "") for path in rule.once
        )
    return _hash(callback, command, (*identity, str(time_ms or "")), is_timed=is_timed)


def malformed_id(callback: Callback, command: str) -> str:
    """Return the id of a callback that is no JSON object: over its bytes."""
    return _hash(callback, command, ("malformed", callback.body.hex()), is_timed=False)


def _hash(callback: Callback, command: str, identity: tuple[str, ...], *, is_timed: bool) -> str:
    fact = _digest(str(callback.id_recipe), callback.app_id, command, *identity)
    if is_timed:
        return fact
    window = callback.received_ms // (max(1, callback.id_window_s) * 1000)
    return fact[:FACT_DIGITS] + _digest(fact, str(window))[FACT_DIGITS:]


def _digest(*parts: str) -> str:
    # Why JSON: it keeps the borders between parts, so that no two lists of parts give one text.
    return blake2b(_list_text(parts).encode(), digest_size=16).hexdigest()


def _list_text(texts: Iterable[str]) -> str:
    """Return what json.dumps makes of a list of strings, in a third of the time."""
    return f"[{', '.join(map(_text, texts))}]"


_RULES: dict[str, tuple[Command, _Rule]] = {}


def _rule(row: Command) -> _Rule:
    # Why not lru_cache: hashing a row means hashing all its fields.
    known = _RULES.get(row.name)
    if known is None or known[0] is not row:
        rule = _Rule(
            tuple(resolve(row, text) for text in row.fact), tuple(resolve(row, text) for text in row.once)
        )
        known = _RULES[row.name] = (row, rule)
    return known[1]


def _fact(body: Mapping[str, Any], paths: tuple[Path, ...]) -> tuple[str, ...] | None:
    """Return what identifies the fact, or None when a part that it needs is missing."""
    parts = []
    for path in paths:
        value = value_at(body, path)
        if type(value) is str and not path.is_list:
            parts.append(_text(value.lower() if path.kind is Kind.ENUM else value))
            continue
        one = lone(value)
        if one is None or one == "":
            if not path.is_optional:
                return None
            parts.append("null")
        elif path.is_list or isinstance(one, list):
            items = value if isinstance(value, list) else [value]
            parts.append(_list_text(sorted(_account(item) for item in items)))
        elif isinstance(one, dict):
            return None
        else:
            text = _scalar(one)
            parts.append(_text(text.lower() if path.kind is Kind.ENUM else text))
    return tuple(parts)


def _account(item: Any) -> str:
    if isinstance(item, dict):
        for name, inner in item.items():
            if name.endswith("_Account") and isinstance(inner, (str, int)):
                return _scalar(inner)
    return _scalar(item) if not isinstance(item, (dict, list)) else json.dumps(_canonical(item))


def _canonical_text(body: Mapping[str, Any]) -> str:
    """Return *body* as text that equal facts share: no order of keys, one spelling of names and numbers.

    A list of one is its item, since the wire writes the same field either way.
    """
    facts = {wire: value for wire, value in body.items() if wire != "CallbackCommand"}
    return json.dumps(_canonical(facts), separators=(",", ":"))


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        # Why pairs: two spellings of one name may stand side by side, and both count.
        names = sorted((_name(wire), wire) for wire in value)
        return {"": [[name, _field(name, value[wire])] for name, wire in names]}
    if isinstance(value, list):
        return _canonical(value[0]) if len(value) == 1 else [_canonical(item) for item in value]
    return None if value is None else _scalar(value)


def _field(name: str, value: Any) -> Any:
    if name in _TIMES:
        time_ms = to_time_ms(value)
        if time_ms is not None:
            return str(time_ms)
    return _canonical(value)


def _name(wire: str) -> str:
    # Why not cached when long: the cache is bounded by names, and a stranger's name may be a megabyte.
    return _short_name(wire) if len(wire) <= 64 else wire.lower()


@lru_cache(maxsize=4096)
def _short_name(wire: str) -> str:
    name = wire.lower()
    return _SYNONYMS.get(name, name)


def _scalar(value: Any) -> str:
    """Return a value as text: 5, 5.0 and "5" are one, true and "true" too."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
