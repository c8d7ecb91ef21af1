"""Who waits for which position, and which positions are lost. Used on the loop only."""

from __future__ import annotations

import asyncio
from collections import deque


class Waiters:
    """Futures by position; all up to a position are resolved at once, in order."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}
        self._reached = 0

    async def wait(self, position: int) -> None:
        """Return when ``reach`` was called with *position* or more; the caller sets the deadline."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(position, []).append(future)
        try:
            await future
        finally:
            # Why: callers give up after a deadline, and the broker may be away for days.
            entry = self._waiting.get(position, [])
            if future in entry:
                entry.remove(future)
                if not entry:
                    del self._waiting[position]

    def reach(self, position: int) -> None:
        """Let everyone go on who waits for *position* or less."""
        span = range(self._reached + 1, position + 1)
        # Why: normally a batch is confirmed and few or none wait; after an outage it is the other way round.
        due = sorted(at for at in self._waiting if at <= position) if len(self._waiting) < len(span) else span
        self._reached = max(self._reached, position)
        for at in due:
            for future in self._waiting.pop(at, ()):
                if not future.done():
                    future.set_result(None)

    def fail(self, first: int, last: int, error: Exception) -> None:
        """Raise *error* at everyone who waits for a position from *first* to *last*."""
        for at in [at for at in self._waiting if first <= at <= last]:
            for future in self._waiting.pop(at):
                if not future.done():
                    future.set_exception(error)


class Holes:
    """Ranges of positions that are lost. Bound: one entry for each damaged place in the files."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        self._passed: deque[tuple[int, int]] = deque(maxlen=64)

    def add(self, first: int, last: int, cursor: int) -> int:
        """Note that *first* to *last* are lost; return how many of them are news and behind *cursor*."""
        news, at = 0, max(first, cursor + 1)
        for low, high in [*self._ranges, (last + 1, last + 1)]:
            if low > at:
                stop = min(low - 1, last)
                if stop >= at:
                    self._ranges.append((at, stop))
                    news += stop - at + 1
            at = max(at, high + 1)
        self._ranges.sort()
        return news

    def count(self, cursor: int) -> int:
        """Return how many lost positions lie above *cursor*, which never stands inside a range."""
        while self._ranges and self._ranges[0][1] <= cursor:
            self._passed.append(self._ranges.pop(0))
        return sum(high - low + 1 for low, high in self._ranges)

    def skip(self, position: int) -> int:
        """Return the last position of the lost ones that follow *position* at once, else *position*."""
        for low, high in self._ranges:
            if low <= position + 1 <= high:
                position = high
        return position

    def covers(self, position: int) -> bool:
        """Say whether *position* is lost, as far as that was not long ago."""
        return any(low <= position <= high for low, high in (*self._ranges, *self._passed))
