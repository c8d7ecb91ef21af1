"""Publisher and consumer of the embedded broker, and the one thread on which all work on the file is done.

The thread takes jobs in order, so a job sees everything that was begun before it. What consumers hold is kept
here, on the loop's side, and changes only there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

from gateway.broker import Delivery, Unconfirmed
from gateway.broker.embedded_rows import READ_MAX_BYTES
from gateway.broker.embedded_store import Store
from gateway.errors import Unavailable
from gateway.event import Event
from gateway.retries import retry_delay_ms

POLL_S = 0.05
"""How long it may take until a consumer sees what another process published, or a retry that is due."""

Result = TypeVar("Result")


class StoreThread:
    """The thread of one Store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="embedded-broker")
        self._is_closed = False

    def start(self, job: Callable[[], Result]) -> asyncio.Future[Result]:
        """Queue *job*; cancelling the future may leave it out, so shield it. Raises Unavailable("closed")."""
        if self._is_closed:
            raise Unavailable("closed", "the embedded broker is closed")
        return asyncio.get_running_loop().run_in_executor(self._executor, job)

    async def run(self, job: Callable[[], Result]) -> Result:
        """Return the result of *job*, which is run even if the caller stops waiting."""
        return await asyncio.shield(self.start(job))

    async def finish(self) -> None:
        """Return once everything that was queued is done."""
        if not self._is_closed:
            await self.run(lambda: None)

    async def close(self) -> None:
        """Do what is queued, close the file and end the thread; safe to call again."""
        if not self._is_closed:
            last = self.start(self._store.close)
            self._is_closed = True
            await asyncio.shield(last)
            self._executor.shutdown()


class EmbeddedPublisher:
    """Satisfies ``gateway.broker.Publisher``: a batch is one transaction, a failure ends the publisher."""

    def __init__(
        self, thread: StoreThread, store: Callable[[Sequence[Event]], None], wake: Callable[[], None]
    ) -> None:
        """Take *store*, which writes a batch, and *wake*, called on the loop after each one."""
        self._thread = thread
        self._store = store
        self._wake = wake
        self._is_closed = False

    async def send(self, events: Sequence[Event]) -> asyncio.Future[None]:
        """Queue *events* as one transaction; the future is done once it is on disk."""
        if self._is_closed:
            raise Unavailable("closed", "this publisher is closed, or one of its batches failed")
        job = self._thread.start(partial(self._publish, tuple(events)))
        job.add_done_callback(lambda _: self._wake())
        # Why shield: a caller who cancels its future may not take one batch out from between others.
        return asyncio.shield(job)

    def close(self) -> None:
        """Refuse everything that is not being written yet."""
        self._is_closed = True

    def _publish(self, events: Sequence[Event]) -> None:
        # Why asked on the thread too: batches queued behind one that failed may not overtake it.
        if self._is_closed:
            raise Unconfirmed("closed", "the publisher was closed, or a batch before this one failed")
        try:
            self._store(events)
        except Unconfirmed:
            self._is_closed = True
            raise
        except Unavailable as error:
            self._is_closed = True
            raise Unconfirmed("closed", str(error)) from error


class EmbeddedConsumer:
    """Satisfies ``gateway.broker.Consumer``; a delivery's tag is its place in the file."""

    def __init__(self, thread: StoreThread, store: Store, sink: str, prefetch: int) -> None:
        self._thread = thread
        self._store = store
        self._sink = sink
        self._prefetch = prefetch
        self._after = 0  # the last place handed out as a first try
        self._settling: set[int] = set()
        self._turn = asyncio.Lock()
        self._is_closed = False
        self.unsettled: dict[int, int] = {}
        """Place → bytes of the body. Bound: *prefetch* places, READ_MAX_BYTES and what one read adds."""
        self.news = asyncio.Event()
        """Set when there may be something to read."""

    async def take(self, max_events: int, max_wait_s: float) -> list[Delivery]:
        """Return due retries first, then the others in order of publishing; at most about 32 MiB of bodies.

        Returns early when *prefetch* leaves no room for more; waits while that much is unsettled.
        """
        loop = asyncio.get_running_loop()
        async with self._turn:
            while not (got := await self._read(max_events, [])):
                await self._news_within(POLL_S)
            deadline = loop.time() + max_wait_s
            while self._room(max_events, got) > 0 and (left_s := deadline - loop.time()) > 0:
                await self._news_within(min(left_s, POLL_S))
                got += await self._read(max_events, got)
            # Why only here: nothing remembers what a take gathers, so cancelling it loses nothing.
            self.unsettled.update((delivery.tag, len(delivery.body)) for delivery in got)
            self._after = self._last_place(got)
            return got

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle *deliveries* in one transaction. ValueError when one of them is not unsettled here."""
        tags = {delivery.tag for delivery in deliveries}
        await self._settle(tags, partial(self._store.ack, sorted(tags)))

    async def retry(self, delivery: Delivery, reason: str) -> None:
        """Let *delivery* come again after ``retry_delay_ms``."""
        delay_ms = retry_delay_ms(delivery.attempt, random.random())
        await self._settle({delivery.tag}, partial(self._store.retry, delivery.tag, reason, delay_ms))

    async def park(self, delivery: Delivery, reason: str) -> None:
        """Move *delivery* to the dead ones."""
        await self._settle({delivery.tag}, partial(self._store.park, delivery.tag, reason))

    def close(self) -> None:
        """Refuse further calls and end a take that waits."""
        self._is_closed = True
        self.news.set()

    def _require_open(self) -> None:
        if self._is_closed:
            raise Unavailable("closed", "this consumer is closed; what it did not settle comes again")

    async def _read(self, max_events: int, got: Sequence[Delivery]) -> list[Delivery]:
        """Return what comes behind *got*, as far as there is room."""
        self._require_open()
        self.news.clear()  # Why before reading: news that comes meanwhile must not be missed.
        room = self._room(max_events, got)
        if room <= 0:
            return []
        taken = {*self.unsettled, *(delivery.tag for delivery in got)}
        read = partial(self._store.read, self._sink, self._last_place(got), taken, room)
        found = await self._thread.run(read)
        self._require_open()
        return found

    def _room(self, max_events: int, got: Sequence[Delivery]) -> int:
        size_bytes = sum(self.unsettled.values()) + sum(len(delivery.body) for delivery in got)
        if size_bytes >= READ_MAX_BYTES:
            return 0
        return min(max_events, self._prefetch - len(self.unsettled)) - len(got)

    def _last_place(self, got: Sequence[Delivery]) -> int:
        return max((delivery.tag for delivery in got if delivery.attempt == 1), default=self._after)

    async def _news_within(self, wait_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self.news.wait()

    async def _settle(self, tags: set[int], job: Callable[[], None]) -> None:
        self._require_open()
        if not tags <= self.unsettled.keys() - self._settling:
            raise ValueError("a delivery can be settled once, by the consumer that took it")
        done = self._thread.start(job)
        self._settling |= tags
        # Why a callback: the job runs to its end even where the caller is cancelled here.
        done.add_done_callback(partial(self._settled, tags))
        await asyncio.shield(done)

    def _settled(self, tags: set[int], done: asyncio.Future[None]) -> None:
        self._settling -= tags
        if not done.cancelled() and done.exception() is None:
            for tag in tags:
                del self.unsettled[tag]
            self.news.set()
