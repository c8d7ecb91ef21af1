"""Taking events of one sink from its quorum queue, in batches; settled by acknowledgement only.

Events go back by closing the channel, never by nack: on RabbitMQ 3.10 a nack may move them to the tail.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from pamqp import commands as spec

from gateway.broker import Delivery
from gateway.broker.rabbitmq.arrival import Arrival
from gateway.broker.rabbitmq.direct import DirectChannel
from gateway.broker.rabbitmq.link import close_channel, lost
from gateway.broker.rabbitmq.publish import PUBLISH_TAG, Message
from gateway.broker.rabbitmq.unsettled import Unsettled
from gateway.errors import Unavailable
from gateway.retries import HISTORY, lengthened, retry_delay_ms
from gateway.topology import SinkTopology, retry_delay_s

ATTEMPT = "attempt"
ROUTING_KEY = "routing-key"
IDLE_S = 30.0
"""After so long without a delivery the consumer is doubted, where its queue has events."""
SURE_S = 5.0
"""And given up, when after so long still none has come."""
PublishCopy = Callable[[Message], Awaitable[None]]


class Consumer:
    """See the protocol. Bound: *prefetch* deliveries, *most_bytes* of bodies, or one delivery."""

    def __init__(
        self,
        channel: DirectChannel,
        sink: SinkTopology,
        publish_copy: PublishCopy,
        count_ready: Callable[[], Awaitable[int]],
        most_bytes: int,
        queue: str = "",
        arrived: asyncio.Event | None = None,
    ) -> None:
        """Take *publish_copy*, which returns once a copy is confirmed.

        *count_ready* says how many events stand ready in the *queue*, by default the sink's. *arrived* is set
        when something comes, or the consumer is lost.
        """
        self._channel = channel
        self._sink = sink
        self._publish_copy = publish_copy
        self._count_ready = count_ready
        self._most_bytes = most_bytes
        self._prefetch = self._parked_ms = 0
        self._buffer: deque[Delivery] = deque()
        self.fits = 0
        """How many events to ask for next time; 0: as many as this time, they were not too large."""
        self._queue = queue or sink.queue
        self._arrived = arrived or asyncio.Event()
        self.is_active = False
        """Something has come: of several consumers of a queue with a single active one, it is that."""
        self._lost: Unavailable | None = None
        channel.on_consumer_cancel_callbacks.add(self._on_cancel)
        self._closing = channel.closing
        self._closing.add_done_callback(self._on_closed)
        self._unsettled = Unsettled(channel, self._closing)
        """What is in the buffer too."""

    async def start(self, prefetch: int) -> None:
        """Ask the broker for deliveries."""
        self._prefetch = prefetch
        self._unsettled.most_done = prefetch // 2
        await self._channel.basic_qos(prefetch_count=prefetch)
        self._channel.take = self._take
        await self._channel.consume(self._queue)

    @property
    def waiting(self) -> int:
        """How many events are here and were not given."""
        return len(self._buffer)

    @property
    def given(self) -> int:
        """How many were given and are not settled at the broker."""
        return len(self._unsettled) - len(self._buffer)

    @property
    def is_full(self) -> bool:
        """The broker sends no more until some are settled."""
        return len(self._unsettled) >= self._prefetch

    def give(self, max_events: int) -> list[Delivery]:
        """Return what is here, at most *max_events*."""
        return [self._buffer.popleft() for _ in range(min(max_events, len(self._buffer)))]

    async def take(self, max_events: int, max_wait_s: float) -> list[Delivery]:
        await self._wait_for_one()
        if len(self._buffer) < max_events and max_wait_s > 0:
            try:
                async with asyncio.timeout(max_wait_s):
                    await self._wait_for(max_events)
            except TimeoutError:
                pass
        return self.give(max_events)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.raise_if_lost()
        await self._unsettled.settle(delivery.tag for delivery in deliveries)

    async def retry(self, delivery: Delivery, reason: str) -> None:
        queue = self._sink.retry_queue(retry_delay_s(delivery.attempt))
        headers = {**self._headers(delivery, reason), ATTEMPT: delivery.attempt + 1}
        delay_ms = retry_delay_ms(delivery.attempt, random.random())
        await self._move(delivery, queue, headers, delay_ms)

    async def park(self, delivery: Delivery, reason: str) -> None:
        # Why never the same: it tells the order of parking, should the queue's have been broken.
        self._parked_ms = max(_now_ms(), self._parked_ms + 1)
        headers = {**self._headers(delivery, reason), "parked_ms": self._parked_ms}
        await self._move(delivery, self._sink.dead, headers, None)

    async def close(self) -> None:
        """Close the channel: what is not settled goes back to the queue, in order."""
        await self._unsettled.finish()
        self._lose(Unavailable("closed", "the consumer was closed"))
        await close_channel(self._channel)

    def _headers(self, delivery: Delivery, reason: str) -> dict[str, str | int]:
        history = lengthened(str(delivery.headers.get(HISTORY, "")), _now_ms(), self._sink.name, reason)
        return {**delivery.headers, ATTEMPT: delivery.attempt, "reason": reason, HISTORY: history}

    async def _move(
        self, delivery: Delivery, queue: str, headers: dict[str, str | int], expiration_ms: int | None
    ) -> None:
        self.raise_if_lost()
        copy = Message(
            exchange="",
            routing_key=queue,
            body=delivery.body,
            headers={**headers, ROUTING_KEY: delivery.routing_key},
            message_id=delivery.message_id,
            type=delivery.type,
            expiration_ms=expiration_ms,
        )
        await self._publish_copy(copy)
        await self.ack([delivery])

    async def _wait_for_one(self) -> None:
        """Wait for a delivery, and doubt the consumer while its queue has events and none comes."""
        is_doubted = False
        while True:
            try:
                async with asyncio.timeout(SURE_S if is_doubted else IDLE_S):
                    return await self._wait_for(1)
            except TimeoutError:
                pass
            ready = 0 if self._unsettled else await self._count_ready()
            # Why twice: what was counted may be on its way. Our queues serve all their consumers, so one that
            # could take an event and gets none while some stand ready is forgotten by the broker.
            if ready and is_doubted:
                raise Unavailable("forgotten", f"none comes, though {ready} stand ready in {self._queue}")
            is_doubted = ready > 0

    async def _wait_for(self, count: int) -> None:
        """Wait until *count* events are here, or as many as the broker will send before some are settled."""
        while len(self._buffer) < count and not (self._buffer and self.is_full):
            self.raise_if_lost()
            self._arrived.clear()
            await self._arrived.wait()
        self.raise_if_lost()

    def raise_if_lost(self) -> None:
        """Raise Unavailable when the channel is gone."""
        if self._lost is not None:
            raise Unavailable(self._lost.reason, self._lost.detail)

    def _take(self, arrival: Arrival) -> None:
        if self._lost is not None:
            return  # it goes back with the channel
        is_routed = arrival.exchange not in ("", self._sink.exchange)
        delivery = delivery_of(arrival, is_routed=is_routed)
        self._unsettled.add(delivery.tag, len(delivery.body))
        self.is_active = True
        if self._unsettled.bytes > self._most_bytes and len(self._unsettled) > 1:
            self.fits = len(self._unsettled) // 2
            size_mb = self._unsettled.bytes / 1_048_576
            detail = f"{len(self._unsettled)} events have {size_mb:.0f} MB, more than broker.max_prefetch_mb"
            self._lose(Unavailable("too_large", f"{detail}; they go back, and come {self.fits} at a time"))
            return
        self._buffer.append(delivery)
        self._arrived.set()

    def _on_cancel(self, frame: spec.Basic.Cancel) -> None:
        self._lose(Unavailable("cancelled", f"RabbitMQ ended the consumer: was {self._queue} deleted?"))

    def _on_closed(self, closing: asyncio.Future[object]) -> None:
        self._lose(lost(closing))

    def _lose(self, why: Unavailable) -> None:
        self._lost = self._lost or why
        self._buffer.clear()
        self._unsettled.forget()
        self._arrived.set()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def delivery_of(arrival: Arrival, *, is_routed: bool = False) -> Delivery:
    """Return *arrival* as a Delivery; headers that are not ours are left out."""
    properties = arrival.properties
    headers = {
        name: value
        for name, value in properties.headers.items()
        if name != PUBLISH_TAG and not name.startswith("x-")
    }
    attempt = headers.pop(ATTEMPT, 1)
    routing_key = headers.pop(ROUTING_KEY, None) or arrival.routing_key
    return Delivery(
        body=arrival.body,
        attempt=attempt if isinstance(attempt, int) and attempt > 0 else 1,
        tag=arrival.tag,
        message_id=properties.message_id,
        type=properties.type,
        routing_key=str(routing_key),
        headers=headers,
        is_routed=is_routed,
    )
