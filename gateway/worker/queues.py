"""What waits in a lane: in one row, or by conversation where ``order: strict`` is on. No I/O, no clock."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from gateway.backoff import Backoff
from gateway.broker import Delivery

_PART_BYTES = 1_048_576
"""So much of bodies is read and written at once, or one event: parsed they may take fifty times the room."""
_RETRY_MIN_S = 0.2
_RETRY_MAX_S = 15.0
Taken = tuple[float, Delivery]
"""When (monotonic, seconds) it was taken from the broker, and what."""


class Queue(Protocol):
    """A lane's queue. Times are monotonic seconds."""

    def __len__(self) -> int: ...

    @property
    def oldest_s(self) -> float | None:
        """When the oldest of what waits was taken."""
        ...

    def add(self, deliveries: Iterable[Delivery], now_s: float) -> None:
        """Let *deliveries* wait behind what is here."""
        ...

    def ready_in(self, now_s: float) -> float | None:
        """Return in how many seconds there is something to write; None: when something is added."""
        ...

    def take(self, most: int, now_s: float) -> list[Taken]:
        """Return what is to be written next, in order: at most *most* events, and 1 MiB or one event."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


class Row:
    """One row: what came first goes first."""

    def __init__(self) -> None:
        self._row: deque[Taken] = deque()

    def __len__(self) -> int:
        return len(self._row)

    @property
    def oldest_s(self) -> float | None:
        return self._row[0][0] if self._row else None

    def add(self, deliveries: Iterable[Delivery], now_s: float) -> None:
        self._row.extend((now_s, delivery) for delivery in deliveries)

    def ready_in(self, now_s: float) -> float | None:
        return 0.0 if self._row else None

    def take(self, most: int, now_s: float) -> list[Taken]:
        part: list[Taken] = []
        size_bytes = 0
        while self._row and len(part) < most:
            size_bytes += len(self._row[0][1].body)
            if part and size_bytes > _PART_BYTES:
                break
            part.append(self._row.popleft())
        return part

    def clear(self) -> None:
        self._row.clear()


@dataclass(slots=True)
class _Conversation:
    events: deque[Taken] = field(default_factory=deque)
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

    def add(self, deliveries: Iterable[Delivery], now_s: float) -> None:
        for delivery in deliveries:
            self._of(delivery).events.append((now_s, delivery))
            self._count += 1

    def ready_in(self, now_s: float) -> float | None:
        waits = [max(0.0, one.retry_s - now_s) for one in self._by_key.values() if one.events]
        return min(waits, default=None)

    def take(self, most: int, now_s: float) -> list[Taken]:
        part: list[Taken] = []
        size_bytes = 0
        for key, one in list(self._by_key.items()):
            if not one.events or one.retry_s > now_s:
                continue
            size_bytes += len(one.events[0][1].body)
            if len(part) >= most or (part and size_bytes > _PART_BYTES):
                break
            part.append(one.events.popleft())
            self._by_key[key] = self._by_key.pop(
                key
            )  # Why: to the end, so that each conversation has its turn
        self._count -= len(part)
        return part

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

    def failed(self, taken: Taken, now_s: float) -> float:
        """Put *taken* back in front of its conversation, which waits; return how long it has failed."""
        one = self._of(taken[1])
        one.events.appendleft(taken)
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
