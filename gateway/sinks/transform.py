"""A sink behind ``transform``: each event's ``data`` becomes what the expression makes of the event.

The envelope stays (id, source, type, time, …), so every kind of sink tells copies apart as before.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from gateway.config import MISFITS, compiled
from gateway.errors import Poison
from gateway.event import Event
from gateway.heavy import Heavy
from gateway.sinks import Failures, Sink

MAX_BYTES = 1_048_576
"""A transformed event may have so many bytes, or as many as it had before."""


class Transformed:
    """Satisfies ``gateway.sinks.Sink``: hands to *sink* what *expression* (JMESPath) makes of the events."""

    def __init__(self, sink: Sink, expression: str, name: str) -> None:
        self._sink = sink
        self._expression = compiled(expression)
        self._heavy = Heavy(f"transform-{name}")

    async def open(self) -> None:
        await self._sink.open()

    async def write(self, events: Sequence[Event]) -> Failures:
        """Write the events that can be transformed; each of the others is Poison("transform")."""
        # Why away from the loop: an expression may take as long as it takes to read the events.
        size_bytes = sum(len(event.body) for event in events)
        shaped = await self._heavy.run(size_bytes, self._shape, events)
        failures = {at: one for at, one in enumerate(shaped) if isinstance(one, Poison)}
        places = [at for at in range(len(events)) if at not in failures]
        if failures and not places:
            return failures
        written = await self._sink.write([one for one in shaped if isinstance(one, Event)])
        return {**failures, **{places[at]: why for at, why in written.items()}}

    async def close(self) -> None:
        await self._sink.close()

    def _shape(self, events: Sequence[Event]) -> list[Event | Poison]:
        return [self._one(event) for event in events]

    def _one(self, event: Event) -> Event | Poison:
        try:
            data = self._expression.search(event.attributes)
            if not isinstance(data, dict):
                return Poison("transform", f"its result is {_kind(data)}, and an event's data is an object")
            attributes = {**event.attributes, "data": data}
            # Why: what stands in data now is described by the operator's expression, not by our schema.
            attributes.pop("dataschema", None)
            body = orjson.dumps(attributes)
        except MISFITS as error:  # orjson's own is a TypeError: an integer above 64 bits, say
            return Poison("transform", f"the expression does not fit this event ({type(error).__name__})")
        if len(body) > max(MAX_BYTES, len(event.body)):
            return Poison("transform", f"its result has {len(body)} bytes; {MAX_BYTES} are allowed")
        return Event(body, attributes)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"
