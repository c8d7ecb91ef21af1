"""Which trace a callback belongs to: derived from its place in the journal, so nothing has to carry it. Pure.

Receiver, forwarder and worker come to the same trace by themselves, also after a crash or in a replay.
Source: w3.org/TR/trace-context, 3.2.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from gateway.event import Event

HEADER = "traceparent"
_WHOLE = 1 << 64


class Trace(NamedTuple):
    """A trace, and the span in it that the others belong to: the request's."""

    trace_id: int
    """128 bits."""
    span_id: int
    """64 bits."""
    is_sampled: bool

    def __str__(self) -> str:
        """Return it as ``traceparent``."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-0{int(self.is_sampled)}"


def trace_of(place: str, ratio: float) -> Trace:
    """Return the trace of the callback at *place*, ``<journal id>.<position>``; *ratio* of all are noted."""
    digest = blake2b(place.encode(), digest_size=24, person=b"im-trace").digest()
    trace_id = int.from_bytes(digest[:16], "big")
    span_id = int.from_bytes(digest[16:], "big") or 1
    return Trace(trace_id, span_id, trace_id % _WHOLE < ratio * _WHOLE)


def trace_in(event: Event) -> Trace | None:
    """Return the trace that *event* names, None without one that can be read."""
    text = event.attributes.get(HEADER)
    parts = text.split("-") if isinstance(text, str) else []
    if len(parts) != 4 or list(map(len, parts)) != [2, 32, 16, 2]:
        return None
    try:
        found = Trace(int(parts[1], 16), int(parts[2], 16), bool(int(parts[3], 16) & 1))
    except ValueError:
        return None
    return found if found.trace_id and found.span_id else None


def with_trace(event: Event, ratio: float) -> Event:
    """Return *event* with ``traceparent``, at the end of its body."""
    # Why its place without the item: all events of one callback are one trace.
    trace = trace_of(str(event.attributes["position"]).rpartition(".")[0], ratio)
    body = b'%b,"traceparent":"%b"}' % (event.body.rstrip()[:-1], str(trace).encode())
    return Event(body, {**event.attributes, HEADER: str(trace)})
