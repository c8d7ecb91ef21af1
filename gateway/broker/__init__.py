"""What the stages ask of a broker. Two implementations: ``rabbitmq`` and ``embedded``; stages import neither.

Nothing here moves data: the forwarder holds a Publisher, each worker a Consumer, the commands a Broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from gateway.errors import Unavailable
from gateway.event import Event
from gateway.topology import Binding


class Unconfirmed(Unavailable):
    """A publish that was sent and not confirmed; the events may or may not stand in the queues.

    ``reason`` is one of ``nacked`` (refused: a fault or an operator's policy), ``returned`` (no route: the
    topology is broken), ``deadline`` (no confirm in time), ``closed`` (connection or channel lost),
    ``no_rights`` (the user may not publish there), ``rejected`` (the broker closed the channel because of
    what was sent: the content is suspect).

    ``failed`` says which of what was sent together did not get through, by place, and why (``nacked`` or
    ``returned``); all others did. It is empty where that is not known.
    """

    def __init__(self, reason: str, detail: str = "", failed: Mapping[int, str] | None = None) -> None:
        super().__init__(reason, detail)
        self.failed = failed or {}


_NO_HEADERS: Mapping[str, str | int] = MappingProxyType({})


class Delivery(NamedTuple):
    """One event taken from a queue and not settled yet."""

    # Why a tuple: one is made an event, in a quarter of the time that a frozen dataclass takes.

    body: bytes
    attempt: int
    """1 for the first try; counted in our own header only, so lost connections do not raise it."""
    tag: int
    """The broker's handle, valid for the consumer that took it."""
    message_id: str = ""
    routing_key: str = ""
    headers: Mapping[str, str | int] = _NO_HEADERS
    """Our own headers: ``partitionkey``; ``history`` of what has failed (``retries``); on parked events
    ``reason`` and ``parked_ms`` (Unix milliseconds)."""
    type: str = ""
    """The event's type, where the broker carries it beside the body."""
    is_routed: bool = False
    """It came by a pattern of the sink, which may have lost that since. False: it was sent to this sink
    alone, or has come back from a retry."""

    @property
    def key(self) -> str:
        """The partition key: what has the same one keeps its order."""
        return str(self.headers.get("partitionkey", ""))


@dataclass(frozen=True, slots=True)
class Depth:
    """How many events of a sink wait where."""

    ready: int
    """In the queue, not taken by a consumer."""
    unacked: int | None
    """Taken and not settled; None where the broker does not tell."""
    retry: int
    """Waiting for a delayed retry."""
    dead: int
    """Parked."""


class Publisher(Protocol):
    """One channel for publishing. Who sends owns it, and takes a new one after any failure."""

    async def send(self, events: Sequence[Event]) -> asyncio.Future[None]:
        """Write *events* in order; return a future that is done when every one of them is confirmed.

        With no events it is done at once.

        Returns as soon as they are written, so that several batches can be under way; waits while the
        broker refuses to read. Futures end in the order of their batches, except after a nack. The future
        raises Unconfirmed; send raises Unavailable when the channel is gone.
        """
        ...


class Consumer(Protocol):
    """One channel that takes events of one sink. A worker owns it.

    Closing it gives everything that is not settled back to the queue, in order.
    """

    async def take(self, max_events: int, max_wait_s: float) -> list[Delivery]:
        """Wait for at least one event, then at most *max_wait_s* for more.

        Raises Unavailable when the channel is gone. Cancelling a take loses nothing: what it had gathered
        comes out of the next one.
        """
        ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle *deliveries*: their effect is durable. Unavailable: they will come again."""
        ...

    async def retry(self, delivery: Delivery, reason: str) -> None:
        """Hand *delivery* back to come again later, attempt + 1; settled only once the copy is confirmed."""
        ...

    async def park(self, delivery: Delivery, reason: str) -> None:
        """Move *delivery* to the sink's dead queue with *reason*; settled only once the copy is confirmed."""
        ...


class DeadQueue(Protocol):
    """The parked events of one sink, in the hands of one command; those parked meanwhile are not among them.

    What is not removed stays, in order. A page has to be settled before the next one is asked for.
    """

    @property
    def todo(self) -> int:
        """How many events are still to be given."""
        ...

    async def page(self, max_events: int) -> list[Delivery]:
        """Return the next events in the order of parking, at most *max_events*; none: the end.

        A command that was killed may have left some of them before others that were parked earlier.
        Raises Unavailable.
        """
        ...

    async def rewind(self) -> None:
        """Begin again with the first that stands there. Raises Unavailable."""
        ...

    async def replay(self, deliveries: Sequence[Delivery]) -> None:
        """Give *deliveries* of the last page, or what was made of them, back to the sink, in order.

        They come as a first attempt, with their history, and not routed by a pattern. Each leaves the dead
        queue once its copy is confirmed. Raises Unavailable or Unconfirmed: some may be there twice.
        """
        ...

    async def remove(self, deliveries: Sequence[Delivery]) -> None:
        """Remove *deliveries* of the last page for ever. Raises Unavailable."""
        ...


class Publishing(Protocol):
    """Where events are published."""

    def publisher(self, sink: str = "") -> AbstractAsyncContextManager[Publisher]:
        """Open a channel on the publishing connection; the topology is declared first. Raises Unavailable.

        With *sink* what it sends goes to that sink alone, whatever its patterns; KeyError for an unknown one.
        """
        ...


class Broker(Publishing, Protocol):
    """Where events are published and consumed."""

    def consumer(self, sink: str, prefetch: int) -> AbstractAsyncContextManager[Consumer]:
        """Open a channel that takes events of *sink*, at most *prefetch* unsettled. Raises Unavailable."""
        ...

    async def depth(self, sink: str) -> Depth:
        """Return how many events of *sink* wait. Raises Unavailable."""
        ...

    async def peek(self, sink: str, limit: int, *, dead: bool = False) -> list[Delivery]:
        """Return the first events of *sink*'s queue (or dead queue) and leave them there, in order."""
        ...

    def dead(self, sink: str, who: str) -> AbstractAsyncContextManager[DeadQueue]:
        """Take the dead queue of *sink* for a command of *who*, a text that others are told.

        Raises Unavailable: ``in_use`` while another command has it; KeyError for an unknown sink.
        """
        ...

    async def unrouted(self) -> int:
        """Return how many events stand in the queue of events that no sink takes."""
        ...

    async def rescue(self) -> int:
        """Publish what stands in the unrouted queue again, by its old routing key; return how many moved.

        An event leaves the queue only once its copy is confirmed. One that still no sink takes stands there
        again afterwards. Ends after as many events as stood there at the start.
        """
        ...

    async def foreign_queues(self) -> list[str]:
        """Return names of queues (or sinks) that get our events though no sink of the config reads them.

        Raises Unavailable where the broker can't be asked (RabbitMQ: its management API).
        """
        ...

    async def prune(self, *, is_dry: bool) -> list[Binding]:
        """Remove bindings that lead to our sinks by patterns that the configuration does not name any more.

        Returns them, and with *is_dry* only that. Queues and what stands in them stay. Raises Unavailable;
        ``management`` where the broker can't be asked which bindings there are.
        """
        ...

    async def check(self) -> str:
        """Connect, look at everything the configuration needs, and return a sentence on what was found.

        Raises Unavailable with a sentence that says what is wrong and what to do.
        """
        ...

    async def close(self) -> None:
        """Close all connections; everything unsettled goes back to its queue."""
        ...
