"""What waits in a lane: in one row, or by conversation where ``order: strict`` is on. No I/O, no clock."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

from gateway.backoff import Backoff
from gateway.broker import Delivery

_PART_BYTES = 1_048_576
"""So much of bodies is read and written at once, or one event: parsed they may take fifty times the room."""
_RETRY_MIN_S = 0.2
_RETRY_MAX_S = 15.0
Part = tuple[float, list[Delivery]]
"""When (monotonic, seconds) the oldest of them was taken from the broker, and what, in order."""


class Queue(Protocol):
    """A lane's queue. Times are monotonic seconds."""

    def __len__(self) -> int: ...

    @property
    def oldest_s(self) -> float | None:
        """When the oldest of what waits was taken."""
        ...

    def add(self, deliveries: list[Delivery], now_s: float) -> None:
        """Let *deliveries* wait behind what is here."""
        ...

    def ready_in(self, now_s: float) -> float | None:
        """Return in how many seconds there is something to write; None: when something is added."""
        ...

    def take(self, most: int, now_s: float) -> Part:
        """Return what is to be written next: at most *most* events, and 1 MiB or one event.

        To be called when something is ready.
        """
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


class Row:
    """One row: what came first goes first."""

    def __init__(self) -> None:
        self._parts: deque[Part] = deque()

    def __len__(self) -> int:
        return sum(len(deliveries) for _, deliveries in self._parts)

    @property
    def oldest_s(self) -> float | None:
        return self._parts[0][0] if self._parts else None

    def add(self, deliveries: list[Delivery], now_s: float) -> None:
        if deliveries:
            self._parts.append((now_s, deliveries))

    def ready_in(self, now_s: float) -> float | None:
        return 0.0 if self._parts else None

    def take(self, most: int, now_s: float) -> Part:
        since_s, part = self._parts.popleft()
        if self._parts and len(part) < most:
            part = [*part]
            while self._parts and len(part) < most:
                part += self._parts.popleft()[1]
        count = min(most, _fitting(part))
        if count < len(part):
            self._parts.appendleft((since_s, part[count:]))
            part = part[:count]
        return since_s, part

    def clear(self) -> None:
        self._parts.clear()


@dataclass(slots=True)
class _Conversation:
    events: deque[tuple[float, Delivery]] = field(default_factory=deque)
    """With when each was taken."""
    failing_since_s: float | None = None
    retry_s: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(_RETRY_MIN_S, _RETRY_MAX_S, random.random))


class Conversations:
    """A row for each key. Of each at most one event is taken at a time, so that none can overtake it."""

    def __init__(self) -> None:
        self._by_key: dict[str, _Conversation] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def oldest_s(self) -> float | None:
        return min((one.events[0][0] for one in self._by_key.values() if one.events), default=None)

    @property
    def held(self) -> int:
        """How many events wait for one of their conversation that fails, these included."""
        return sum(len(one.events) for one in self._by_key.values() if one.failing_since_s is not None)

    def add(self, deliveries: list[Delivery], now_s: float) -> None:
        for delivery in deliveries:
            self._of(delivery).events.append((now_s, delivery))
            self._count += 1

    def ready_in(self, now_s: float) -> float | None:
        waits = [max(0.0, one.retry_s - now_s) for one in self._by_key.values() if one.events]
        return min(waits, default=None)

    def take(self, most: int, now_s: float) -> Part:
        ready = [key for key, one in self._by_key.items() if one.events and one.retry_s <= now_s][:most]
        firsts = [self._by_key[key].events[0][1] for key in ready]
        part, since_s = firsts[: _fitting(firsts)], now_s
        for delivery in part:
            # Why to the end: so that each conversation has its turn.
            one = self._by_key[delivery.key] = self._by_key.pop(delivery.key)
            since_s = min(since_s, one.events.popleft()[0])
        self._count -= len(part)
        return since_s, part

    def clear(self) -> None:
        self._by_key.clear()
        self._count = 0

    def settled(self, delivery: Delivery) -> None:
        """Note that *delivery*, which was taken, needs no further try: its conversation goes on."""
        one = self._of(delivery)
        one.failing_since_s, one.retry_s = None, 0.0
        one.backoff.reset()
        if not one.events:
            del self._by_key[delivery.key]

    def failed(self, delivery: Delivery, taken_s: float, now_s: float) -> float:
        """Put *delivery* back in front of its conversation, which waits; return how long it has failed.

        *taken_s*: when it was taken from the broker, or something older.
        """
        one = self._of(delivery)
        one.events.appendleft((taken_s, delivery))
        self._count += 1
        if one.failing_since_s is None:
            one.failing_since_s = now_s
        one.retry_s = now_s + one.backoff.next_s()
        return now_s - one.failing_since_s

    def remove(self, key: str) -> list[Delivery]:
        """Return all events of the conversation *key*, in order, and forget it."""
        one = self._by_key.pop(key, _Conversation())
        self._count -= len(one.events)
        return [delivery for _, delivery in one.events]

    def _of(self, delivery: Delivery) -> _Conversation:
        one = self._by_key.get(delivery.key)
        if one is None:
            one = self._by_key[delivery.key] = _Conversation()
        return one


def _fitting(deliveries: Sequence[Delivery]) -> int:
    """Return how many of *deliveries* have 1 MiB, or 1."""
    sizes = [len(delivery.body) for delivery in deliveries]
    if sum(sizes) <= _PART_BYTES:
        return len(sizes)
    return max(1, sum(total <= _PART_BYTES for total in accumulate(sizes)))
