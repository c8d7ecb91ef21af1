"""Names and shapes of the broker objects, as data: what stands where, and which event goes to which sink.

Queue arguments are final in RabbitMQ (a redeclare with others is refused), so they are fixed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gateway.patterns import matches

Arguments = Mapping[str, str | int | bool]

DELIVERY_LIMIT = 1_000_000
"""Returns after which a quorum queue drops an event: never reached, and never absent (4.x drops after 20)."""
UNROUTED_BYTES = 256 * 1024 * 1024
UNROUTED_TTL_MS = 7 * 24 * 3600 * 1000
RETRY_DELAYS_S = (5, 30, 300, 1800, 7200)
"""The delay before attempt 2, 3, …; the last one for all further attempts."""
MOST_PARTITIONS = 64
KEY_HEADER = "partitionkey"
HASH = "x-consistent-hash"
"""The kind of exchange that spreads by key; a plug-in of RabbitMQ brings it."""


@dataclass(frozen=True, slots=True)
class Exchange:
    name: str
    kind: str
    """``topic``, ``fanout`` or HASH."""
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    name: str
    arguments: Arguments


@dataclass(frozen=True, slots=True)
class Binding:
    """*destination* gets what *source* holds under *routing_key*."""

    source: str
    destination: str
    routing_key: str
    to_queue: bool
    """False: the destination is an exchange."""


@dataclass(frozen=True, slots=True)
class SinkTopology:
    """The objects of one sink."""

    name: str
    patterns: tuple[str, ...]
    """Topic patterns over routing keys, ``im.group.#``."""
    exchange: str
    queue: str
    dead: str
    partitions: int = 1

    @property
    def workers(self) -> str:
        """The queue on which the workers of a sink with partitions announce themselves; it stays empty."""
        return f"{self.queue}.workers"

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that its events wait in."""
        return self.generation(self.partitions)

    @property
    def place(self) -> str:
        """Say where its events wait."""
        return self.queue if self.partitions == 1 else f"{self.spread(self.partitions)}.*"

    def generation(self, partitions: int) -> tuple[str, ...]:
        """Return what ``queues`` is, or was, with so many *partitions*."""
        if partitions == 1:
            return (self.queue,)
        return tuple(f"{self.spread(partitions)}.{number}" for number in range(partitions))

    def spread(self, partitions: int) -> str:
        """Return the name of the exchange that spreads events over *partitions*, where there are several."""
        return f"{self.queue}.p{partitions}"

    def feed(self, partitions: int) -> Binding:
        """Return what brings events from the sink's exchange to a generation."""
        destination = self.queue if partitions == 1 else self.spread(partitions)
        return Binding(self.exchange, destination, "", to_queue=partitions == 1)

    def spreading(self) -> tuple[Binding, ...]:
        """Return what brings events to each partition; none without partitions.

        Their order counts: by it keys are spread.
        """
        if self.partitions == 1:
            return ()
        weight = "1"
        return tuple(
            Binding(self.spread(self.partitions), queue, weight, to_queue=True) for queue in self.queues
        )

    def takes(self, routing_key: str) -> bool:
        """Say whether an event with *routing_key* is for this sink."""
        return any(matches(pattern, routing_key) for pattern in self.patterns)

    @property
    def lock(self) -> str:
        """The exclusive queue that a command holds while it works on the dead queue."""
        return f"{self.dead}.lock"

    def retry_queue(self, delay_s: int) -> str:
        return f"{self.queue}.retry.{delay_s}s"


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything that the gateway declares for one configuration."""

    events: str
    unrouted: str
    sinks: tuple[SinkTopology, ...]

    @classmethod
    def of(
        cls, exchange: str, sinks: Mapping[str, tuple[str, ...]], partitions: Mapping[str, int] | None = None
    ) -> Topology:
        """Return the topology for the exchange *exchange* and the patterns of each sink by its name.

        *partitions*: how many a sink has, where it is not one. All names derive from the exchange:
        ``x.events`` gives ``x.sink.…`` and ``x.unrouted``.
        """
        prefix = exchange.removesuffix(".events")
        return cls(
            events=exchange,
            unrouted=f"{prefix}.unrouted",
            sinks=tuple(
                SinkTopology(
                    name=name,
                    patterns=patterns,
                    exchange=f"{prefix}.sink.{name}",
                    queue=f"{prefix}.sink.{name}",
                    dead=f"{prefix}.sink.{name}.dead",
                    partitions=(partitions or {}).get(name, 1),
                )
                for name, patterns in sinks.items()
            ),
        )

    def sink(self, name: str) -> SinkTopology:
        """Return the objects of the sink *name*; KeyError when the configuration has no such sink."""
        for sink in self.sinks:
            if sink.name == name:
                return sink
        raise KeyError(name)

    def exchanges(self) -> Iterator[Exchange]:
        """Yield all exchanges, alternates before those that name them."""
        alternate = {"alternate-exchange": self.unrouted}
        yield Exchange(self.unrouted, "fanout")
        yield Exchange(self.events, "topic", alternate)
        for sink in self.sinks:
            yield Exchange(sink.exchange, "fanout", alternate)
            if sink.partitions > 1:
                yield Exchange(sink.spread(sink.partitions), HASH, {**alternate, "hash-header": KEY_HEADER})

    def queues(self) -> Iterator[Queue]:
        """Yield all queues."""
        bound: Arguments = {
            "x-max-length-bytes": UNROUTED_BYTES,
            "x-message-ttl": UNROUTED_TTL_MS,
            "x-overflow": "drop-head",
        }
        # Why quorum here too: a classic queue stands on one node of a cluster. While that is down, what no
        # sink takes would be lost, or refused, which holds up every sink.
        yield Queue(self.unrouted, {**_quorum(), **bound})
        for sink in self.sinks:
            single: Arguments = {"x-single-active-consumer": True} if sink.partitions > 1 else {}
            for queue in sink.queues:
                yield Queue(queue, {**_quorum(), **single})
            if sink.partitions > 1:
                # Why quorum though it stays empty: a classic queue goes with the node that it stands on.
                yield Queue(sink.workers, _quorum())
            yield Queue(sink.dead, _quorum())
            for delay_s in RETRY_DELAYS_S:
                back: Arguments = {
                    "x-dead-letter-exchange": sink.exchange,
                    "x-dead-letter-strategy": "at-least-once",
                    "x-overflow": "reject-publish",
                }
                yield Queue(sink.retry_queue(delay_s), {**_quorum(), **back})

    def bindings(self) -> Iterator[Binding]:
        """Yield all bindings; those of the queues come before what feeds them."""
        yield Binding(self.unrouted, self.unrouted, "", to_queue=True)
        for sink in self.sinks:
            yield from sink.spreading()
            yield sink.feed(sink.partitions)
            for pattern in sink.patterns:
                yield Binding(self.events, sink.exchange, pattern, to_queue=False)

    def takers(self, routing_key: str) -> list[SinkTopology]:
        """Return the sinks that get an event with *routing_key*, as the topic exchange would."""
        return [sink for sink in self.sinks if sink.takes(routing_key)]


def retry_delay_s(attempt: int) -> int:
    """Return the delay before the attempt after *attempt* (1 is the first)."""
    return RETRY_DELAYS_S[min(max(attempt, 1), len(RETRY_DELAYS_S)) - 1]


def _quorum() -> dict[str, str | int]:
    return {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
