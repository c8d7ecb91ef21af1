"""Makes the consumer that a sink needs: of its one queue, or of many with their order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import aiormq

from gateway.broker.rabbitmq.consume import Consumer, PublishCopy
from gateway.broker.rabbitmq.direct import DirectChannel
from gateway.broker.rabbitmq.generations import Generations
from gateway.broker.rabbitmq.link import Link, close_channel
from gateway.broker.rabbitmq.partitions import Access, Partitions
from gateway.errors import Unavailable
from gateway.metrics import Metrics
from gateway.topology import SinkTopology


class Consumers:
    """Of one connection. All methods raise Unavailable."""

    def __init__(
        self,
        link: Link,
        generations: Generations,
        publish_copy: PublishCopy,
        metrics: Metrics,
        most_bytes: int,
    ) -> None:
        self._link = link
        self._generations = generations
        self._publish_copy = publish_copy
        self._active = metrics.sink_partitions
        self._most_bytes = most_bytes

    async def make(self, sink: SinkTopology) -> Consumer | Partitions:
        """Return a consumer of *sink*, not started."""
        # Why here too: who may not declare has to know as well what to read first.
        earlier = await self._generations.queues(sink, self._link)
        if sink.partitions == 1 and not earlier:
            return await self._one(sink, sink.queue, None, 1)
        access = Access(partial(self._started, sink), self._look, self._announce)
        return Partitions(sink, earlier, access, self._active.labels(sink.name).set)

    async def refuse_if_read(self, sink: SinkTopology) -> None:
        """Raise Unavailable("in_use") if others read partitions of *sink*: nobody else would get anything."""
        queues = sink.queues if sink.partitions > 1 else ()
        if any(consumers for _, consumers in (await self._look(queues)).values()):
            raise Unavailable(
                "in_use",
                f"workers read {sink.place}, and RabbitMQ lets nobody else look into these queues meanwhile:"
                " stop the workers first",
            )

    async def _one(
        self, sink: SinkTopology, queue: str, arrived: asyncio.Event | None, shares: int
    ) -> Consumer:
        channel = await self._link.channel(DirectChannel, confirms=False)
        most_bytes = self._most_bytes // shares
        return Consumer(
            channel, sink, self._publish_copy, partial(self._ready, queue), most_bytes, queue, arrived
        )

    async def _started(
        self, sink: SinkTopology, queue: str, arrived: asyncio.Event, shares: int, prefetch: int
    ) -> Consumer:
        consumer = await self._one(sink, queue, arrived, shares)
        try:
            await self._link.guard(consumer.start(prefetch))
        except BaseException:
            await consumer.close()  # Why: nobody would ever settle what comes to it
            raise
        return consumer

    async def _ready(self, queue: str) -> int:
        [(ready, _)] = (await self._look([queue])).values()
        return ready

    async def _look(self, queues: Iterable[str]) -> dict[str, tuple[int, int]]:
        channel = await self._link.channel(aiormq.Channel, confirms=False)
        try:
            found = {}
            for queue in queues:
                declared = await self._link.guard(channel.queue_declare(queue, passive=True))
                found[queue] = (declared.message_count or 0, declared.consumer_count or 0)
            return found
        finally:
            await close_channel(channel)

    async def _announce(self, queue: str) -> Callable[[], Awaitable[None]]:
        async def ignore(_: object) -> None:
            """Nothing is sent there."""

        channel = await self._link.channel(aiormq.Channel, confirms=False)
        try:
            await self._link.guard(channel.basic_qos(prefetch_count=1))
            await self._link.guard(channel.basic_consume(queue, ignore))
        except BaseException:
            await close_channel(channel)
            raise
        return partial(close_channel, channel)
