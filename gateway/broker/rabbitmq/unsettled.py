"""What one consumer took and has not settled; the broker is told of what is in ranges, as far as can be."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import takewhile

import aiormq
import pamqp.frame
from aiormq.abc import ChannelFrame
from pamqp import commands as spec

from gateway.broker.rabbitmq.link import or_closed
from gateway.errors import Unavailable

ACK_LATEST_S = 0.2
"""So long is the broker not told of what is settled behind an event that is still open."""


class Unsettled:
    """Delivery tags of a channel. Bound: its prefetch."""

    def __init__(self, channel: aiormq.Channel, closing: asyncio.Future[object]) -> None:
        self._channel = channel
        self._closing = closing
        self._open: OrderedDict[int, int] = OrderedDict()
        """Tag → bytes of the body, oldest first, until the broker is told."""
        self._done: set[int] = set()
        """Those settled behind one that is not."""
        self._lock = asyncio.Lock()
        self._telling: asyncio.Task[None] | None = None
        self.most_done = 0
        """How many may be in *done*; more are told at once."""
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._open)

    def add(self, tag: int, size_bytes: int) -> None:
        """Note a delivery that has come."""
        self._open[tag] = size_bytes
        self.bytes += size_bytes

    async def settle(self, tags: Iterable[int]) -> None:
        """Acknowledge *tags*, or as soon as what is older is settled, or ACK_LATEST_S later."""
        # Why a lock: an ack of all up to a tag may not be overtaken by one of all up to a later tag.
        async with self._lock:
            self._done.update(tags)
            first = list(takewhile(self._done.__contains__, self._open))
            if first:
                await self._tell([spec.Basic.Ack(delivery_tag=first[-1], multiple=True)], first)
            # Why not at once: with several lanes a range is whole a moment later, and costs RabbitMQ one
            # entry in the queue's log instead of one an event.
            if len(self._done) > self.most_done:
                await self._tell_rest()
            elif self._done and self._telling is None:
                self._telling = asyncio.ensure_future(self._tell_later())

    async def finish(self) -> None:
        """Tell what has not been told, before the channel is closed."""
        if self._telling is not None:
            self._telling.cancel()
        with suppress(Unavailable):
            async with self._lock:
                await self._tell_rest()

    def forget(self) -> None:
        """Forget everything: the channel is gone."""
        self._open.clear()
        self._done.clear()
        self.bytes = 0

    async def _tell_later(self) -> None:
        await asyncio.sleep(ACK_LATEST_S)
        self._telling = None
        with suppress(Unavailable):
            async with self._lock:
                await self._tell_rest()

    async def _tell_rest(self) -> None:
        tags = sorted(self._done)
        await self._tell([spec.Basic.Ack(delivery_tag=tag) for tag in tags], tags)

    async def _tell(self, frames: Sequence[spec.Basic.Ack], tags: Sequence[int]) -> None:
        """Write *frames*, which acknowledge *tags*."""
        for tag in tags:
            self.bytes -= self._open.pop(tag, 0)
        self._done.difference_update(tags)
        payload = b"".join(pamqp.frame.marshal(frame, self._channel.number) for frame in frames)
        if payload:
            frame = ChannelFrame(payload=payload, should_close=False)
            await or_closed(self._channel.write_queue.put(frame), self._closing)
