"""The stage that publishes again what the journal still holds: read, choose, normalise, publish, confirm.

One batch at a time, so that what is confirmed is always everything up to a position. It reads without the
lock and moves no cursor, so it runs beside a gateway.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from gateway.broker import Broker, Unconfirmed
from gateway.event import Event
from gateway.journal import JournalReader, Stored
from gateway.normalise import malformed, normalise_or_keep
from gateway.patterns import matches
from gateway.redact import Redaction
from gateway.topology import Topology

_BATCH_EVENTS = 100
_BATCHES_PER_S = 10
# Bound: callbacks that are read for one batch, chosen or not, so that the loop and a bar see it go on.
_BATCH_RECORDS = 5000
_BATCH_BYTES = 4 * 1024 * 1024
_OPEN = Redaction()


@dataclass(slots=True)
class Part:
    """What is published together."""

    last: int
    """Everything up to this position is done once the events are confirmed."""
    chosen: list[Stored] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    is_struck_out: bool = False
    """The one callback in it goes out without its body, because the broker refused it."""


@dataclass(slots=True)
class Counts:
    """What was published, or would be."""

    callbacks: int = 0
    events: int = 0
    types: Counter[str] = field(default_factory=Counter)
    sinks: Counter[str] = field(default_factory=Counter)
    unrouted: int = 0
    """Events that no sink of the configuration takes."""


class Replay:
    """One replay of the positions behind *after* up to *to*; all sinks, or *sink* alone."""

    def __init__(
        self,
        reader: JournalReader,
        topology: Topology,
        redactions: Mapping[str, Redaction],
        takes: Callable[[Stored], bool],
        after: int,
        to: int,
        sink: str = "",
    ) -> None:
        """*takes* says which callbacks are meant; of *sink* only events that its patterns match."""
        self._reader = reader
        self._topology = topology
        self._redactions = redactions
        self._takes = takes
        self.after, self.to = after, to
        self._sink = sink
        self._due_s = 0.0
        self.done = after
        """Everything chosen up to this position is confirmed."""
        self.counts = Counts()

    def count(self) -> None:
        """Go through everything and publish nothing."""
        for part in self._parts(_BATCH_EVENTS):
            self._note(part)

    async def look(self) -> None:
        """Do what ``count`` does, part by part, beside callbacks that come in."""
        parts = self._parts(_BATCH_EVENTS)
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            self._note(part)

    async def run(self, broker: Broker, rate_per_s: float) -> None:
        """Publish everything, *rate_per_s* events a second (0: as fast as it goes), each batch confirmed.

        Raises Unavailable when the broker takes it no longer; ``done`` says how far it came.
        """
        size = (
            max(1, min(_BATCH_EVENTS, int(rate_per_s / _BATCHES_PER_S))) if rate_per_s > 0 else _BATCH_EVENTS
        )
        parts = self._parts(size)
        todo: deque[Part] = deque()
        while True:
            try:
                async with broker.publisher(self._sink) as publisher:
                    if self._sink:
                        # Why asked: without its queue the sink's exchange would hand all on to im.unrouted.
                        await broker.depth(self._sink)
                    while todo or await self._read(parts, todo):
                        if events := todo[0].events:
                            await self._pace(len(events), rate_per_s)
                            await (await publisher.send(events))
                        self._note(todo.popleft())
                    return
            except Unconfirmed as fault:
                if fault.reason != "rejected" or todo[0].is_struck_out:
                    raise
                todo.extendleft(reversed(self._smaller(todo.popleft())))

    async def _read(self, parts: Iterator[Part], todo: deque[Part]) -> bool:
        # Why a thread: what is passed over may be gigabytes, and the connection has to be kept alive.
        part = await asyncio.to_thread(next, parts, None)
        if part is not None:
            todo.append(part)
        return part is not None

    async def _pace(self, events: int, rate_per_s: float) -> None:
        """Return when the next *events* are due."""
        now_s = time.monotonic()
        if rate_per_s > 0:
            await asyncio.sleep(self._due_s - now_s)
            self._due_s = max(now_s, self._due_s) + events / rate_per_s

    def _parts(self, size: int) -> Iterator[Part]:
        part, records, read_bytes = Part(self.after), 0, 0
        for stored in self._reader.records(self.after, self.to):
            part.last = stored.position
            if self._takes(stored) and (events := self._events(stored)):
                part.chosen.append(stored)
                part.events += events
            records += 1
            read_bytes += len(stored.callback.body)
            if len(part.events) >= size or records >= _BATCH_RECORDS or read_bytes >= _BATCH_BYTES:
                yield part
                part, records, read_bytes = Part(stored.position), 0, 0
        part.last = self.to
        yield part

    def _smaller(self, part: Part) -> list[Part]:
        """Return *part* callback by callback, or its only one as the forwarder publishes what is refused."""
        if len(part.chosen) == 1:
            [stored] = part.chosen
            callback, redaction = stored.callback, self._redaction(stored)
            position = f"{self._reader.id}.{stored.position}"
            stand_in = malformed(
                callback, position, "refused_by_broker", with_body=False, redaction=redaction
            )
            return [Part(part.last, [stored], self._wanted([stand_in]), is_struck_out=True)]
        singles = [Part(stored.position, [stored], self._events(stored)) for stored in part.chosen]
        singles[-1].last = part.last
        return singles

    def _events(self, stored: Stored) -> list[Event]:
        return self._wanted(events_of(self._reader.id, stored, self._redactions))

    def _wanted(self, events: list[Event]) -> list[Event]:
        if not self._sink:
            return events
        patterns = self._topology.sink(self._sink).patterns
        return [event for event in events if any(matches(one, event.routing_key) for one in patterns)]

    def _redaction(self, stored: Stored) -> Redaction:
        return self._redactions.get(stored.callback.app_id, _OPEN)

    def _note(self, part: Part) -> None:
        self.done = part.last
        self.counts.callbacks += len(part.chosen)
        self.counts.events += len(part.events)
        for event in part.events:
            self.counts.types[event.type] += 1
            takers = (
                [self._sink]
                if self._sink
                else [sink.name for sink in self._topology.takers(event.routing_key)]
            )
            self.counts.sinks.update(takers)
            self.counts.unrouted += not takers


def events_of(journal_id: str, stored: Stored, redactions: Mapping[str, Redaction]) -> list[Event]:
    """Return the events of *stored* as the forwarder makes them."""
    redaction = redactions.get(stored.callback.app_id, _OPEN)
    return normalise_or_keep(stored.callback, f"{journal_id}.{stored.position}", redaction)
