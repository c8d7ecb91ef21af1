"""A broker in one SQLite file, for one host: for trying out and for small use, with the same promises.

Several processes may use the file. Each sink has one consuming process, which holds a lock that the kernel
frees at its death. What it took and did not settle is known only to it, so whoever consumes next begins at
the first event that is not settled.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from gateway.broker import Delivery, Depth
from gateway.broker.embedded_channels import EmbeddedConsumer, EmbeddedPublisher, StoreThread
from gateway.broker.embedded_dead import EmbeddedDead
from gateway.broker.embedded_store import Store
from gateway.errors import Unavailable
from gateway.metrics import Metrics
from gateway.topology import Binding, Topology

_CONSUMED = (
    "sink {sink} is consumed by process {holder} already, and the embedded broker gives each sink to"
    " one process only. Stop that one, or let this one work for others (gateway work --sink NAME)"
)
_IN_HANDS = (
    "the dead queue of sink {sink} is in the hands of {holder}. Nothing was changed; try again when that has"
    " ended"
)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Embedded:
    """One file with the queues of all sinks; satisfies ``gateway.broker.Broker``."""

    def __init__(
        self, path: Path, topology: Topology, metrics: Metrics, now_ms: Callable[[], int] = _now_ms
    ) -> None:
        """Take the file at *path*, opened at the first use; *now_ms* gives Unix time in milliseconds."""
        self._path = path
        self._topology = topology
        self._metrics = metrics
        self._store = Store(path, topology, now_ms)
        self._thread = StoreThread(self._store)
        self._publishers: set[EmbeddedPublisher] = set()
        self._consumers: dict[str, EmbeddedConsumer] = {}

    @asynccontextmanager
    async def publisher(self, sink: str = "") -> AsyncIterator[EmbeddedPublisher]:
        """Return a publisher; each of its batches is one transaction."""
        if sink:
            self._topology.sink(sink)
        await self._thread.run(self._store.open)
        publisher = EmbeddedPublisher(self._thread, partial(self._store.publish, sink=sink), self._wake)
        self._publishers.add(publisher)
        self._show_connected()
        try:
            yield publisher
        finally:
            publisher.close()
            self._publishers.discard(publisher)
            self._show_connected()

    @asynccontextmanager
    async def consumer(self, sink: str, prefetch: int) -> AsyncIterator[EmbeddedConsumer]:
        """Return the one consumer of *sink*; KeyError when the configuration has no such sink.

        Raises Unavailable("in_use") while another process or task consumes it.
        """
        self._topology.sink(sink)
        await self._thread.run(self._store.open)
        lock = _lock(
            self._path.with_name(f"{self._path.name}.{sink}.lock"), f"{os.getpid()}", sink, _CONSUMED
        )
        consumer = self._consumers[sink] = EmbeddedConsumer(self._thread, self._store, sink, prefetch)
        self._show_connected()
        try:
            yield consumer
        finally:
            consumer.close()
            del self._consumers[sink]
            self._show_connected()
            # Why after the thread's work: what this consumer began to settle has to be settled before another
            # one reads.
            try:
                await self._thread.finish()
            finally:
                os.close(lock)

    async def depth(self, sink: str) -> Depth:
        """Return the counts; unacked is None, and its events count as ready, unless this process consumes."""
        self._topology.sink(sink)
        depth = await self._thread.run(partial(self._store.depth, sink))
        consumer = self._consumers.get(sink)
        if consumer is None:
            return depth
        unacked = len(consumer.unsettled)
        return replace(depth, ready=max(0, depth.ready - unacked), unacked=unacked)

    async def peek(self, sink: str, limit: int, *, dead: bool = False) -> list[Delivery]:
        """Return the first events, without those that a consumer of this process holds."""
        self._topology.sink(sink)
        if dead:
            _, last = await self._thread.run(partial(self._store.count_dead, sink))
            return await self._thread.run(partial(self._store.read_dead, sink, 0, last, limit))
        consumer = self._consumers.get(sink)
        taken = frozenset(consumer.unsettled) if consumer else frozenset()
        return await self._thread.run(partial(self._store.read, sink, 0, taken, limit))

    @asynccontextmanager
    async def dead(self, sink: str, who: str) -> AsyncIterator[EmbeddedDead]:
        """Take the parked events of *sink*, beside its consumer."""
        self._topology.sink(sink)
        await self._thread.run(self._store.open)
        lock = _lock(self._path.with_name(f"{self._path.name}.{sink}.dead.lock"), who, sink, _IN_HANDS)
        try:
            dead = EmbeddedDead(self._thread, self._store, sink, self._wake)
            await dead.rewind()
            yield dead
        finally:
            try:
                await self._thread.finish()
            finally:
                os.close(lock)

    async def unrouted(self) -> int:
        """Return how many events no sink takes."""
        return await self._thread.run(self._store.unrouted)

    async def rescue(self) -> int:
        """Give unrouted events to the sinks that take them now; return how many moved.

        The others stay where they are.
        """
        last = await self._thread.run(self._store.last_unrouted)
        after: int | None = 0
        total = 0
        while after is not None:
            after, moved = await self._thread.run(partial(self._store.rescue, after, last))
            total += moved
        self._wake()
        return total

    async def foreign_queues(self) -> list[str]:
        """Return the sinks that have events in the file though the configuration does not name them."""
        known = {sink.name for sink in self._topology.sinks}
        return [name for name in await self._thread.run(self._store.sinks) if name not in known]

    async def prune(self, *, is_dry: bool) -> list[Binding]:
        """Return nothing: the file has no bindings, an event goes by the patterns of the moment."""
        return []

    async def check(self) -> str:
        """Open the file, try a transaction, and say what it holds."""
        await self._thread.run(self._store.check)
        unrouted, dropped = await self.unrouted(), await self._thread.run(self._store.dropped)
        depths = [await self.depth(sink.name) for sink in self._topology.sinks]
        waiting, dead = sum(d.ready + d.retry for d in depths), sum(d.dead for d in depths)
        return (
            f"{self._path} is writable: {waiting} deliveries wait for {len(depths)} sinks, {dead} are parked;"
            f" {unrouted} events wait that no sink takes, {dropped} of those were dropped so far"
        )

    async def close(self) -> None:
        """Finish what is being written, refuse the rest, close the file and end the thread."""
        for publisher in self._publishers:
            publisher.close()
        for consumer in self._consumers.values():
            consumer.close()
        await self._thread.close()

    def _wake(self) -> None:
        for consumer in self._consumers.values():
            consumer.news.set()

    def _show_connected(self) -> None:
        self._metrics.broker_connected.labels(role="publish").set(bool(self._publishers))
        self._metrics.broker_connected.labels(role="consume").set(bool(self._consumers))


def _lock(path: Path, who: str, sink: str, taken: str) -> int:
    """Return an open file at *path* that names *who* holds it; the kernel frees it with the process.

    Raises Unavailable("in_use") with the sentence *taken*, a format of the sink and its holder.
    """
    handle = -1
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.pwrite(handle, who.encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(handle, 200, 0).decode("utf-8", "replace") or "unknown"
        os.close(handle)
        raise Unavailable("in_use", taken.format(sink=sink, holder=holder)) from error
    except OSError as error:
        if handle >= 0:
            os.close(handle)
        raise Unavailable("io_error", f"{path} can't be locked: {error}") from error
    return handle
