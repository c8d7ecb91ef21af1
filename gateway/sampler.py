"""Keeps the gauges fresh that need asking: depths of queues, the journal's backlog; tells of a long one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence

from gateway.broker import Broker
from gateway.errors import Unavailable
from gateway.journal import Journal
from gateway.logs import where
from gateway.metrics import Metrics
from gateway.waiting import Waiting, Watch

_log = logging.getLogger(__name__)
_DEPTHS_S = 5.0
_JOURNAL_S = 1.0


class Sampler:
    """Asks the broker about *sinks*, and the journal where there is one, until cancelled."""

    def __init__(
        self,
        broker: Broker,
        sinks: Sequence[str],
        metrics: Metrics,
        journal: Journal | None = None,
        watch: Watch | None = None,
        fault: Callable[[], str] = str,
    ) -> None:
        """*watch* belongs to *journal*; *fault* says why the broker takes nothing, "" while it does."""
        self._broker = broker
        self._sinks = sinks
        self._journal = journal
        self._watch = watch
        self._fault = fault
        self._metrics = metrics

    async def run(self) -> None:
        """Sample until cancelled; a broker that does not answer holds up only its own gauges."""
        await asyncio.gather(self._watch_depths(), self._watch_journal())

    async def _watch_depths(self) -> None:
        while True:
            for name in self._sinks:
                await self._try(self._sample_depth(name))
            await self._try(self._sample_unrouted())
            await asyncio.sleep(_DEPTHS_S)

    async def _try(self, sampling: Coroutine[object, object, None]) -> None:
        """Await *sampling*; a queue that is missing or silent holds up only its own gauges."""
        try:
            await sampling
        except Unavailable as fault:
            _log.debug("Depths can't be asked: %s", fault)
        except Exception as fault:  # noqa: BLE001 - a gauge that is stale must not end the process
            _log.error("Depths can't be asked (%s)", where(fault))

    async def _sample_depth(self, name: str) -> None:
        depth = await self._broker.depth(name)
        self._metrics.sink_waiting.labels(name).set(depth.ready)
        self._metrics.sink_dead.labels(name).set(depth.dead)
        self._metrics.sink_retrying.labels(name).set(depth.retry)

    async def _sample_unrouted(self) -> None:
        self._metrics.unrouted_events.set(await self._broker.unrouted())

    async def _watch_journal(self) -> None:
        while self._journal is not None:
            oldest_ms = self._journal.oldest_waiting_ms
            age_s = 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)
            self._metrics.journal_oldest.set(age_s)
            if self._watch is not None:
                self._look(self._watch, self._journal, age_s)
            await asyncio.sleep(_JOURNAL_S)

    def _look(self, watch: Watch, journal: Journal, age_s: float) -> None:
        waiting = Waiting(
            now_s=time.monotonic(),
            records=journal.waiting,
            bytes=journal.waiting_bytes,
            capacity_bytes=journal.capacity_bytes,
            oldest_s=age_s,
            fault=self._fault(),
        )
        for level, sentence in watch.look(waiting):
            _log.log(level, "%s", sentence)
