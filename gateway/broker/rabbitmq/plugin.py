"""Looks whether RabbitMQ can spread events by their key, which a plug-in does."""

from __future__ import annotations

from weakref import WeakSet

import aiormq

from gateway.broker.rabbitmq.link import Link, close_channel
from gateway.errors import Unavailable
from gateway.topology import HASH, Topology

_NAME = "amq.im-gateway-probe"
"""Nobody may declare a name that begins so, and RabbitMQ looks at the kind first."""


class HashPlugin:
    """What is known of ``rabbitmq_consistent_hash_exchange``, for each connection."""

    def __init__(self, topology: Topology) -> None:
        self._sinks = [sink.name for sink in topology.sinks if sink.partitions > 1]
        self._known: WeakSet[aiormq.abc.AbstractConnection] = WeakSet()
        """Connections to nodes that have it."""

    async def ensure(self, link: Link) -> None:
        """Return if *link* can declare what partitions need; Unavailable("no_plugin") if not."""
        if not self._sinks or (connection := await link.get()) in self._known:
            return
        # Why another connection: RabbitMQ closes the one by which an unknown kind is declared.
        twin = link.twin()
        try:
            await self._try(twin)
        finally:
            await twin.close()
        self._known.add(connection)

    async def _try(self, link: Link) -> None:
        channel = await link.channel(aiormq.Channel, confirms=False)
        try:
            await link.guard(channel.exchange_declare(_NAME, exchange_type=HASH))
        except Unavailable as fault:
            if fault.reason == "no_rights":
                return
            if fault.reason != "no_plugin":
                raise
            keys = ", ".join(f"sinks.{name}.partitions" for name in self._sinks)
            raise Unavailable(
                "no_plugin",
                f"{keys}: RabbitMQ spreads events over partitions by a plug-in that is not enabled. Enable it"
                " on every node: rabbitmq-plugins enable rabbitmq_consistent_hash_exchange; or set"
                " partitions: 1",
            ) from fault
        finally:
            await close_channel(channel)
