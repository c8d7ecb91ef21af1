"""Taking events of a sink that has partitions, or had: one consumer a queue, shared with other workers.

Each queue gives events to one worker at a time (single active consumer), so their order holds. RabbitMQ does
not share queues out by itself, so whoever is active on too many closes the channel of some: what had come by
it goes back in order, and the next worker begins with it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gateway.broker import Delivery
from gateway.broker.rabbitmq.balance import surplus
from gateway.broker.rabbitmq.consume import Consumer
from gateway.broker.rabbitmq.earlier import Earlier
from gateway.errors import Unavailable
from gateway.logs import where
from gateway.topology import SinkTopology

_log = logging.getLogger(__name__)
LOOK_S = 1.0
_TOLD_S = 0.05
Standing = tuple[int, int]
"""Of a queue: events that are ready, and consumers."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to get at queues. All raise Unavailable."""

    start: Callable[[str, asyncio.Event, int, int], Awaitable[Consumer]]
    """Return a consumer of a queue that sets the event; so many share its memory, so much is its prefetch."""
    look: Callable[[Iterable[str]], Awaitable[dict[str, Standing]]]
    """Return what stands in queues."""
    announce: Callable[[str], Awaitable[Callable[[], Awaitable[None]]]]
    """Consume a queue and do nothing with it; return what ends that."""


@dataclass(slots=True)
class Part:
    """One queue."""

    queue: str
    is_single: bool
    is_wanted: bool = False
    is_leaving: bool = False
    """Nothing is given from it any more; it is closed once all that was given is settled."""
    consumer: Consumer | None = None


class Partitions:
    """Satisfies ``gateway.broker.Consumer``. Bound: as a Consumer, shared out among the queues."""

    def __init__(
        self, sink: SinkTopology, earlier: Sequence[str], access: Access, show: Callable[[int], None]
    ) -> None:
        """Take *earlier* queues, read first, and *show*, which is told how many queues this worker reads."""
        self._sink = sink
        self._access = access
        self._show = show
        self._arrived = asyncio.Event()
        self._own = [Part(queue, queue != sink.queue) for queue in sink.queues]
        old = [Part(queue, queue != sink.queue) for queue in earlier]
        self._parts = self._own + old
        self._earlier = Earlier(sink.name, old)
        self._prefetch = 1
        self._lost: Unavailable | None = None
        self._next = 0
        self._settled = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._resign: Callable[[], Awaitable[None]] | None = None
        self.fits = 0

    async def start(self, prefetch: int) -> None:
        """Ask the broker for deliveries."""
        self._prefetch = max(1, prefetch // len(self._own))
        await self._look()
        self._watch = asyncio.ensure_future(self._watch_over())

    async def take(self, max_events: int, max_wait_s: float) -> list[Delivery]:
        await self._wait_for(1)
        if max_wait_s > 0 and self._waiting() < max_events:
            with suppress(TimeoutError):
                async with asyncio.timeout(max_wait_s):
                    await self._wait_for(max_events)
        taken: list[Delivery] = []
        for at in range(len(self._parts)):
            number = (self._next + at) % len(self._parts)
            part = self._parts[number]
            if part.consumer is not None and not part.is_leaving:
                found = part.consumer.give(max_events - len(taken))
                taken += [one._replace(tag=one.tag * len(self._parts) + number) for one in found]
        # Why: otherwise the first queues would be read before the last ones for ever.
        self._next = (self._next + 1) % len(self._parts)
        return taken

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        by_part: dict[int, list[Delivery]] = {}
        for delivery in deliveries:
            tag, number = divmod(delivery.tag, len(self._parts))
            by_part.setdefault(number, []).append(delivery._replace(tag=tag))
        for number, theirs in by_part.items():
            await self._consumer(number).ack(theirs)
        self._settled.set()

    async def retry(self, delivery: Delivery, reason: str) -> None:
        tag, number = divmod(delivery.tag, len(self._parts))
        await self._consumer(number).retry(delivery._replace(tag=tag), reason)
        self._settled.set()

    async def park(self, delivery: Delivery, reason: str) -> None:
        tag, number = divmod(delivery.tag, len(self._parts))
        await self._consumer(number).park(delivery._replace(tag=tag), reason)
        self._settled.set()

    async def close(self) -> None:
        """Close all channels: what is not settled goes back to its queue, in order."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self._lose(Unavailable("closed", "the consumer was closed"))
        open_ones = [part.consumer for part in self._parts if part.consumer is not None]
        await asyncio.gather(*(one.close() for one in open_ones))
        self.fits = max((one.fits for one in open_ones), default=0) * len(self._own)
        if self._resign is not None:
            await self._resign()
        self._show(0)

    def _consumer(self, number: int) -> Consumer:
        consumer = self._parts[number].consumer
        if consumer is None:
            raise Unavailable("closed", "the consumer was closed")
        return consumer

    def _waiting(self) -> int:
        return sum(one.waiting for one in self._giving())

    def _giving(self) -> list[Consumer]:
        return [one.consumer for one in self._parts if one.consumer is not None and not one.is_leaving]

    async def _wait_for(self, count: int) -> None:
        """Wait until *count* events are here, or as many as the broker will send before some are settled."""
        while True:
            if self._lost is not None:
                raise Unavailable(self._lost.reason, self._lost.detail)
            giving = self._giving()
            for consumer in giving:
                consumer.raise_if_lost()
            waiting = self._waiting()
            if waiting >= count or (waiting and all(one.is_full for one in giving if one.is_active)):
                return
            self._arrived.clear()
            await self._arrived.wait()

    async def _watch_over(self) -> None:
        """Look every second, and hand over what is to be handed over, until cancelled."""
        try:
            while True:
                # Why by chance: two that look at the same moment would both take, or both leave, a queue.
                ends_s = time.monotonic() + LOOK_S * random.uniform(0.75, 1.25)
                while (left_s := ends_s - time.monotonic()) > 0:
                    self._settled.clear()
                    if not await self._hand_over():
                        await asyncio.sleep(left_s)
                        break
                    with suppress(TimeoutError):
                        async with asyncio.timeout(left_s):
                            await self._settled.wait()
                    # Why: what was settled out of order is told to the broker a moment later.
                    await asyncio.sleep(_TOLD_S)
                await self._look()
        except Unavailable as fault:
            self._lose(fault)
        except Exception as fault:  # noqa: BLE001 - the worker shall begin anew, not stop
            _log.error("Sink %s: sharing its partitions failed (%s)", self._sink.name, where(fault))
            self._lose(Unavailable("failed", "the sharing of partitions failed"))

    async def _look(self) -> None:
        """See how many workers there are and what earlier queues hold; decide which queues to read."""
        if self._earlier.parts:
            self._earlier.decide(await self._access.look(part.queue for part in self._earlier.parts))
        for part in self._own:
            part.is_wanted = self._earlier.is_done
        if self._sink.partitions > 1:
            await self._share(await self._count_workers())
        for part in self._parts:
            if part.is_wanted and part.consumer is None:
                await self._open(part)
            elif part.consumer is not None and not part.is_wanted:
                part.is_leaving = True
        await self._hand_over()
        self._show(sum(part.consumer is not None and part.consumer.is_active for part in self._parts))

    async def _count_workers(self) -> int:
        """Return how many workers have announced themselves; this one is among them afterwards."""
        [(_, workers)] = (await self._access.look([self._sink.workers])).values()
        if self._resign is not None and not workers:
            await self._resign()  # the queue was deleted meanwhile
            self._resign = None
        if self._resign is None:
            self._resign = await self._access.announce(self._sink.workers)
            workers += 1
        return workers

    async def _share(self, workers: int) -> None:
        active = [
            (number, part.consumer.given)
            for number, part in enumerate(self._own)
            if part.consumer is not None and part.consumer.is_active and not part.is_leaving
        ]
        for number in surplus(active, len(self._own), workers):
            self._own[number].is_leaving = True

    async def _open(self, part: Part) -> None:
        part.consumer = await self._access.start(part.queue, self._arrived, len(self._own), self._prefetch)
        self._arrived.set()  # Why: what came before this line came to nobody who could be asked

    async def _hand_over(self) -> bool:
        """Close those that leave and hold nothing; return whether one still does."""
        is_one_left = False
        for part in self._parts:
            if part.consumer is None or not part.is_leaving:
                continue
            if part.consumer.given:
                is_one_left = True
                continue
            await part.consumer.close()
            part.consumer, part.is_leaving = None, False
            if part.is_wanted:
                # Why: it is the last in the row now, and begins when the others have gone.
                await self._open(part)
        return is_one_left

    def _lose(self, why: Unavailable) -> None:
        self._lost = self._lost or why
        self._arrived.set()
