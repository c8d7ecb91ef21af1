"""Which objects of ours the keeper looks after, and what it calls them."""

from __future__ import annotations

from gateway.topology import Binding, Queue, Topology

Key = tuple[str, str]
"""Kind and name: one object of ours."""


def key(binding: Binding) -> Key:
    """Return what *binding*, of the events, is called."""
    return ("binding", f"{binding.destination} {binding.routing_key}")


def keys(topology: Topology) -> list[Key]:
    """Return all that is looked after."""
    found = [("exchange", exchange.name) for exchange in topology.exchanges()]
    found += [("queue", queue.name) for queue in queues(topology)]
    return found + [key(one) for one in topology.bindings() if one.source == topology.events]


def queues(topology: Topology) -> list[Queue]:
    """Return those on the way of events; dead and retry queues are declared when they are used."""
    names = {topology.unrouted}
    names.update(name for sink in topology.sinks for name in (*sink.queues, sink.workers))
    return [queue for queue in topology.queues() if queue.name in names]
