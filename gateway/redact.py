"""Personal data left out of events, or replaced so that it can't be read: ``apps.<id>.redact``. Pure.

What the gateway derives (actor, subjects, subject, what a row mends) is derived from values that were
redacted first, by the names of the fields they come from. So nothing has to be looked for afterwards.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from gateway.about import SUBJECT_PLACES, About
from gateway.names import Flat
from gateway.places import Place, is_account, is_content, is_text, places_of

How = Literal["", "drop", "hash"]

ALL_ACCOUNTS = "accounts"
"""Names every account, under whatever name it stands."""
DROPPED = "redacted"
"""Stands for an id in ``subject`` and ``partitionkey`` where there is no key to hash it with."""
_TOPIC_MARK = "@TOPIC#"  # a topic's id is its group's, this, and a name
_NO_NAMES: frozenset[str] = frozenset()


class _Digest(str):
    """A text that was hashed; hashing it again changes nothing."""

    __slots__ = ()


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
    accounts: How = ""
    """What happens to accounts under names that are in neither."""
    key: bytes = b""
    """The HMAC's key: ``redact_key``."""

    @classmethod
    def of(cls, rule: Mapping[str, str], key: str) -> Redaction:
        """Return the redaction of ``apps.<id>.redact`` (name to ``drop`` or ``hash``) and ``redact_key``."""
        names = {name: how for name, how in rule.items() if name != ALL_ACCOUNTS}
        accounts = rule.get(ALL_ACCOUNTS)
        return cls(
            drop=frozenset(name for name, how in names.items() if how == "drop"),
            hash=frozenset(name for name, how in names.items() if how == "hash"),
            accounts="drop" if accounts == "drop" else "hash" if accounts == "hash" else "",
            key=key.encode("utf-8", "surrogatepass"),
        )

    @property
    def is_active(self) -> bool:
        """Without names nothing is redacted, and ``raw`` stays."""
        return bool(self.drop or self.hash or self.accounts)

    def digest(self, text: str) -> str:
        """Return what stands for *text*."""
        if isinstance(text, _Digest):
            return text
        return _Digest(hmac.digest(self.key, text.encode("utf-8", "surrogatepass"), "sha256").hex())

    def data(self, data: Mapping[str, Any], accounts: frozenset[str] = _NO_NAMES) -> dict[str, Any]:
        """Return *data* redacted; twice gives the same as once. *accounts*: ``account_names`` of the body."""
        return self._object(data, (), accounts, is_written=False)

    def account(self, place: Place, text: str) -> str | None:
        """Return the account *text*, which comes from *place*, as it may be shown; None: not at all."""
        shown: str | None = self._shown(self._on_the_way(place) or self.accounts, text)
        return shown

    def subject(self, about: About) -> tuple[str, ...]:
        """Return the ids as ``subject`` and ``partitionkey`` may show them.

        The ids of one kind are hidden in all commands as soon as one of the fields that they may come from is
        named: so both sides of a conversation, and all commands about it, have one key.
        """
        return tuple(
            self._part(about.kind, one, places) for one, places in zip(about.ids, about.places, strict=True)
        )

    def attribute(self, name: str, value: str) -> str:
        """Return an attribute of the envelope redacted, "" when it is left out."""
        if name in self.drop:
            return ""
        return self.digest(value) if value and name in self.hash else value

    def _part(self, kind: str, text: str, places: tuple[Place, ...]) -> str:
        hidden = _hidden_kinds(self.drop) | _hidden_kinds(self.hash)
        is_person = kind in ("user", "c2c")
        if kind in hidden or (is_person and self.accounts) or any(map(self._on_the_way, places)):
            return self._stand_in(text)
        group, mark, topic = text.rpartition(_TOPIC_MARK)
        return (
            f"{self._stand_in(group)}{mark}{topic}"
            if mark and kind == "topic" and "group" in hidden
            else text
        )

    def _stand_in(self, text: str) -> str:
        return self.digest(text) if self.key else DROPPED

    def _object(
        self, value: Mapping[str, Any], place: Place, accounts: frozenset[str], *, is_written: bool
    ) -> dict[str, Any]:
        kept = {}
        for key, inner in value.items():
            places = places_of(place, key)
            how = self._how(places, accounts)
            if how:
                shown = self._shown(how, inner)
            else:
                shown = self._any(inner, places[0], accounts, is_written=is_written or is_content(places))
            if shown is not None or (inner is None and not how):
                kept[key] = shown
        return kept

    def _any(self, value: Any, place: Place, accounts: frozenset[str], *, is_written: bool) -> Any:
        if isinstance(value, dict):
            return self._object(value, place, accounts, is_written=is_written)
        if isinstance(value, Flat):
            items = {value.wire: list(value)}
            return self._object(items, place, accounts, is_written=is_written).get(value.wire, [])
        if isinstance(value, list):
            found = (self._any(one, place, accounts, is_written=is_written) for one in value)
            return [
                shown for one, shown in zip(value, found, strict=True) if shown is not None or one is None
            ]
        return (
            value
            if not isinstance(value, str) or is_written or is_text(place)
            else self._without_group(value)
        )

    def _without_group(self, text: str) -> str | None:
        """Return *text* without the group's id in front, where it is a topic's and groups are hidden."""
        group, mark, topic = text.rpartition(_TOPIC_MARK)
        if not mark or isinstance(text, _Digest):
            return text
        if "group" in _hidden_kinds(self.hash):
            return _Digest(f"{self.digest(group)}{mark}{topic}")
        return None if "group" in _hidden_kinds(self.drop) else text

    def _how(self, places: tuple[Place, ...], accounts: frozenset[str]) -> How:
        for place in places:
            how = self._named(place)
            if how:
                return how
        return self.accounts if self.accounts and is_account(places, accounts) else ""

    def _on_the_way(self, place: Place) -> How:
        """Return what happens at *place* because of its name, or of one that leads there."""
        found = (self._named(place[: at + 1]) for at in range(len(place)))
        return next((how for how in found if how), "")

    def _named(self, place: Place) -> How:
        if self.drop and _is_named(self.drop, place):
            return "drop"
        return "hash" if self.hash and _is_named(self.hash, place) else ""

    def _shown(self, how: How, value: Any) -> Any:
        """Return *value* as *how* says; None: nothing of it."""
        if how == "drop":
            return None
        if not how:
            return value
        if isinstance(value, dict):
            items = {key: self._shown(how, inner) for key, inner in value.items()}
            return {key: item for key, item in items.items() if item is not None}
        if isinstance(value, list):
            return [item for item in (self._shown(how, one) for one in value) if item is not None]
        if not isinstance(value, str):
            # Why not hashed: the schema promises a number there, and a few tries would find a small one.
            return None
        return self.digest(value) if value else value


def _is_named(names: frozenset[str], place: Place) -> bool:
    """Say whether a name is *place* or the end of it."""
    # Why by the last part: most keys end no name, and a stranger's key may be long.
    return any(place[-len(parts) :] == parts for parts in _by_last(names).get(place[-1], ()))


@lru_cache(maxsize=256)
def _by_last(names: frozenset[str]) -> Mapping[str, list[Place]]:
    found: dict[str, list[Place]] = {}
    for name in names:
        parts = tuple(name.split("."))
        found.setdefault(parts[-1], []).append(parts)
    return found


@lru_cache(maxsize=256)
def _hidden_kinds(names: frozenset[str]) -> frozenset[str]:
    """Return the kinds of subject whose ids come from a field that is named."""
    return frozenset(
        kind for kind, places in SUBJECT_PLACES.items() if any(_is_named(names, place) for place in places)
    )
