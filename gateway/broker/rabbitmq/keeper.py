"""Notices what somebody deletes of our exchanges, queues and bindings, says so, and declares it again.

Whether exchanges and queues stand every AMQP client can see; bindings it can't. For those the management API
is asked; where it can't be, all are bound again at each look: that heals, but nobody notices.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from gateway.backoff import Backoff
from gateway.broker.rabbitmq import declare, management, watched
from gateway.broker.rabbitmq.deleted import Seen, Span, say_back, say_gone
from gateway.broker.rabbitmq.link import Link
from gateway.broker.rabbitmq.publish import Publisher
from gateway.broker.rabbitmq.sharing import Sharing
from gateway.broker.rabbitmq.watched import Key
from gateway.config import Broker as BrokerConfig
from gateway.errors import Unavailable
from gateway.logs import where
from gateway.metrics import Metrics
from gateway.topology import Topology

_log = logging.getLogger(__name__)
LOOK_S = 1.0
_ASK_AGAIN_S = 60.0
Standing = Mapping[str, int | None]
"""Name → events that are ready in it; None: it is missing."""


class Keeper:
    """What stands, as far as this process has seen: one for all links of a broker."""

    def __init__(
        self,
        config: BrokerConfig,
        topology: Topology,
        metrics: Metrics,
        sharing: Sharing | None = None,
    ) -> None:
        self._config = config
        self._topology = topology
        self._sharing = sharing or Sharing(topology)
        self._deleted = metrics.topology_deleted
        self._seen: dict[Key, tuple[Seen, int]] = {}
        """What stands, by kind and name, with when that was noted (Unix ms)."""
        self._gone: dict[Key, tuple[Seen, int]] = {}
        """What was seen before and is missing, with when that was noticed (Unix ms)."""
        self._publishers: list[Publisher] = []
        self._publishes = False
        self._span = Span()
        self._ask_again_s = 0.0
        self._fault = self._bug = ""
        self._sinks = {
            name: sink
            for sink in topology.sinks
            for name in (sink.exchange, sink.spread(sink.partitions), *sink.queues)
        }

    def note_sent(self, received: str) -> None:
        """Remember that events are being sent; the oldest was *received* then (RFC 3339, or empty)."""
        self._span.add(received)

    async def declare(self, link: Link, *, feeds: bool = False, is_stream: bool = False) -> None:
        """Declare or check everything, as ``broker.declare`` says. Raises Unavailable.

        For whoever opens a channel; reports what had been seen before and is gone. *feeds*: in order to
        publish, with *is_stream* what keeps its order.
        """
        self._sharing.is_feeding |= feeds
        if self._config.declare == "off":
            return
        async with self._turn():
            if self._seen:
                await self._look(link)
            if self._config.declare == "check":
                began_ms = _now_ms()
                await declare.check(link, self._topology)
                self._note(dict.fromkeys(watched.keys(self._topology), 0), began_ms)
            else:
                await self._apply(link)
                if is_stream:
                    await self._sharing.spread(link)

    @contextmanager
    def knowing(self, publisher: Publisher) -> Iterator[None]:
        """Take into account what *publisher*, which declared everything first, has under way."""
        self._publishers.append(publisher)
        self._publishes = True
        try:
            yield
        finally:
            self._publishers.remove(publisher)

    async def keep(self, link: Link) -> None:
        """Look every second until cancelled; less often while nobody answers."""
        backoff = Backoff(LOOK_S, max(LOOK_S, self._config.reconnect_max_s), random.random)
        wait_s = LOOK_S
        while True:
            await asyncio.sleep(wait_s)
            if not self._gone:
                self._span.turn(min((time for one in self._publishers if (time := one.oldest)), default=""))
            try:
                async with self._turn():
                    await self._look(link)
                    # Why not by who only consumes: who publishes knows what was under way, and has to see
                    # this. While nobody publishes nothing goes past, and whoever begins declares everything.
                    if self._gone and self._config.declare == "apply" and self._sharing.is_feeding:
                        await self._apply(link)
            except Unavailable as fault:
                self._note_fault(fault)
                wait_s = backoff.next_s()
            else:
                backoff.reset()
                wait_s = LOOK_S

    async def apply(self, link: Link, *, feeds: bool = False) -> None:
        """Declare everything, whatever ``broker.declare`` says. Raises Unavailable."""
        self._sharing.is_feeding |= feeds
        async with self._turn():
            await self._apply(link)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Keep our other processes from declaring, and take in what they found. Raises Unavailable."""
        async with self._sharing.turns.hold() as gone:
            self._note(dict.fromkeys(gone), _now_ms(), is_told=True)
            yield

    async def _apply(self, link: Link) -> None:
        bindings = await self._sharing.prepare(link)
        began_ms = _now_ms()
        async with AsyncExitStack() as held:
            if ("exchange", self._topology.events) in self._gone:
                # Why: what is published once it stands again and before all are bound goes past some.
                for publisher in self._publishers:
                    await held.enter_async_context(publisher.lock)
            await declare.apply(link, self._topology, bindings, self._sharing.unwanted())
        self._note(dict.fromkeys(watched.keys(self._topology), 0), began_ms)
        self._fault = ""

    async def _look(self, link: Link) -> None:
        """See what stands, and report what does not any more, and what does again. Raises Unavailable."""
        try:
            await self._see(link)
        except Unavailable:
            raise
        except Exception as fault:  # noqa: BLE001 - a bug in here must not hold up publishing; it is logged
            if self._bug != where(fault):
                self._bug = where(fault)
                _log.error("Looking after exchanges and queues failed (%s)", self._bug)

    async def _see(self, link: Link) -> None:
        began_ms = _now_ms()
        exchanges = await declare.standing(link, self._topology.exchanges())
        queues = await declare.standing(link, watched.queues(self._topology))
        found = {("exchange", name): ready for name, ready in exchanges.items()}
        found |= {("queue", name): ready for name, ready in queues.items()}
        self._note(found, began_ms)
        self._note(await self._bindings(link, exchanges, queues), began_ms)

    async def _bindings(self, link: Link, exchanges: Standing, queues: Standing) -> dict[Key, int | None]:
        """Return 0 or None (missing) for each binding whose ends stand; nothing where nobody can tell."""
        ours = [
            binding
            for binding in self._topology.bindings()
            if exchanges[binding.source] is not None
            and (queues if binding.to_queue else exchanges)[binding.destination] is not None
        ]
        found = await self._ask(link)
        if self._config.declare == "apply":
            again = [one for one in ours if one.source != self._topology.events or found is None]
            await declare.bind(link, self._sharing.wanted(again), self._sharing.unwanted())
        if found is None:
            return {}
        return {
            watched.key(one): 0 if (one.destination, one.routing_key) in found else None
            for one in ours
            if one.source == self._topology.events
        }

    async def _ask(self, link: Link) -> set[tuple[str, str]] | None:
        if time.monotonic() < self._ask_again_s:
            return None
        try:
            return await management.bindings_from(self._config, link.url, self._topology.events)
        except Unavailable as fault:
            if fault.reason != "missing":  # deleted a moment ago: the next look will see it
                if not self._ask_again_s:
                    _log.info(
                        "Nobody can tell when a binding of %s is deleted (%s);"
                        " all are bound again each second",
                        self._topology.events,
                        fault.detail,
                    )
                self._ask_again_s = time.monotonic() + _ASK_AGAIN_S
            return None

    def _note(self, found: Mapping[Key, int | None], began_ms: int, *, is_told: bool = False) -> None:
        """Take in what a look or a declaration that began at *began_ms* found; None: missing.

        Several may be under way, of workers that reconnect, so what others found since then is newer.
        *is_told*: another process found it.
        """
        now_ms = _now_ms()
        gone, back = [], []
        for (kind, name), ready in found.items():
            key = (kind, name)
            if ready is None:
                if key in self._seen and self._seen[key][1] <= began_ms:
                    gone.append(self._seen.pop(key)[0])
                    self._gone[key] = (gone[-1], now_ms)
                    if not is_told:
                        self._deleted.labels(kind).inc()
                        self._sharing.turns.tell([key])
            elif key not in self._gone or self._gone[key][1] <= began_ms:
                sink = self._sinks.get(name.split(" ")[0])
                self._seen[key] = (Seen(kind, name, sink, began_ms, ready), now_ms)
                if key in self._gone:
                    back.append(self._gone.pop(key)[0])
        if gone:
            say_gone(gone, is_declared=self._config.declare == "apply")
        if back:
            say_back(back, self._span.oldest if self._publishes else None)

    def _note_fault(self, fault: Unavailable) -> None:
        if self._gone and fault.reason != self._fault:
            self._fault = fault.reason
            _log.error("What was deleted can't be declared again (%s: %s)", fault.reason, fault.detail)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
