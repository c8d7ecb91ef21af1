"""The stage that brings events from a sink's queue to the sink; it acknowledges after the effect only.

One worker a sink: a sink that is slow or away holds up nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Iterator, Sequence

from gateway.backoff import Backoff
from gateway.broker import Broker, Consumer, Delivery
from gateway.config import SinkBase
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.heavy import Heavy
from gateway.logs import where
from gateway.metrics import Metrics
from gateway.sinks import Failures, Sink

_log = logging.getLogger(__name__)
_OUR_ID = re.compile(r"[0-9a-f]{32}")
_RETRY_MIN_S = 0.2
_RETRY_MAX_S = 15.0
_PART_BYTES = 1_048_576


class Worker:
    """Feeds one sink. Bound: two batches of events in memory, of which 1 MiB, or one event, parsed."""

    def __init__(self, name: str, config: SinkBase, sink: Sink, broker: Broker, metrics: Metrics) -> None:
        self._name = name
        self._config = config
        self._sink = sink
        self._broker = broker
        self._metrics = metrics
        self._heavy = Heavy(name)
        self._sink_backoff = Backoff(_RETRY_MIN_S, _RETRY_MAX_S, random.random)
        self._broker_backoff = Backoff(_RETRY_MIN_S, _RETRY_MAX_S, random.random)
        self._away_since_s: float | None = None
        self._fault = ""
        self._broker_fault = ""
        self._taken_s: float | None = None
        self._held = 0
        self.is_consuming = False
        metrics.sink_unacked.labels(name).set_function(lambda: self._held)
        metrics.sink_oldest.labels(name).set_function(self._held_s)
        metrics.sink_available.labels(name).set(0)

    @property
    def is_working(self) -> bool:
        """Events are taken and the sink takes them, as far as is known."""
        return self.is_consuming and self._away_since_s is None

    async def run(self) -> None:
        """Work until cancelled; closes the sink at the end. What was not acknowledged comes again."""
        try:
            while True:
                try:
                    await self._open_sink()
                    async with self._broker.consumer(
                        self._name, 2 * self._config.batch_max_events
                    ) as consumer:
                        await self._consume(consumer)
                except Unavailable as fault:
                    await self._note_broker_fault(fault)
                except Exception as fault:  # noqa: BLE001 - a bug must not end the worker; it is logged
                    delay_s = self._broker_backoff.next_s()
                    _log.error(
                        "Sink %s: the worker failed (%s); its events come again in %.1f s",
                        self._name,
                        where(fault),
                        delay_s,
                    )
                    await asyncio.sleep(delay_s)
                finally:
                    self._settled()
                    self.is_consuming = False
        finally:
            await self._sink.close()

    async def _consume(self, consumer: Consumer) -> None:
        """Take and write batches until the sink stays away too long; Unavailable when the broker is gone."""
        self.is_consuming = True
        # Why a call a batch: a variable here would hold the last one in memory while nothing comes.
        while await self._take_and_write(consumer):
            self._settled()
            self._broker_backoff.reset()

    async def _take_and_write(self, consumer: Consumer) -> bool:
        """Bring one batch to the sink; False when the sink stayed away and its events have to go back."""
        wait_s = self._config.batch_max_wait_ms / 1000
        deliveries = await consumer.take(self._config.batch_max_events, wait_s)
        self._taken_s, self._held = time.monotonic(), len(deliveries)
        if self._broker_fault:
            _log.info("Sink %s: events come again", self._name)
            self._broker_fault = ""
        for part in _parts(deliveries):
            if not await self._work_off(consumer, part):
                return False
        return True

    async def _work_off(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> bool:
        """Write, acknowledge, park; False when the sink stayed away and the events have to go back."""
        good: list[tuple[Delivery, Event]] = []
        # Why away from the loop: in one process with a receiver, large events would hold up its answers.
        read_bytes = sum(len(delivery.body) for delivery in deliveries)
        parsed = await self._heavy.run(read_bytes, _parse, deliveries)
        for delivery, event in zip(deliveries, parsed, strict=True):
            if isinstance(event, ValueError):
                await self._park(consumer, delivery, Poison("not_an_event", str(event)))
            else:
                good.append((delivery, event))
        failures = await self._write([event for _, event in good]) if good else {}
        if failures is None:
            return False
        done = [delivery for at, (delivery, _) in enumerate(good) if at not in failures]
        await consumer.ack(done)
        self._metrics.sink_written.labels(self._name).inc(len(done))
        for at, failure in failures.items():
            if isinstance(failure, Poison):
                await self._park(consumer, good[at][0], failure)
            else:
                await consumer.retry(good[at][0], failure.reason)
                self._metrics.sink_retried.labels(self._name, failure.reason).inc()
        return True

    async def _write(self, events: Sequence[Event]) -> Failures | None:
        """Write *events*, waiting in place while the sink is away; None after hold_max_s of that."""
        while True:
            started_s = time.monotonic()
            try:
                async with asyncio.timeout(self._config.write_timeout_s):
                    if self._away_since_s is not None:
                        await self._sink.open()
                    failures = await self._sink.write(events)
            except Unavailable as fault:
                delay_s = self._note_away(fault)
            except TimeoutError:
                delay_s = self._note_away(
                    Unavailable("timeout", "the write took longer than write_timeout_s")
                )
            except Exception as fault:  # noqa: BLE001 - nothing may be lost to a bug in a sink
                delay_s = self._note_away(Unavailable("sink_error", where(fault)))
            else:
                self._note_back()
                self._metrics.sink_write_seconds.labels(self._name).observe(time.monotonic() - started_s)
                return failures
            # Why give back: nothing may be held for long, or the broker's acknowledgement timeout strikes.
            if self._away_since_s is not None and self._held_s() > self._config.hold_max_s:
                _log.warning("Sink %s: still away; %d events go back to the queue", self._name, len(events))
                return None
            await asyncio.sleep(delay_s)

    async def _open_sink(self) -> None:
        """Return once the sink answers; nothing is taken from the queue before."""
        while True:
            try:
                async with asyncio.timeout(self._config.write_timeout_s):
                    await self._sink.open()
            except Unavailable as fault:
                delay_s = self._note_away(fault)
            except TimeoutError:
                delay_s = self._note_away(Unavailable("timeout", "opening took longer than write_timeout_s"))
            else:
                self._note_back()
                return
            await asyncio.sleep(delay_s)

    async def _park(self, consumer: Consumer, delivery: Delivery, why: Poison) -> None:
        await consumer.park(delivery, why.reason)
        self._metrics.sink_parked.labels(self._name, why.reason).inc()
        _log.error(
            "Sink %s can't take event %s (%s: %s); it is parked in the dead queue",
            self._name,
            # Why not any other id: a stranger on the broker could write into our log with it.
            delivery.message_id if _OUR_ID.fullmatch(delivery.message_id) else "of unknown origin",
            why.reason,
            why.detail,
        )

    def _note_away(self, fault: Unavailable) -> float:
        delay_s = self._sink_backoff.next_s()
        if self._away_since_s is None:
            self._away_since_s = time.monotonic()
        self._metrics.sink_available.labels(self._name).set(0)
        if fault.reason != self._fault:
            self._fault = fault.reason
            _log.warning(
                "Sink %s takes nothing (%s: %s); its events wait; next try in %.1f s",
                self._name,
                fault.reason,
                fault.detail,
                delay_s,
            )
        return delay_s

    def _note_back(self) -> None:
        if self._away_since_s is not None and self._fault:
            away_s = time.monotonic() - self._away_since_s
            _log.info("Sink %s takes events again after %.1f s", self._name, away_s)
        self._away_since_s, self._fault = None, ""
        self._sink_backoff.reset()
        self._metrics.sink_available.labels(self._name).set(1)

    async def _note_broker_fault(self, fault: Unavailable) -> None:
        delay_s = self._broker_backoff.next_s()
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

    def _settled(self) -> None:
        self._taken_s, self._held = None, 0

    def _held_s(self) -> float:
        return time.monotonic() - self._taken_s if self._taken_s is not None else 0.0


def _parts(deliveries: Sequence[Delivery]) -> Iterator[Sequence[Delivery]]:
    """Yield *deliveries* in order, so many at a time as may be parsed at once, or one."""
    begin = size = 0
    for at, delivery in enumerate(deliveries):
        if size and size + len(delivery.body) > _PART_BYTES:
            yield deliveries[begin:at]
            begin, size = at, 0
        size += len(delivery.body)
    yield deliveries[begin:]


def _parse(deliveries: Sequence[Delivery]) -> list[Event | ValueError]:
    parsed: list[Event | ValueError] = []
    for delivery in deliveries:
        try:
            parsed.append(Event.parse(delivery.body))
        except ValueError as error:
            parsed.append(error)
    return parsed
