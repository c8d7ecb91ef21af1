"""Reads a sink until a ledger is fulfilled or the time is up, then its queues. Writes nothing anywhere."""

from __future__ import annotations

import asyncio
import time

from gateway.broker import Broker
from gateway.config import SinkBase
from gateway.errors import Unavailable
from gateway.patterns import narrowed
from gateway.simulator.arrivals import arrival_of, arrivals_of
from gateway.simulator.ledger import Ledger
from gateway.simulator.verify import Comparison

_PAUSE_MIN_S, _PAUSE_MAX_S = 0.1, 2.0
_PEEK_MAX = 200_000  # Bound: events of a queue that are looked at, and held in memory meanwhile


async def prove(ledger: Ledger, sink: SinkBase, wait_s: float) -> Comparison:
    """Return the comparison of *ledger* with *sink*, complete or as it stands after *wait_s* seconds.

    Raises Unavailable when the sink can't be read even then.
    """
    comparison = Comparison(ledger, narrowed(sink.events, sink.apps))
    reader = arrivals_of(sink)
    ends_s = time.monotonic() + wait_s
    pause_s = _PAUSE_MIN_S
    while True:
        try:
            comparison.add(await reader.new())
        except Unavailable:
            if time.monotonic() >= ends_s:
                raise
        left_s = ends_s - time.monotonic()
        if comparison.is_complete or left_s <= 0:
            return comparison
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, _PAUSE_MAX_S)


async def look_into_queues(comparison: Comparison, broker: Broker, sink: str) -> None:
    """Add what stands in the queue and the dead queue of *sink*. Raises Unavailable.

    Events that wait for a delayed retry can't be looked at; ``gateway_sink_retrying_events`` counts them.
    """
    depth = await broker.depth(sink)
    waiting = depth.ready + (depth.unacked or 0)
    for is_parked, count in ((False, waiting), (True, depth.dead)):
        if count:
            found = await broker.peek(sink, min(count, _PEEK_MAX), dead=is_parked)
            arrivals = (arrival_of(delivery.body) for delivery in found)
            comparison.add_queued((one for one in arrivals if one is not None), is_parked=is_parked)
