"""The amqp sink: events to an exchange of somebody else's topology, on this broker or another one.

It stands here and not among the sinks because all its I/O is RabbitMQ's; it satisfies ``gateway.sinks.Sink``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.broker import Unconfirmed
from gateway.broker.rabbitmq import declare
from gateway.broker.rabbitmq.events import headers_of
from gateway.broker.rabbitmq.link import Link, is_blocked
from gateway.broker.rabbitmq.publish import ConfirmChannel, Message, Publisher
from gateway.config import AmqpSink
from gateway.config import Broker as BrokerConfig
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.metrics import Metrics
from gateway.topology import Exchange

_MOST_SHORT_BYTES = 255  # Source: AMQP 0-9-1, short strings: routing key, message id, type
_MEANINGS = {
    "returned": "no queue is bound to exchange {exchange} for this event's routing key",
    "nacked": "a queue behind exchange {exchange} refuses it: does a policy limit its length?",
}
Failures = Mapping[int, Poison | Unavailable]


class Outlet:
    """One connection that publishes, persistent and mandatory; an event is written once it is confirmed."""

    def __init__(self, config: AmqpSink, name: str) -> None:
        self._config = config
        self._name = name
        self._broker = BrokerConfig(
            url=config.url,
            tls_ca=config.tls_ca,
            tls_cert=config.tls_cert,
            tls_key=config.tls_key,
            heartbeat_s=config.heartbeat_s,
            connect_timeout_s=config.connect_timeout_s,
            confirm_timeout_s=config.confirm_timeout_s,
        )
        # Why its own: the gateway's metrics speak of the gateway's broker.
        self._metrics = Metrics()
        self._link = Link(self._broker, f"sink {name}", self._metrics)
        self._publisher: Publisher | None = None

    async def open(self) -> None:
        """Connect, and look whether the exchange stands. Raises Unavailable."""
        try:
            await self._open()
        except Unavailable as why:
            raise self._told(why) from why

    async def write(self, events: Sequence[Event]) -> Failures:
        """Publish *events* and wait for all confirms. Raises Unavailable, or Poison where one is refused."""
        if self._publisher is None:
            raise Unavailable("not_open", f"sink {self._name} is not open.")
        failures: dict[int, Poison | Unavailable] = {}
        messages, places = [], []
        for at, event in enumerate(events):
            message = self._message(event)
            if isinstance(message, Poison):
                failures[at] = message
            else:
                messages.append(message)
                places.append(at)
        try:
            found = await self._publish(messages)
        except Unavailable as why:
            raise self._told(why) from why
        return {**failures, **{places[at]: why for at, why in found.items()}}

    async def close(self) -> None:
        """Close the connection."""
        await self._drop_publisher()
        await self._link.close()

    async def _open(self) -> Publisher:
        if await is_blocked(await self._link.get()):
            raise Unavailable("blocked", "RabbitMQ refuses to read publishes: it has a memory or disk alarm")
        if self._publisher is not None and not self._publisher.is_closed:
            return self._publisher
        await self._drop_publisher()
        exchange = self._config.exchange
        if exchange:
            # Why its kind does not matter: who only looks is not asked for it.
            standing = await declare.standing(self._link, [Exchange(exchange, "topic")])
            if standing[exchange] is None:
                raise Unavailable(
                    "missing",
                    f"exchange {exchange} does not exist at {self._link.url.host}; declare it there, with"
                    f" queues bound to it, or correct sinks.{self._name}.exchange",
                )
        channel = await self._link.channel(ConfirmChannel, confirms=True)
        assert isinstance(channel, ConfirmChannel)
        self._publisher = Publisher(channel, self._broker, self._metrics)
        return self._publisher

    async def _publish(self, messages: Sequence[Message]) -> Failures:
        """Publish *messages*. Raises Poison when RabbitMQ closes the channel for one of them."""
        if not messages:
            return {}
        try:
            publisher = await self._open()
            await (await publisher.send(messages))
        except Unconfirmed as why:
            if why.failed:
                return self._failed(why, len(messages))
            if why.reason == "rejected":
                raise Poison("rejected", f"RabbitMQ refuses this event ({why.detail})") from why
            raise
        return {}

    def _failed(self, why: Unconfirmed, count: int) -> Failures:
        failures = {at: Unavailable(reason, self._meaning(reason)) for at, reason in why.failed.items()}
        # Why wait then: a queue that is full stays so for a while, and takes none of what else there is.
        if len(failures) == count and all(one.reason == "nacked" for one in failures.values()):
            raise failures[0]
        return failures

    def _meaning(self, reason: str) -> str:
        return _MEANINGS[reason].format(exchange=self._config.exchange or "(default)")

    def _message(self, event: Event) -> Message | Poison:
        key = self._config.routing_key or event.routing_key
        if max(len(text.encode()) for text in (key, event.id, event.type)) > _MOST_SHORT_BYTES:
            return Poison("too_long", "its id, its type or its routing key has more than 255 bytes")
        return Message(
            exchange=self._config.exchange,
            routing_key=key,
            body=event.body,
            headers=headers_of(event),
            message_id=event.id,
            type=event.type,
        )

    async def _drop_publisher(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()

    def _told(self, why: Unavailable) -> Unavailable:
        """Return *why* with the keys of this sink where it names those of the broker."""
        return Unavailable(why.reason, why.detail.replace("broker.", f"sinks.{self._name}."), why.wait_s)
