"""Personal data left out of events, or replaced so that it can't be read: ``apps.<id>.redact``. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gateway.catalogue import ROWS, Field
from gateway.fields import name_of
from gateway.names import snake

_Place = tuple[str, ...]

DROPPED = "redacted"
"""Stands for a dropped id in ``subject`` and ``partitionkey``."""


@dataclass(frozen=True, slots=True)
class Redaction:
    """What an app's events may not show.

    A name is one of ours, at any depth of ``data`` (``operator``), or the end of a path there
    (``message.elements``); ``clientip`` and ``platform`` name the event's attributes.
    """

    drop: frozenset[str] = frozenset()
    """Names that are left out."""
    hash: frozenset[str] = frozenset()
    """Names whose texts are replaced by their HMAC-SHA-256, 64 hex digits; equal texts stay equal. Numbers
    and booleans under such a name are left out."""
    key: bytes = b""
    """The HMAC's key: ``redact_key``."""

    @classmethod
    def of(cls, rule: Mapping[str, str], key: str) -> Redaction:
        """Return the redaction of ``apps.<id>.redact`` (name to ``drop`` or ``hash``) and ``redact_key``."""
        return cls(
            drop=frozenset(name for name, how in rule.items() if how == "drop"),
            hash=frozenset(name for name, how in rule.items() if how == "hash"),
            key=key.encode("utf-8", "surrogatepass"),
        )

    @property
    def is_active(self) -> bool:
        """Without names nothing is redacted, and ``raw`` stays."""
        return bool(self.drop or self.hash)

    def digest(self, text: str) -> str:
        """Return what stands for *text*."""
        return hmac.new(self.key, text.encode("utf-8", "surrogatepass"), "sha256").hexdigest()

    def data(self, data: dict[str, Any]) -> tuple[dict[str, Any], Mapping[str, str]]:
        """Return *data* redacted, and what became of each text in it that was.

        ``actor`` and ``subjects`` repeat what stands elsewhere, so they follow those values.
        """
        seen: dict[str, str] = {}
        repeated: dict[str, Any] = {name: data[name] for name in ("actor", "subjects") if name in data}
        rest = {name: value for name, value in data.items() if name not in repeated}
        redacted = self._object(rest, (), seen)
        again = self._object(repeated, (), seen)
        if isinstance(again.get("actor"), str):
            again["actor"] = seen.get(again["actor"], again["actor"])
        if isinstance(again.get("subjects"), list):
            again["subjects"] = [seen.get(one, one) for one in again["subjects"]]
        if again.get("actor") == DROPPED:
            del again["actor"]
        if "subjects" in again:
            again["subjects"] = [one for one in again["subjects"] if one != DROPPED]
        return {**redacted, **again}, seen

    def attribute(self, name: str, value: str) -> str:
        """Return an attribute of the envelope redacted, "" when it is left out."""
        if name in self.drop:
            return ""
        return self.digest(value) if value and name in self.hash else value

    def _object(self, value: Mapping[str, Any], path: _Place, seen: dict[str, str]) -> dict[str, Any]:
        kept = {}
        for key, inner in value.items():
            # Why snake: what did not fit its field stands under the wire's name, or with an underscore.
            name = snake(key).rstrip("_")
            if self._has(self.drop, path, key, name):
                _note(inner, seen)
            elif self._has(self.hash, path, key, name):
                hashed = self._hashed(inner, seen)
                if hashed is not None:
                    kept[key] = hashed
            elif isinstance(inner, (dict, list)):
                kept[key] = self._any(inner, (*path, name), seen)
            else:
                kept[key] = inner
        return kept

    def _any(self, value: Any, path: _Place, seen: dict[str, str]) -> Any:
        if isinstance(value, dict):
            return self._object(value, path, seen)
        if isinstance(value, list):
            return [self._any(item, path, seen) for item in value]
        return value

    def _has(self, names: frozenset[str], path: _Place, key: str, name: str) -> bool:
        if not names:
            return False
        # Why also: an unknown command, or a value that did not fit, has the wire's name and not ours.
        also = _OTHER_NAMES.get(name, ()) if key != name or name not in _OURS else ()
        return any(_is_named(names, (*path, *ours)) for ours in ((name,), *also))

    def _hashed(self, value: Any, seen: dict[str, str]) -> Any:
        if isinstance(value, dict):
            items = {key: self._hashed(inner, seen) for key, inner in value.items()}
            return {key: item for key, item in items.items() if item is not None}
        if isinstance(value, list):
            return [item for item in (self._hashed(one, seen) for one in value) if item is not None]
        if not isinstance(value, str):
            # Why not hashed: the schema promises a number there, and a few tries would find a small one.
            _note(value, seen)
            return None
        if value:
            seen[value] = self.digest(value)
        return seen.get(value, value)


def _note(value: Any, seen: dict[str, str]) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _note(item, seen)
    elif value is not None and value != "":
        seen[value if isinstance(value, str) else str(value)] = DROPPED


def _is_named(names: frozenset[str], place: _Place) -> bool:
    """Say whether a name is *place* or the end of it."""
    # Why by the last part: most keys end no name, and a stranger's key may be long.
    return any(place[-len(parts) :] == parts for parts in _by_last(names).get(place[-1], ()))


@lru_cache(maxsize=256)
def _by_last(names: frozenset[str]) -> Mapping[str, list[_Place]]:
    found: dict[str, list[_Place]] = {}
    for name in names:
        parts = tuple(name.split("."))
        found.setdefault(parts[-1], []).append(parts)
    return found


def _other_names() -> tuple[dict[str, tuple[_Place, ...]], frozenset[str]]:
    """Return our places of each wire name that the general rule names otherwise, and all names of ours.

    ``msg_body`` is ``message.elements``, and so ``message`` too.
    """
    found: dict[str, set[_Place]] = {}
    ours = {"type"}
    fields: list[Field] = [field for row in ROWS for field in row.fields]
    while fields:
        field = fields.pop()
        fields.extend(field.fields)
        place = tuple(name_of(field).split("."))
        ours.add(place[-1] if len(place) == 1 else "")
        for wire in (field.wire, *field.also):
            if (snake(wire),) != place:
                found.setdefault(snake(wire), set()).update(place[: at + 1] for at in range(len(place)))
    return {name: tuple(sorted(places)) for name, places in found.items()}, frozenset(ours)


_OTHER_NAMES, _OURS = _other_names()
