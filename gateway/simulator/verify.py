"""Compares a ledger with what arrived: acknowledged, arrived, lost, duplicated. Pure; others read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.event import iso_time
from gateway.ids import FACT_DIGITS
from gateway.patterns import matches
from gateway.simulator.arrivals import Arrival
from gateway.simulator.ledger import CONNECTION, TIMEOUT, Entry, Expected, Ledger

SHOWN = 10
"""Numbers of lost callbacks that are printed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Callbacks and events counted; the fields of callbacks sum up to ``sent``."""

    sent: int
    acknowledged: int
    arrived: int
    """Acknowledged callbacks whose events are all in the sink."""
    queued: int
    """Acknowledged, not all in the sink, the rest in its queue."""
    parked: int
    """Acknowledged, and an event stands in the sink's dead queue."""
    elsewhere: int
    """Acknowledged, of a type that this sink does not take."""
    lost: tuple[int, ...]
    """Numbers of acknowledged callbacks of which an event is nowhere."""
    refused: int
    unanswered: int
    """Timeouts, connection errors, and callbacks whose answer the sender did not live to see."""
    kept_unacknowledged: int
    """Of the last two: those that arrived all the same."""
    duplicated: int
    """Events of the ledger that the sink has more than once."""
    unexpected: int
    """Events of this app, recorded since the ledger began, that no callback of it gives."""

    def summary(self) -> dict[str, Any]:
        """Return all figures by name: what ``--json`` prints."""
        figures = {name: getattr(self, name) for name in self.__slots__}
        return {**figures, "lost": len(self.lost), "lost_numbers": list(self.lost[:SHOWN])}


@dataclass(slots=True)
class Comparison:
    """One ledger against one sink; takes arrivals as they are read."""

    ledger: Ledger
    patterns: Sequence[str]
    """The sink's ``events``."""
    _in_sink: Counter[str] = field(default_factory=Counter)
    _queued: set[str] = field(default_factory=set)
    _parked: set[str] = field(default_factory=set)
    _keys: frozenset[str] = frozenset()
    _unexpected: int = 0

    def __post_init__(self) -> None:
        self._keys = frozenset(one.id for entry in self.ledger.entries.values() for one in entry.expected)

    def add(self, arrivals: Iterable[Arrival]) -> None:
        """Count what the sink has."""
        since = iso_time(self.ledger.head.started_ms)
        for arrival in self._ours(arrivals):
            key = self._key_of(arrival)
            if key:
                self._in_sink[key] += 1
            elif arrival.recorded >= since:
                self._unexpected += 1

    def add_queued(self, arrivals: Iterable[Arrival], *, is_parked: bool) -> None:
        """Count what waits for the sink, or was parked for it."""
        place = self._parked if is_parked else self._queued
        place.update(filter(None, map(self._key_of, self._ours(arrivals))))

    @property
    def is_complete(self) -> bool:
        """Everything acknowledged that this sink takes is in it."""
        return all(
            one.id in self._in_sink
            for entry in self.ledger.entries.values()
            if entry.is_acknowledged
            for one in self._taken(entry)
        )

    def verdict(self) -> Verdict:
        """Return what was found so far."""
        entries = self.ledger.entries.values()
        acknowledged = [entry for entry in entries if entry.is_acknowledged]
        others = [entry for entry in entries if not entry.is_acknowledged]
        places = {entry.number: self._place(entry) for entry in acknowledged}
        count = Counter(places.values())
        unanswered = sum(entry.answer in _UNANSWERED for entry in others)
        return Verdict(
            sent=len(self.ledger.entries),
            acknowledged=len(acknowledged),
            arrived=count["arrived"],
            queued=count["queued"],
            parked=count["parked"],
            elsewhere=count["elsewhere"],
            lost=tuple(number for number, place in places.items() if place == "lost"),
            refused=len(others) - unanswered,
            unanswered=unanswered,
            kept_unacknowledged=sum(self._place(entry) == "arrived" for entry in others),
            duplicated=sum(times > 1 for times in self._in_sink.values()),
            unexpected=self._unexpected,
        )

    def _place(self, entry: Entry) -> str:
        keys = [one.id for one in self._taken(entry)]
        if not keys:
            return "elsewhere"
        missing = [key for key in keys if key not in self._in_sink]
        if not missing:
            return "arrived"
        if any(key not in self._queued and key not in self._parked for key in missing):
            return "lost"
        return "parked" if any(key in self._parked for key in missing) else "queued"

    def _taken(self, entry: Entry) -> list[Expected]:
        app_id = self.ledger.head.app_id
        return [
            one
            for one in entry.expected
            if any(matches(pattern, f"{one.type}.{app_id}") for pattern in self.patterns)
        ]

    def _ours(self, arrivals: Iterable[Arrival]) -> Iterable[Arrival]:
        source = f"/tencent-im/{self.ledger.head.app_id}"
        return (arrival for arrival in arrivals if arrival.source == source)

    def _key_of(self, arrival: Arrival) -> str:
        """Return the ledger's id of *arrival*, "" when no callback of the ledger gives it."""
        for known in (arrival.id, arrival.id[:FACT_DIGITS]):
            if known in self._keys:
                return known
        return ""


_UNANSWERED = ("", TIMEOUT, CONNECTION)
_WORDS = {
    "acknowledged": "answered OK",
    "arrived": "of these in the sink",
    "queued": "of these waiting in its queue",
    "parked": "of these parked in its dead queue",
    "elsewhere": "of these not for this sink",
    "lost": "of these lost",
    "refused": "refused",
    "unanswered": "not answered",
    "kept_unacknowledged": "of the refused and unanswered in the sink",
    "duplicated": "events more than once in the sink",
    "unexpected": "events that the ledger does not have",
}


def render(verdict: Verdict) -> str:
    """Return the verdict as lines of ``number  words`` for people."""
    figures = verdict.summary()
    lines = [f"{figures[name]:>9}  {words}" for name, words in _WORDS.items()]
    if verdict.lost:
        more = ", …" if len(verdict.lost) > SHOWN else ""
        lines.append(f"lost: {', '.join(map(str, verdict.lost[:SHOWN]))}{more}")
    return "\n".join([f"{verdict.sent:>9}  callbacks in the ledger", *lines])
