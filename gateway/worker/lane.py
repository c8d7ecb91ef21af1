"""One lane of a worker: its events in order, its own instance of the sink, and what becomes of each event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

from gateway.broker import Delivery
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.sinks import Failures
from gateway.worker.access import MOST_HELD_S, Access, SinkBug
from gateway.worker.fate import Fate
from gateway.worker.queues import Queue, Row
from gateway.worker.shift import Bench, GiveBack, Shift
from gateway.worker.strict import Strict

Pair = tuple[Delivery, Event]


class Lane:
    """Bound: what the consumer hands out; of that 1 MiB, or one event, parsed."""

    def __init__(self, access: Access, bench: Bench, fate: Fate) -> None:
        self._access = access
        self._bench = bench
        self._fate = fate
        self._strict = Strict(bench, fate) if bench.config.order == "strict" else None
        self._queue: Queue = self._strict.queue if self._strict is not None else Row()
        self._arrived = asyncio.Event()
        self._hand_since_s = 0.0
        self._in_hand = 0

    @property
    def held(self) -> int:
        """How many events were added and are not settled."""
        return len(self._queue) + self._in_hand

    @property
    def is_idle(self) -> bool:
        """Nothing is in hand, and nothing ready to be written."""
        return not self._in_hand and self._queue.ready_in(time.monotonic()) != 0

    @property
    def blocked(self) -> int:
        """How many of them wait for one of their conversation that fails."""
        return self._strict.queue.held if self._strict is not None else 0

    @property
    def oldest_s(self) -> float | None:
        """When (monotonic) the oldest of them was taken."""
        if self._in_hand:
            return self._hand_since_s
        return self._queue.oldest_s

    def add(self, deliveries: list[Delivery]) -> None:
        """Take *deliveries*, to be written behind those that are here."""
        self._queue.add(deliveries, time.monotonic())
        self._arrived.set()

    def wake(self) -> None:
        """Let a lane without work notice the end of its shift."""
        self._arrived.set()

    def reset(self) -> None:
        """Forget what is held: the consumer that it came from is closed."""
        self._queue.clear()
        self._in_hand = 0
        if self._strict is not None:
            self._strict.reset()
        self._access.reset()

    async def work(self, shift: Shift) -> None:
        """Write what is added until the shift ends; ends it when events have to go back.

        Raises Unavailable when the broker is gone.
        """
        try:
            # Why a call a step: a variable here would hold the last batch while nothing comes.
            while await self.step(shift):
                pass
        except GiveBack as end:
            shift.end(end.why)

    async def step(self, shift: Shift) -> bool:
        """Wait for events and bring the next ones to the sink; False when the shift has ended.

        Raises GiveBack, or Unavailable when the broker is gone.
        """
        while (wait_s := self._queue.ready_in(time.monotonic())) != 0 and not shift.ended.is_set():
            self._arrived.clear()
            shift.changed.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._arrived.wait()
        if shift.ended.is_set():
            return False
        now_s = time.monotonic()
        self._access.held_since_s = self._queue.oldest_s or now_s
        if now_s - self._access.held_since_s > MOST_HELD_S:
            raise GiveBack("held")
        part = self._queue.take(self._bench.config.batch_max_events, now_s)
        self._hand_since_s, deliveries = part
        self._in_hand = len(deliveries)
        await self._bring(shift, deliveries)
        if self._strict is not None:
            await self._strict.settle(shift, part)
        self._in_hand = 0
        return True

    async def _bring(self, shift: Shift, deliveries: Sequence[Delivery]) -> None:
        if self._bench.takes is not None:
            deliveries = await self._fate.without_strange(shift, deliveries, self._bench.takes)
        # Why away from the loop: in one process with a receiver, large events would hold up its answers.
        read_bytes = sum(len(delivery.body) for delivery in deliveries)
        parsed = await self._bench.heavy.run(read_bytes, _parse, deliveries)
        pairs: list[Pair] = []
        for delivery, event in zip(deliveries, parsed, strict=True):
            if isinstance(event, ValueError):
                await self._fate.failed(shift, delivery, Poison("not_an_event", str(event)))
            else:
                pairs.append((delivery, event))
        if pairs:
            await self._write_all(shift, pairs)

    async def _write_all(self, shift: Shift, pairs: Sequence[Pair], *, is_suspect: bool = False) -> None:
        """Write *pairs* and settle each; halve them where the sink can't say which it does not take."""
        while pairs:
            failures: Failures
            try:
                failures = await self._access.write(
                    shift, [event for _, event in pairs], is_suspect=is_suspect
                )
            except (Poison, SinkBug) as why:
                if len(pairs) > 1:
                    half = len(pairs) // 2
                    for part in (pairs[:half], pairs[half:]):
                        await self._write_all(shift, part, is_suspect=isinstance(why, SinkBug))
                    return
                failures = {0: why if isinstance(why, Poison) else Unavailable("sink_error", str(why))}
            pairs = await self._settle(shift, pairs, failures)

    async def _settle(self, shift: Shift, pairs: Sequence[Pair], failures: Failures) -> Sequence[Pair]:
        """Acknowledge what is written, deal with the others; return those to be tried again in place."""
        if not failures:
            await self._fate.written(shift, [delivery for delivery, _ in pairs])
            self._bench.limit.wrote(len(pairs))
            return ()
        done = [delivery for at, (delivery, _) in enumerate(pairs) if at not in failures]
        if done:
            await self._fate.written(shift, done)
        again: list[Pair] = []
        away: Unavailable | None = None
        for at, pair in enumerate(pairs):
            failure = failures.get(at)
            if failure is None:
                self._bench.limit.wrote(1)
            elif isinstance(failure, Unavailable) and failure.wait_s:
                again.append(pair)
                away = failure
            elif isinstance(failure, Unavailable) and self._strict is not None:
                self._strict.note(pair[0], failure)
            else:
                await self._fate.failed(shift, pair[0], failure)
        if away is not None:
            await self._access.wait(shift, away)
        return again


def _parse(deliveries: Sequence[Delivery]) -> list[Event | ValueError]:
    """Return for each delivery its event, or why it is none."""
    parsed: list[Event | ValueError] = []
    for delivery in deliveries:
        try:
            parsed.append(Event.parse(delivery.body))
        except ValueError as error:
            parsed.append(error)
    return parsed
