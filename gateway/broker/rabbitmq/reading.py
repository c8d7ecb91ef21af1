"""Reading a queue in order, page by page; what is not removed goes back to its place by closing the channel.

How much is read is not bounded, what stands in memory is: what was given and not removed is only counted.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import aiormq
import pamqp.frame
from aiormq.abc import ChannelFrame
from pamqp import commands as spec

from gateway.broker import Delivery
from gateway.broker.rabbitmq import declare
from gateway.broker.rabbitmq.arrival import Arrival
from gateway.broker.rabbitmq.consume import delivery_of
from gateway.broker.rabbitmq.direct import DirectChannel
from gateway.broker.rabbitmq.link import Link, close_channel, lost, or_closed
from gateway.errors import Unavailable

WINDOW_MIN, WINDOW_MAX = 500, 8000
"""Events that one consumer asks for; they stand in memory until they are given."""
SKIP_MAX = 50_000
"""Events that one consumer passes over; RabbitMQ counts up to 65,535."""
WINDOWS_MAX = 30
"""Consumers of one channel. Measured on 3.10: a channel that dies gives back consumer by consumer, up to 32
in the order of their tags, more of them in no order. (``basic.get`` makes a consumer of each event.)"""
HELD_MAX_S = 600.0
"""After so long the channel is opened anew, long before the broker's acknowledgement timeout (30 min)."""
QUIET_S, FORGOTTEN_S = 1.0, 30.0
_LOOK_S, _ASKED_MAX, _KEPT_BACK = 0.02, 100, 32


class Reader:
    """Gives the events that stood in a queue at the opening. What a page leaves unsettled is passed over."""

    def __init__(self, link: Link, queue: str, most_bytes: int, *, is_alone: bool = False) -> None:
        """Read *queue*, *is_alone*: only if nobody else does. Bound: *most_bytes* of bodies, or one event."""
        self._link = link
        self._queue = queue
        self._most_bytes = most_bytes
        self._is_alone = is_alone
        self._others = 0  # consumers, at the opening
        self._connection: aiormq.abc.AbstractConnection | None = None
        self._channel: DirectChannel | None = None
        self._closing: asyncio.Future[object] | None = None
        self._opened_s = 0.0
        self._windows = self._window = self._in_window = 0
        self._window_max = WINDOW_MAX
        self._passed = self._skip = 0
        self._given: list[int] = []
        self._buffer: deque[Delivery] = deque()
        self._bytes = 0
        self._is_cut = self._is_cancelled = False
        """Cut: what comes next has no room here; it goes back, and comes again in smaller windows."""
        self._has_removed = self._has_fresh = False
        """Fresh: an event has come that never was in another reader's hands; all that were come before it."""
        self._arrived = asyncio.Event()
        self.todo = 0
        """How many of the events are still to be given."""

    async def open(self, most_events: int | None = None) -> None:
        """Begin (again) with the first event; *most_events* are given at most. Raises Unavailable."""
        await self.close()
        ready = await self._begin(0)
        self.todo = ready if most_events is None else min(ready, most_events)

    async def page(self, most_events: int) -> list[Delivery]:
        """Return the next events, at most *most_events*; none: the end. Raises Unavailable."""
        self._passed, self._given = self._passed + len(self._given), []
        self._open_channel()
        if time.monotonic() - self._opened_s > HELD_MAX_S:
            await self._reopen()
        while not self._buffer and self.todo:
            is_full = self._in_window >= self._window
            if self._is_cut or (is_full and self._windows >= WINDOWS_MAX):
                await self._reopen()
            elif is_full:
                # Why growing: what is passed over takes no room here, and windows are few.
                wanted = min(self._window_max, max(WINDOW_MIN, self._passed), self.todo)
                await self._next_window(min(self._skip, SKIP_MAX) or wanted)
            if not await self._arrival():
                self.todo = 0
        if len(self._buffer) < min(most_events, self.todo):
            await asyncio.sleep(_LOOK_S)  # for what is on its way
        page = [self._buffer.popleft() for _ in range(min(most_events, len(self._buffer)))]
        self._bytes -= sum(len(delivery.body) for delivery in page)
        self._given = [delivery.tag for delivery in page]
        self.todo -= len(page)
        return page

    async def remove(self, deliveries: Sequence[Delivery]) -> None:
        """Settle *deliveries* of the last page for ever. Raises Unavailable."""
        if not deliveries:
            return
        channel, closing = self._open_channel()
        tags = {delivery.tag for delivery in deliveries}
        # Why a range where nothing older stays: RabbitMQ sends its queue one command a frame.
        is_range = not self._passed and tags == set(self._given[: len(tags)])
        ends = [max(tags)] if is_range else sorted(tags)
        frames = [spec.Basic.Ack(delivery_tag=tag, multiple=is_range) for tag in ends]
        payload = b"".join(pamqp.frame.marshal(frame, channel.number) for frame in frames)
        self._given = [tag for tag in self._given if tag not in tags]
        self._has_removed = True
        self._in_window -= len(tags)
        await or_closed(channel.write_queue.put(ChannelFrame(payload=payload, should_close=False)), closing)
        # Bound: what a channel that dies forgets; the queue sends an event for each that it has taken.
        for _ in range(_ASKED_MAX):
            if is_range or self._in_window + _KEPT_BACK >= self._window or not await self._ready():
                return
            await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        """Give everything back that was not removed; it stands in the queue again when this returns."""
        if self._channel is None:
            return
        with suppress(Unavailable):
            await self._reach_fresh()
            if self._has_removed:
                await self._flush()
        channel, self._channel = self._channel, None
        await close_channel(channel)
        # Why: RabbitMQ confirms the close first, and gives back what the channel held a moment later.
        with suppress(Unavailable):
            await declare.without_readers(self._link, self._queue, self._others)

    async def _reach_fresh(self) -> None:
        """Pass over all that came back before: what comes back is put behind what of that still stands."""
        self._buffer.clear()
        self._is_cut = True  # nothing has room from now on
        while not self._has_fresh and self._windows and await self._ready():
            if self._in_window >= self._window:
                if self._windows >= WINDOWS_MAX:
                    return
                await self._next_window(SKIP_MAX)
            await self._arrival()

    async def _flush(self) -> None:
        """Return once the queue knows what was removed: a channel keeps back what is more than 32 acks."""
        # The queue sends an event for each that it takes, while it has any; else a command that it answers
        # comes behind all that was sent before, and the second one behind what was kept back.
        while self._in_window < self._window:
            if not await self._ready():
                await self._next_window(1)
                await self._next_window(1)
                return
            await self._arrival()

    async def _begin(self, passed: int) -> int:
        """Open a channel that passes over the first *passed* events; return how many are ready."""
        connection = await self._link.get()
        # Why: what a command holds to be alone it holds by its connection.
        if self._connection not in (None, connection):
            raise Unavailable("connection_lost", "the connection was lost meanwhile")
        self._connection = connection
        found = await declare.without_readers(self._link, self._queue, 0 if self._is_alone else None)
        self._channel = channel = await self._link.channel(DirectChannel, confirms=False)
        channel.take = partial(self._take, channel)
        self._closing = self._channel.closing
        self._closing.add_done_callback(lambda _: self._arrived.set())
        self._channel.on_consumer_cancel_callbacks.add(self._on_cancel)
        self._opened_s = time.monotonic()
        self._windows = self._window = self._in_window = self._bytes = 0
        self._passed, self._skip, self._is_cut, self._is_cancelled = passed, passed, False, False
        self._buffer.clear()
        self._has_fresh = self._has_removed = False
        self._others = found.consumer_count or 0
        return found.message_count or 0

    async def _reopen(self) -> None:
        if self._passed > SKIP_MAX * (WINDOWS_MAX - 1):
            said = f"{self._passed} events of {self._queue} stay, and no more can be passed over at once"
            raise Unavailable("too_many", f"{said}: remove some of those first")
        await self.close()
        await self._begin(self._passed)

    async def _next_window(self, size: int) -> None:
        channel, _ = self._open_channel()
        self._window, self._in_window, self._has_removed = size, 0, False
        self._windows += 1
        await self._link.guard(channel.basic_qos(prefetch_count=size))
        tag = f"{self._windows:04d}"  # Why so: their order as text is the order of what they hold
        await self._link.guard(channel.consume(self._queue, tag))

    async def _arrival(self) -> bool:
        """Return once something has come, if only a window's end; False: nothing stands there any more."""
        ends_s = time.monotonic() + FORGOTTEN_S
        before = self._in_window
        while self._in_window == before < self._window and not self._buffer:
            self._open_channel()
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_S):
                    await self._arrived.wait()
                    continue
            ready = await self._ready()
            if self._arrived.is_set():
                continue
            if not ready:
                return False
            if time.monotonic() > ends_s:
                raise Unavailable("forgotten", f"none comes, though {ready} stand ready in {self._queue}")
        return True

    async def _ready(self) -> int:
        """Return how many events are in nobody's hands; what came into ours has been noted by then."""
        for _ in range(_ASKED_MAX):
            channel, _ = self._open_channel()
            # Why on this channel: what was sent to it before the answer comes before the answer.
            found = await self._link.guard(channel.queue_declare(self._queue, passive=True))
            # Why: a queue that is busy for 250 ms is said to be empty, without this consumer too (3.10).
            if found.consumer_count:
                return found.message_count or 0
            await asyncio.sleep(_LOOK_S)
        raise Unavailable("timeout", f"RabbitMQ does not tell what stands in {self._queue}")

    def _open_channel(self) -> tuple[DirectChannel, asyncio.Future[object]]:
        if self._channel is None or self._closing is None:
            raise Unavailable("closed", "the reader is closed")
        if self._closing.done():
            raise lost(self._closing)
        if self._is_cancelled:
            raise Unavailable("cancelled", f"RabbitMQ ended the consumer: was {self._queue} deleted?")
        return self._channel, self._closing

    def _take(self, channel: DirectChannel, arrival: Arrival) -> None:
        if channel is not self._channel:
            return  # it goes back with its channel
        self._arrived.set()
        self._in_window += 1
        self._has_fresh |= not arrival.is_redelivered
        if self._skip:
            self._skip -= 1
        elif not self._is_cut and len(self._buffer) < self.todo:
            self._bytes += len(arrival.body)
            self._buffer.append(delivery_of(arrival))
            if self._bytes > self._most_bytes and len(self._buffer) > 1:
                self._is_cut = True
                self._window_max = len(self._buffer) // 2

    def _on_cancel(self, frame: spec.Basic.Cancel) -> None:
        self._is_cancelled = True
        self._arrived.set()
