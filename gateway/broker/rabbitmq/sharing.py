"""What partitions need of the broker objects beside their being declared."""

from __future__ import annotations

from collections.abc import Container, Iterable
from weakref import WeakSet

from gateway.broker.rabbitmq import declare
from gateway.broker.rabbitmq.generations import Generations
from gateway.broker.rabbitmq.link import Link
from gateway.broker.rabbitmq.plugin import HashPlugin
from gateway.broker.rabbitmq.turns import Turns
from gateway.topology import Binding, Exchange, Queue, Topology


class Sharing:
    """One for all links of a broker."""

    def __init__(self, topology: Topology, turns: Turns | None = None) -> None:
        self._topology = topology
        self.turns = turns or Turns(None)
        self.generations = Generations(topology)
        self.plugin = HashPlugin(topology)
        self.is_feeding = False
        """This process publishes. Why it matters: a worker that still has an older configuration than who
        publishes must not bring events to queues that nobody will read."""
        self._spread_by: WeakSet[object] = WeakSet()
        """Connections since whose start keys are spread as they were before."""

    async def prepare(self, link: Link) -> list[Binding]:
        """Return when everything may be declared by *link*, and what this process may bind of it.

        Raises Unavailable.
        """
        await self.generations.find(link)
        await self.plugin.ensure(link)
        return self.wanted(self._topology.bindings(), () if self.is_feeding else await self._new(link))

    async def spread(self, link: Link) -> None:
        """Spread keys over partitions as before, which RabbitMQ forgets when it is started again (3.10)."""
        connection = await link.get()
        if connection not in self._spread_by:
            # Why only the first: meanwhile keys lie elsewhere, and the others publish already.
            if self.turns.is_first(connection):
                await declare.renew(link, [one for sink in self._topology.sinks for one in sink.spreading()])
            self._spread_by.add(connection)

    def wanted(self, bindings: Iterable[Binding], new: Container[str] = ()) -> list[Binding]:
        """Return those of *bindings* that this process may bind, where the sinks *new* had no queue yet."""
        # Why partitions too: bound by two at once, one of them may be left without any key (3.10).
        not_ours = {
            binding
            for sink in self._topology.sinks
            if not self.is_feeding and sink.name not in new
            for binding in (sink.feed(sink.partitions), *sink.spreading())
        }
        return [one for one in bindings if one not in not_ours]

    def unwanted(self) -> list[Binding]:
        """Return what it has to take away."""
        return self.generations.feeds() if self.is_feeding else []

    async def _new(self, link: Link) -> set[str]:
        """Return sinks that no other configuration feeds: without exchange, or a queue and all others."""
        sinks = self._topology.sinks
        queues = await declare.standing(link, [Queue(name, {}) for sink in sinks for name in sink.queues])
        exchanges = await declare.standing(link, [Exchange(sink.exchange, "fanout") for sink in sinks])
        return {
            sink.name
            for sink in sinks
            # Why the exchange: bound to the events again and to no queue, it would send them to the unrouted.
            if exchanges[sink.exchange] is None
            or (any(queues[name] is None for name in sink.queues) and not self.generations.earlier(sink))
        }
