"""Names and shapes of the broker objects, as data: what stands where, and which event goes to which sink.

Queue arguments are final in RabbitMQ (a redeclare with others is refused), so they are fixed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

Arguments = Mapping[str, str | int]

DELIVERY_LIMIT = 1_000_000
"""Returns after which a quorum queue drops an event: never reached, and never absent (4.x drops after 20)."""
UNROUTED_BYTES = 256 * 1024 * 1024
UNROUTED_TTL_MS = 7 * 24 * 3600 * 1000
RETRY_DELAYS_S = (5, 30, 300, 1800, 7200)
"""The delay before attempt 2, 3, …; the last one for all further attempts."""


@dataclass(frozen=True, slots=True)
class Exchange:
    name: str
    kind: str
    """``topic`` or ``fanout``."""
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
    def of(cls, exchange: str, sinks: Mapping[str, tuple[str, ...]]) -> Topology:
        """Return the topology for the exchange *exchange* and the patterns of each sink by its name.

        All names derive from the exchange: ``x.events`` gives ``x.sink.…`` and ``x.unrouted``.
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
            yield Queue(sink.queue, _quorum())
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
            yield Binding(sink.exchange, sink.queue, "", to_queue=True)
            for pattern in sink.patterns:
                yield Binding(self.events, sink.exchange, pattern, to_queue=False)

    def takers(self, routing_key: str) -> list[SinkTopology]:
        """Return the sinks that get an event with *routing_key*, as the topic exchange would."""
        return [sink for sink in self.sinks if sink.takes(routing_key)]


@lru_cache(maxsize=4096)
def matches(pattern: str, routing_key: str) -> bool:
    """Say whether a topic exchange would route *routing_key* by *pattern* (``*`` one word, ``#`` any number).

    Source: AMQP 0-9-1, section 3.1.3.3, as RabbitMQ implements it.
    """
    return _matches(_words(pattern), _words(routing_key))


def narrowed(patterns: Sequence[str], apps: Sequence[str]) -> tuple[str, ...]:
    """Return patterns that match what *patterns* match of *apps*, and nothing else; no apps: all of them.

    A routing key ends in the app id, which is one word.
    """
    if not apps:
        return tuple(patterns)
    found = (one for pattern in patterns for app in apps for one in _of_app(_words(pattern), app))
    return tuple(dict.fromkeys(".".join(words) for words in found))


def retry_delay_s(attempt: int) -> int:
    """Return the delay before the attempt after *attempt* (1 is the first)."""
    return RETRY_DELAYS_S[min(max(attempt, 1), len(RETRY_DELAYS_S)) - 1]


def _quorum() -> dict[str, str | int]:
    return {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}


def _of_app(words: tuple[str, ...], app: str) -> Iterator[tuple[str, ...]]:
    """Yield the patterns that together match the keys that *words* match and whose last word is *app*."""
    *before, last = words or ("",)
    if last in ("*", app):
        yield (*before, app)
    elif last == "#":
        yield (*words, app)
        # Why: # may stand for no word at all; then the word before it is the last one.
        yield from _of_app(tuple(before), app)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()  # the empty key has no word, "a." has two


def _matches(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    # Why a row of reachable places instead of recursion: many # in one pattern would take exponential time.
    places = {0}
    for part in pattern:
        if part == "#":
            places = set(range(min(places), len(words) + 1)) if places else places
        else:
            places = {at + 1 for at in places if at < len(words) and part in ("*", words[at])}
    return len(words) in places
