"""Going through the parked events of a sink: count, look, replay, remove. One command's work."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from gateway.broker import DeadQueue, Delivery
from gateway.dead.choice import Choice, group_of, parked_ms, reason_of, type_of

_PAGE = 500
_BATCH = 100
_BATCHES_PER_S = 10


@dataclass(slots=True)
class Counts:
    """How many events were chosen, or done; by type and by reason."""

    events: int = 0
    types: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, deliveries: Sequence[Delivery]) -> None:
        self.events += len(deliveries)
        self.types.update(map(type_of, deliveries))
        self.reasons.update(map(reason_of, deliveries))


class Work:
    """What one command does with the parked events that *choice* takes. Bound: one page in memory."""

    def __init__(self, dead: DeadQueue, choice: Choice, limit: int = 0) -> None:
        """*limit*: at most so many events; 0: all."""
        self._dead = dead
        self._choice = choice
        self._limit = limit
        self._due_s = 0.0
        self._is_counted = False
        self._late_ms: int | None = None
        """What was parked from then on has to wait for others; None: everything stands in order."""
        self.parked = dead.todo
        """How many events stand in the queue."""
        self.seen = 0
        """How many of them this pass has looked at."""
        self.chosen = Counts()
        self.done = Counts()

    async def look(self) -> AsyncGenerator[Delivery, None]:
        """Yield what is chosen, in the order of the queue; everything stays there."""
        async with aclosing(self._pages(_PAGE)) as pages:
            async for chosen in pages:
                for delivery in chosen:
                    self.chosen.add([delivery])
                    yield delivery
                    if self.chosen.events == self._limit:
                        return

    async def first(self) -> Delivery | None:
        """Return the first that is chosen; it stays there."""
        async with aclosing(self.look()) as found:
            async for delivery in found:
                return delivery
        return None

    async def count(self) -> None:
        """Count what is chosen in ``chosen``."""
        self.chosen = Counts()
        self._late_ms = await self._disorder(None, self.chosen.add)
        self._is_counted = True

    async def replay(self, rate_per_s: float) -> None:
        """Give what is chosen back to the sink, *rate_per_s* events a second (0: as fast as it goes).

        Counts first, if that has not been done. In the order of parking for each key, also where a command
        that was killed has broken the queue's.
        Raises Unavailable; ``done`` says how many are confirmed and out of the dead queue.
        """
        size = max(1, min(_BATCH, int(rate_per_s / _BATCHES_PER_S))) if rate_per_s > 0 else _BATCH
        if not self._is_counted:
            await self.count()
        before_ms = self._late_ms
        while True:
            while before_ms is not None and (earlier := await self._disorder(before_ms)) is not None:
                before_ms = earlier
            async with aclosing(self._pages(size)) as pages:
                async for chosen in pages:
                    batch = self._within_limit([one for one in chosen if _is_before(one, before_ms)])
                    await self._pace(len(batch), rate_per_s)
                    await self._dead.replay(batch)
                    self.done.add(batch)
                    if self._is_enough:
                        return
            if before_ms is None:
                return
            before_ms = await self._disorder(None)

    async def purge(self) -> None:
        """Remove what is chosen for ever."""
        async with aclosing(self._pages(_PAGE)) as pages:
            async for chosen in pages:
                await self._dead.remove(chosen)
                self.done.add(chosen)

    async def replace(self, original: bytes, change: Callable[[Delivery], Delivery]) -> bool:
        """Replay what *change* makes of the first chosen event whose body is *original*; False: none is."""
        async with aclosing(self._pages(_PAGE)) as pages:
            async for chosen in pages:
                for delivery in chosen:
                    if delivery.body == original:
                        await self._dead.replay([change(delivery)])
                        self.done.add([delivery])
                        return True
        return False

    async def _pages(self, size: int) -> AsyncGenerator[list[Delivery], None]:
        """Yield what is chosen of each page of *size* events, from the first event on."""
        await self._dead.rewind()
        self.parked, self.seen = self._dead.todo, 0
        while page := await self._dead.page(size):
            self.seen += len(page)
            chosen = [delivery for delivery in page if self._choice.takes(delivery)]
            if chosen:
                yield chosen

    async def _disorder(
        self, before_ms: int | None, note: Callable[[Sequence[Delivery]], None] | None = None
    ) -> int | None:
        """Say whether what is chosen and was parked before *before_ms* stands in order, each key for itself.

        None: it does. Else a time: what was parked from then on has to wait for some of the others.
        """
        runs: dict[str, tuple[int, int]] = {}
        found: int | None = None
        async with aclosing(self._pages(_PAGE)) as pages:
            async for chosen in pages:
                if note is not None:
                    note(chosen)
                for delivery in chosen:
                    time_ms = parked_ms(delivery)
                    if time_ms is None or (before_ms is not None and time_ms >= before_ms):
                        continue
                    first, last = runs.setdefault(group_of(delivery), (time_ms, time_ms))
                    if time_ms >= last:
                        runs[group_of(delivery)] = (first, time_ms)
                    else:
                        late = first if time_ms < first else last
                        found = late if found is None else min(found, late)
        return found

    @property
    def _is_enough(self) -> bool:
        return self._limit > 0 and self.done.events >= self._limit

    def _within_limit(self, deliveries: list[Delivery]) -> list[Delivery]:
        return deliveries[: self._limit - self.done.events] if self._limit else deliveries

    async def _pace(self, events: int, rate_per_s: float) -> None:
        """Return when the next *events* are due."""
        if rate_per_s > 0 and events:
            now_s = time.monotonic()
            await asyncio.sleep(self._due_s - now_s)
            self._due_s = max(now_s, self._due_s) + events / rate_per_s


def _is_before(delivery: Delivery, before_ms: int | None) -> bool:
    if before_ms is None:
        return True
    time_ms = parked_ms(delivery)
    return time_ms is not None and time_ms < before_ms
