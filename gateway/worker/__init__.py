"""The stage that brings events from a sink's queue to the sink; it acknowledges after the effect only.

One worker a sink: a sink that is slow or away holds up nobody else. The way of an event: ``Worker`` takes it,
its ``lane`` writes it, ``fate`` says what becomes of it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import zlib
from collections.abc import Callable, Sequence

from gateway.backoff import Backoff
from gateway.broker import Broker, Delivery
from gateway.config import SinkBase
from gateway.errors import Unavailable
from gateway.heavy import Heavy
from gateway.logs import where
from gateway.metrics import Metrics
from gateway.sinks import Sink
from gateway.worker.access import Access
from gateway.worker.fate import Fate
from gateway.worker.lane import Lane
from gateway.worker.limit import ParkingLimit
from gateway.worker.shift import Bench, GiveBack, Shift
from gateway.worker.standing import Standing

_log = logging.getLogger(__name__)
_RETRY_MIN_S = 0.2
_RETRY_MAX_S = 15.0
_TRIAL_MIN_S = 5.0
_TRIAL_MAX_S = 300.0
_FINISH_S = 3.0
"""How long a write under way may go on after a stop."""
_MOST_PREFETCH = 65_535  # Source: AMQP has two bytes for it


class Worker:
    """Feeds one sink. Bound: a batch for each lane and one more in memory, see Lane."""

    def __init__(
        self,
        name: str,
        config: SinkBase,
        sinks: Sequence[Sink],
        broker: Broker,
        metrics: Metrics,
        takes: Callable[[str], bool] | None = None,
    ) -> None:
        """Take a sink for each lane; *takes* says by the routing key what is for them (None: all)."""
        self._name = name
        self._config = config
        self._broker = broker
        self._standing = Standing(name, metrics)
        self._limit = ParkingLimit(config.park_limit_consecutive, config.park_limit_ratio)
        bench = Bench(name, config, metrics, self._standing, self._limit, Heavy(name), takes)
        self._fate = Fate(bench)
        self._access = [Access(number, sink, bench) for number, sink in enumerate(sinks)]
        self._lanes = [Lane(access, bench, self._fate) for access in self._access]
        self._prefetch = min((len(sinks) + 1) * config.batch_max_events, _MOST_PREFETCH)
        self._backoff = Backoff(_RETRY_MIN_S, _RETRY_MAX_S, random.random)
        self._trial_backoff = Backoff(_TRIAL_MIN_S, _TRIAL_MAX_S, random.random)
        self._broker_fault = ""
        self.is_consuming = False
        metrics.sink_unacked.labels(name).set_function(lambda: self._held)
        metrics.sink_oldest.labels(name).set_function(self._oldest_s)
        metrics.sink_blocked.labels(name).set_function(self._blocked)

    @property
    def trouble(self) -> str:
        """What keeps events from the sink, as far as is known; empty while all is well."""
        if self._standing.trouble or self.is_consuming:
            return self._standing.trouble
        return f"gets no events ({self._broker_fault or 'not yet'})"

    async def run(self) -> None:
        """Work until cancelled; closes the sink at the end. What was not acknowledged comes again."""
        try:
            while True:
                try:
                    await self._work()
                except Unavailable as fault:
                    await self._note_broker_fault(fault)
                except Exception as fault:  # noqa: BLE001 - a bug must not end the worker; it is logged
                    delay_s = self._backoff.next_s()
                    _log.error(
                        "Sink %s: the worker failed (%s); its events come again in %.1f s",
                        self._name,
                        where(fault),
                        delay_s,
                    )
                    await asyncio.sleep(delay_s)
        finally:
            await asyncio.gather(*(access.close() for access in self._access), return_exceptions=True)

    async def _work(self) -> None:
        """Open the sink, consume, and return when what is held has to go back, or had to."""
        for access in self._access:
            await access.open()
        if self._standing.is_stopped:
            await asyncio.Event().wait()
        if self._limit.is_reached:
            await asyncio.sleep(self._trial_backoff.next_s())
        prefetch = 1 if self._limit.is_reached else self._prefetch
        try:
            async with self._broker.consumer(self._name, prefetch) as consumer:
                shift = Shift(consumer)
                if self._limit.is_reached:
                    await self._try_one(shift)
                else:
                    await self._consume(shift)
                self._tell(shift.why)
        finally:
            for lane in self._lanes:
                lane.reset()
            self.is_consuming = False

    async def _consume(self, shift: Shift) -> None:
        """Bring events to the sink until they have to go back. Raises Unavailable when the broker is gone."""
        self.is_consuming = True
        try:
            async with asyncio.TaskGroup() as group:
                dealing = group.create_task(self._deal(shift))
                working = [group.create_task(lane.work(shift)) for lane in self._lanes]
                try:
                    await shift.ended.wait()
                finally:
                    shift.end()
                    dealing.cancel()
                    for lane in self._lanes:
                        lane.wake()
                    # Why: what is cut off in the middle comes again, and leaves a second trace in some sinks.
                    await asyncio.wait(working, timeout=_FINISH_S)
        except ExceptionGroup as group_fault:
            raise group_fault.exceptions[0] from None

    async def _deal(self, shift: Shift) -> None:
        """Take events and hand them to their lanes for ever."""
        most, wait_s = self._config.batch_max_events, self._config.batch_max_wait_ms / 1000
        while True:
            while not self._may_take():
                shift.changed.clear()
                await shift.changed.wait()
            # Why in one: a variable would hold the last batch in memory while nothing comes.
            self._hand_out(await shift.consumer.take(most, wait_s))

    def _may_take(self) -> bool:
        """Say whether a lane has nothing to do, and not too much is held for ``order: strict``."""
        # Why not ahead: batches grow in the consumer while lanes write, and small ones cost more each.
        return any(lane.is_idle for lane in self._lanes) and self._blocked() <= self._prefetch // 2

    def _hand_out(self, deliveries: list[Delivery]) -> None:
        if self._broker_fault:
            _log.info("Sink %s: events come again", self._name)
            self._broker_fault = ""
        self._backoff.reset()
        if len(self._lanes) == 1:
            return self._lanes[0].add(deliveries)
        shares: list[list[Delivery]] = [[] for _ in self._lanes]
        for delivery in deliveries:
            # Why by the key: what has the same one goes one way, and keeps its order.
            shares[zlib.crc32(delivery.key.encode(errors="replace")) % len(shares)].append(delivery)
        for lane, share in zip(self._lanes, shares, strict=True):
            if share:
                lane.add(share)
        return None

    async def _try_one(self, shift: Shift) -> None:
        """Bring one event to the sink; where it is written, the parking limit begins anew."""
        before = self._fate.count_written
        self._limit.try_one()
        try:
            self._hand_out(await shift.consumer.take(1, 0))
            for lane in self._lanes:
                if lane.held:
                    await lane.step(shift)
        except GiveBack as end:
            shift.end(end.why)
        if self._fate.count_written > before:
            self._limit.reset()
            self._trial_backoff.reset()
            self._standing.unlimited()

    def _tell(self, why: str) -> None:
        if self._limit.is_reached:
            self._standing.limited(self._limit.describe())
        elif why == "held":
            _log.warning(
                "Sink %s is slow; %d events are held too long and go back to the queue",
                self._name,
                self._held,
            )
        elif why:
            _log.warning("Sink %s: still away; %d events go back to the queue", self._name, self._held)

    async def _note_broker_fault(self, fault: Unavailable) -> None:
        delay_s = self._backoff.next_s()
        if fault.reason != self._broker_fault:
            self._broker_fault = fault.reason
            _log.warning(
                "Sink %s gets no events (%s: %s); next try in %.1f s",
                self._name,
                fault.reason,
                fault.detail,
                delay_s,
            )
        await asyncio.sleep(delay_s)

    @property
    def _held(self) -> int:
        return sum(lane.held for lane in self._lanes)

    def _blocked(self) -> int:
        return sum(lane.blocked for lane in self._lanes)

    def _oldest_s(self) -> float:
        oldest = [since_s for lane in self._lanes if (since_s := lane.oldest_s) is not None]
        return time.monotonic() - min(oldest) if oldest else 0.0
