"""Events as messages: what the forwarder publishes by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway.broker.rabbitmq.publish import Message, Publisher
from gateway.broker.rabbitmq.refusals import Refusals
from gateway.event import Event
from gateway.topology import KEY_HEADER
from gateway.trace import HEADER as TRACE_HEADER

Headers = Callable[[Event], dict[str, str | int]]

# Bound: RabbitMQ closes the connection for headers above a frame (128 KiB); a group id may be longer.
_KEY_CHARS = 1000


def headers_of(event: Event) -> dict[str, str | int]:
    """Return the headers of *event*: its partition key, or as much of it as spreads keys just as well."""
    return {KEY_HEADER: event.partition_key[:_KEY_CHARS]}


def traced_headers_of(event: Event) -> dict[str, str | int]:
    """Return the headers of *event*, which may have a trace."""
    found = headers_of(event)
    if trace := event.attributes.get(TRACE_HEADER):
        found[TRACE_HEADER] = str(trace)
    return found


class EventPublisher:
    """Satisfies ``gateway.broker.Publisher``: publishes into one exchange."""

    def __init__(
        self,
        publisher: Publisher,
        exchange: str,
        refusals: Refusals | None = None,
        headers: Headers = headers_of,
    ) -> None:
        """Take *refusals* where *exchange* leads to several queues."""
        self._headers = headers
        self._publisher = publisher
        self._exchange = exchange
        self._refusals = refusals

    async def send(self, events: Sequence[Event]) -> asyncio.Future[None]:
        messages = [
            Message(
                exchange=self._exchange,
                routing_key=event.routing_key,
                body=event.body,
                headers=self._headers(event),
                message_id=event.id,
                type=event.type,
            )
            for event in events
        ]
        if self._refusals is not None:
            await self._refusals.try_first(messages)
        received = [str(event.attributes.get("recordedtime", "")) for event in events]
        return await self._publisher.send(messages, min(received, default=""))
