"""The dead queue of a sink in the hands of one command, which an exclusive queue makes the only one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import aiormq

from gateway.broker import Delivery
from gateway.broker.rabbitmq import management
from gateway.broker.rabbitmq.link import Link, close_channel
from gateway.broker.rabbitmq.publish import Message, Publisher
from gateway.broker.rabbitmq.reading import Reader
from gateway.config import Broker as BrokerConfig
from gateway.errors import Unavailable
from gateway.topology import SinkTopology

_HOLDER = "holder"
_OF_PARKED = ("reason", "parked_ms")


class Locks:
    """Which dead queues are in the hands of this process, and of others."""

    def __init__(self, config: BrokerConfig, link: Link) -> None:
        """Take *link*, the connection by which a lock is held, and lost."""
        self._config = config
        self._link = link
        self._held: dict[str, str] = {}
        # Why beside the queue: the same connection may declare it again, and a worker's API serves many.

    @asynccontextmanager
    async def hold(self, sink: SinkTopology, who: str) -> AsyncIterator[None]:
        """Keep other commands from the dead queue of *sink*; Unavailable("in_use") when one has it."""
        if sink.name in self._held:
            raise _in_use(sink, self._held[sink.name])
        self._held[sink.name] = who
        try:
            await self._declare(sink, who)
            try:
                yield
            finally:
                await self._delete(sink.lock)
        finally:
            del self._held[sink.name]

    async def _declare(self, sink: SinkTopology, who: str) -> None:
        channel = await self._link.channel(aiormq.Channel, confirms=False)
        try:
            lock = channel.queue_declare(sink.lock, exclusive=True, arguments={_HOLDER: who})
            await self._link.guard(lock)
        except Unavailable as fault:
            if fault.reason != "locked":
                raise
            raise _in_use(sink, await self._holder(sink.lock)) from fault
        finally:
            await close_channel(channel)

    async def _delete(self, lock: str) -> None:
        with suppress(Unavailable):  # Why: it goes with the connection anyway
            channel = await self._link.channel(aiormq.Channel, confirms=False)
            try:
                await self._link.guard(channel.queue_delete(lock))
            finally:
                await close_channel(channel)

    async def _holder(self, lock: str) -> str:
        with suppress(Unavailable):
            return str((await management.arguments_of(self._config, self._link.url, lock)).get(_HOLDER, ""))
        return ""


class Dead:
    """See the protocol ``gateway.broker.DeadQueue``."""

    def __init__(
        self, reader: Reader, sink: SinkTopology, open_publisher: Callable[[], Awaitable[Publisher]]
    ) -> None:
        self._reader = reader
        self._sink = sink
        self._open_publisher = open_publisher
        self._publisher: Publisher | None = None

    @property
    def todo(self) -> int:
        return self._reader.todo

    async def page(self, max_events: int) -> list[Delivery]:
        return await self._reader.page(max_events)

    async def rewind(self) -> None:
        await self._reader.open()

    async def replay(self, deliveries: Sequence[Delivery]) -> None:
        if self._publisher is None or self._publisher.is_closed:
            self._publisher = await self._open_publisher()
        copies = [copy_of(_fresh(delivery), self._sink.exchange) for delivery in deliveries]
        await (await self._publisher.send(copies))
        await self._reader.remove(deliveries)

    async def remove(self, deliveries: Sequence[Delivery]) -> None:
        await self._reader.remove(deliveries)

    async def close(self) -> None:
        """Give back what is left, and close the channels."""
        if self._publisher is not None:
            await self._publisher.close()
        await self._reader.close()


def copy_of(delivery: Delivery, exchange: str) -> Message:
    """Return *delivery* as the message that *exchange* routes as it did the first time; its first attempt."""
    return Message(
        exchange=exchange,
        routing_key=delivery.routing_key,
        body=delivery.body,
        headers=dict(delivery.headers),
        message_id=delivery.message_id,
        type=delivery.type,
    )


def _fresh(delivery: Delivery) -> Delivery:
    """Return *delivery* without what says that it is parked; its history tells that it was."""
    headers = {name: value for name, value in delivery.headers.items() if name not in _OF_PARKED}
    return delivery._replace(headers=headers)


def _in_use(sink: SinkTopology, holder: str) -> Unavailable:
    by = holder or "another command (who, only the management API tells: broker.management_url)"
    return Unavailable(
        "in_use",
        f"the dead queue of sink {sink.name} is in the hands of {by}. Nothing was changed; try again when"
        " that has ended",
    )
