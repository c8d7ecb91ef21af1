"""A channel whose deliveries come past aiormq, which starts a task for each; see ``intake``."""

from __future__ import annotations

import aiormq

from gateway.broker.rabbitmq.arrival import Arrival
from gateway.broker.rabbitmq.intake import Take


def _ignore(_: Arrival) -> None:
    """Take nothing: it goes back with its channel."""


class DirectChannel(aiormq.Channel):
    """For one who only takes note: while *take* runs, nothing else of the connection is read."""

    take: Take = staticmethod(_ignore)

    def deliver(self, arrival: Arrival) -> None:
        """Give *arrival* to who takes it now."""
        self.take(arrival)

    async def consume(self, queue: str, consumer_tag: str | None = None) -> None:
        """Ask for what stands in *queue*; it comes to *take*."""
        await self.basic_consume(queue, _never, consumer_tag=consumer_tag)


async def _never(_: object) -> None:
    """Nothing comes this way."""
