"""The queues that a sink had with another number of partitions, as this process found them at its start.

What is made after that start is of a process with a newer configuration, and none of our business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gateway.broker.rabbitmq import declare
from gateway.broker.rabbitmq.link import Link
from gateway.topology import MOST_PARTITIONS, Binding, Queue, SinkTopology, Topology


class Generations:
    """Numbers of partitions whose queues stand, for each sink."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._found: dict[str, tuple[int, ...]] | None = None
        self._lock = asyncio.Lock()

    async def find(self, link: Link) -> None:
        """Look what stands, once. To be awaited before anything is declared. Raises Unavailable."""
        async with self._lock:
            if self._found is None:
                self._found = {sink.name: await _earlier(link, sink) for sink in self._topology.sinks}

    def earlier(self, sink: SinkTopology) -> tuple[int, ...]:
        """Return the numbers of partitions that *sink* had before; empty until they were looked for."""
        return (self._found or {}).get(sink.name, ())

    async def queues(self, sink: SinkTopology, link: Link) -> list[str]:
        """Return the queues that *sink* had before and that stand still. Raises Unavailable."""
        await self.find(link)
        names = [queue for number in self.earlier(sink) for queue in sink.generation(number)]
        # Why again: in the end somebody deletes them.
        return await _stand(link, names) if names else []

    async def all_queues(self, sink: SinkTopology, link: Link) -> list[str]:
        """Return what events of *sink* wait in, earlier queues first. Raises Unavailable."""
        return [*await self.queues(sink, link), *sink.queues]

    def feeds(self) -> list[Binding]:
        """Return what brought events to them."""
        return [sink.feed(number) for sink in self._topology.sinks for number in self.earlier(sink)]


async def _earlier(link: Link, sink: SinkTopology) -> tuple[int, ...]:
    numbers: Iterable[int] = (1,)
    # Why asked first: who never had partitions need not be asked for 63 numbers of them.
    if await _stand(link, [sink.workers]):
        numbers = range(1, MOST_PARTITIONS + 1)
    firsts = {sink.generation(number)[0]: number for number in numbers if number != sink.partitions}
    return tuple(firsts[name] for name in await _stand(link, firsts))


async def _stand(link: Link, names: Iterable[str]) -> list[str]:
    found = await declare.standing(link, [Queue(name, {}) for name in names])
    return [name for name, ready in found.items() if ready is not None]
