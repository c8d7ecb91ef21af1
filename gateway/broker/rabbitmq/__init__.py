"""The broker RabbitMQ: one connection to publish, one to consume, topology declared on every fresh start.

Tested on 3.10; what is said of 4.x in the documentation rests on RabbitMQ's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiormq

from gateway.broker import Delivery, Depth, Unconfirmed
from gateway.broker.rabbitmq import declare, management
from gateway.broker.rabbitmq.consume import Consumer
from gateway.broker.rabbitmq.consumers import Consumers
from gateway.broker.rabbitmq.dead import Dead, Locks, copy_of
from gateway.broker.rabbitmq.events import EventPublisher, Headers, headers_of
from gateway.broker.rabbitmq.keeper import Keeper
from gateway.broker.rabbitmq.link import Link, close_channel
from gateway.broker.rabbitmq.partitions import Partitions
from gateway.broker.rabbitmq.publish import ConfirmChannel, Message, Publisher, ignore
from gateway.broker.rabbitmq.reading import Reader
from gateway.broker.rabbitmq.refusals import Refusals
from gateway.broker.rabbitmq.sharing import Sharing
from gateway.broker.rabbitmq.turns import Turns
from gateway.config import Broker as BrokerConfig
from gateway.errors import Unavailable
from gateway.metrics import Metrics
from gateway.topology import RETRY_DELAYS_S, Binding, Topology

_RESCUE_BATCH = 100


class RabbitMQ:
    """See the protocol ``gateway.broker.Broker``."""

    def __init__(
        self,
        config: BrokerConfig,
        topology: Topology,
        metrics: Metrics,
        turns: Path | None = None,
        headers: Headers = headers_of,
    ) -> None:
        """*headers*: those of each event."""
        self._config = config
        self._headers = headers
        self._topology = topology
        self._metrics = metrics
        self._publish_link = Link(config, "publish", metrics)
        self._consume_link = Link(config, "consume", metrics)
        self._most_bytes = config.max_prefetch_mb * 1_048_576
        self._locks = Locks(config, self._consume_link)
        self._sharing = Sharing(topology, Turns(turns))
        self._keeper = Keeper(config, topology, metrics, self._sharing)
        self._consumers = Consumers(
            self._consume_link, self._sharing.generations, self._publish_copy, metrics, self._most_bytes
        )
        self._refusals = Refusals(topology, self._publish_alone, metrics)
        self._keeping: asyncio.Task[None] | None = None
        self._fits: dict[str, int] = {}
        """Sink → how many events its next consumer may ask for, where they were too large before."""
        self._copies: Publisher | None = None
        self._copies_lock = asyncio.Lock()

    @asynccontextmanager
    async def publisher(self, sink: str = "") -> AsyncIterator[EventPublisher]:
        """Open a publishing channel, after the topology was declared or checked."""
        exchange = self._topology.sink(sink).exchange if sink else self._topology.events
        refusals = None if sink else self._refusals
        await self._declare(self._publish_link, feeds=True, is_stream=not sink)
        publisher = await self._open_publisher(self._keeper.note_sent, refusals)
        try:
            with self._keeper.knowing(publisher):
                yield EventPublisher(publisher, exchange, refusals, self._headers)
        finally:
            await publisher.close()

    @asynccontextmanager
    async def consumer(self, sink: str, prefetch: int) -> AsyncIterator[Consumer | Partitions]:
        """Open a consuming channel of *sink*, after the topology was declared."""
        names = self._topology.sink(sink)
        if self._config.declare == "apply":
            await self._declare(self._consume_link)
        consumer = await self._consumers.make(names)
        try:
            prefetch = self._fits.pop(sink, 0) or prefetch
            await self._consume_link.guard(consumer.start(prefetch))
            yield consumer
        finally:
            await consumer.close()
            if consumer.fits:
                self._fits[sink] = consumer.fits

    async def depth(self, sink: str) -> Depth:
        names = self._topology.sink(sink)
        channel = await self._asking_channel()
        try:
            retry = [await self._count(channel, names.retry_queue(delay_s)) for delay_s in RETRY_DELAYS_S]
            queues = await self._sharing.generations.all_queues(names, self._consume_link)
            ready = sum([await self._count(channel, queue) for queue in queues])
            return Depth(ready, None, sum(retry), await self._count(channel, names.dead))
        finally:
            await close_channel(channel)

    async def peek(self, sink: str, limit: int, *, dead: bool = False) -> list[Delivery]:
        names = self._topology.sink(sink)
        found: list[Delivery] = []
        queues = [names.dead]
        if not dead:
            queues = await self._sharing.generations.all_queues(names, self._consume_link)
            await self._consumers.refuse_if_read(names)
        for queue in queues:
            async with self._reading(queue, limit - len(found)) as reader:
                while page := await reader.page(limit):
                    found += page
        return found

    @asynccontextmanager
    async def dead(self, sink: str, who: str) -> AsyncIterator[Dead]:
        names = self._topology.sink(sink)
        if self._config.declare == "apply":
            await self._keeper.declare(self._consume_link)
        for queue in names.queues:  # Why asked: without it the exchange would send all to im.unrouted
            await self._ready(queue)
        async with self._locks.hold(names, who):
            reader = Reader(self._consume_link, names.dead, self._most_bytes, is_alone=True)
            dead = Dead(reader, names, self._open_publisher)
            try:
                await reader.open()
                yield dead
            finally:
                await dead.close()

    async def unrouted(self) -> int:
        return await self._ready(self._topology.unrouted)

    async def rescue(self) -> int:
        moved = 0
        await self._keeper.declare(self._publish_link, feeds=True)
        publisher = await self._open_publisher()
        try:
            async with self._reading(self._topology.unrouted) as reader:
                while page := await reader.page(_RESCUE_BATCH):
                    await (await publisher.send([copy_of(one, self._topology.events) for one in page]))
                    await reader.remove(page)
                    moved += len(page)
        finally:
            await publisher.close()
        return moved

    async def foreign_queues(self) -> list[str]:
        return await management.foreign_queues(self._config, self._topology)

    async def prune(self, *, is_dry: bool) -> list[Binding]:
        await self._consume_link.get()
        found = await management.stale_bindings(self._config, self._topology, self._consume_link.url)
        if found and not is_dry:
            await declare.unbind(self._consume_link, found)
        return found

    async def apply(self) -> None:
        """Declare everything now, whatever ``broker.declare`` says."""
        await self._keeper.apply(self._publish_link, feeds=True)

    async def check(self) -> str:
        connection = await self._publish_link.get()
        version = str(connection.server_properties.get("version", "of unknown version"))
        await self._sharing.plugin.ensure(self._publish_link)
        absent = await declare.missing(self._publish_link, self._topology)
        if absent and self._config.declare != "apply":
            raise Unavailable(
                "missing", f"these do not exist: {', '.join(absent)}. Declare them: gateway topology apply"
            )
        objects = f"{len(absent)} objects will be declared at start" if absent else "all objects stand"
        return f"RabbitMQ {version} takes the connection, {objects}"

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._copies is not None:
            await self._copies.close()
        await self._consume_link.close()
        await self._publish_link.close()

    async def _declare(self, link: Link, *, feeds: bool = False, is_stream: bool = False) -> None:
        """Declare or check everything, and look after it from then on."""
        await self._keeper.declare(link, feeds=feeds, is_stream=is_stream)
        if self._keeping is None and self._config.declare != "off":
            self._keeping = asyncio.ensure_future(self._keeper.keep(self._consume_link))

    async def _ready(self, queue: str) -> int:
        channel = await self._asking_channel()
        try:
            return await self._count(channel, queue)
        finally:
            await close_channel(channel)

    async def _asking_channel(self) -> aiormq.Channel:
        # Why not the publishing link: RabbitMQ does not answer on it while an alarm lasts.
        return await self._consume_link.channel(aiormq.Channel, confirms=False)

    async def _open_publisher(
        self, on_send: Callable[[str], None] = ignore, refusals: Refusals | None = None
    ) -> Publisher:
        channel = await self._publish_link.channel(ConfirmChannel, confirms=True)
        assert isinstance(channel, ConfirmChannel)
        on_refused = ignore if refusals is None else refusals.note
        return Publisher(channel, self._config, self._metrics, on_send, on_refused)

    async def _publish_copy(self, message: Message) -> None:
        """Return once *message* is confirmed; Unconfirmed or Unavailable otherwise."""
        async with self._copies_lock:
            if self._copies is None or self._copies.is_closed:
                self._copies = await self._open_publisher()
            publisher = self._copies
        await (await publisher.send([message]))

    async def _publish_alone(self, message: Message) -> None:
        """Return once *message* is confirmed on a channel of its own; raises as _publish_copy does."""
        # Why: a channel on which a queue has refused once may go on refusing when the policy is gone (3.10).
        publisher = await self._open_publisher()
        try:
            await (await publisher.send([message]))
        finally:
            await publisher.close()

    @asynccontextmanager
    async def _reading(self, queue: str, most_events: int | None = None) -> AsyncIterator[Reader]:
        reader = Reader(self._consume_link, queue, self._most_bytes)
        try:
            await reader.open(most_events)
            yield reader
        finally:
            await reader.close()

    async def _count(self, channel: aiormq.Channel, queue: str) -> int:
        declared = await self._consume_link.guard(channel.queue_declare(queue, passive=True))
        return declared.message_count or 0


__all__ = ["RabbitMQ", "Unconfirmed"]
