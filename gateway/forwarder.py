"""The stage that brings callbacks from the journal to the broker, in order, and moves the cursor.

One loop for everything: normal running, a broker outage and the start after a crash all read what stands
after the cursor, publish it, and confirm it in order.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gateway.backoff import Backoff
from gateway.broker import Publisher, Publishing, Unconfirmed
from gateway.caution import Caution
from gateway.config import Broker as BrokerConfig
from gateway.errors import FatalError, Unavailable
from gateway.event import Event
from gateway.heavy import Heavy
from gateway.journal import Journal, Stored
from gateway.logs import where
from gateway.metrics import Metrics
from gateway.normalise import malformed, normalise_or_keep
from gateway.outage import Outage
from gateway.precedence import Precedence
from gateway.recent import Recent
from gateway.redact import Redaction

_log = logging.getLogger(__name__)
_BATCH_BYTES = 4 * 1_048_576
_HELD_S = 1.0
_OPEN = Redaction()


@dataclass(frozen=True, slots=True)
class _Sent:
    """One batch under way."""

    last: int
    """Position of its last callback."""
    events: int
    size: int
    """Bytes of their bodies."""
    future: asyncio.Future[None]
    sent_s: float


class Forwarder:
    """Publishes the journal. Bound: max_unconfirmed events and _mb under way, one batch beyond."""

    def __init__(
        self,
        journal: Journal,
        broker: Publishing,
        config: BrokerConfig,
        metrics: Metrics,
        redactions: Mapping[str, Redaction] | None = None,
        recent: Recent | None = None,
    ) -> None:
        self._journal = journal
        self._broker = broker
        self._config = config
        self._metrics = metrics
        self._redactions = redactions or {}
        self._recent = recent or Recent()
        self._backoff = Backoff(config.reconnect_min_s, config.reconnect_max_s, random.random)
        self._window: deque[_Sent] = deque()
        self._unconfirmed = self._unconfirmed_bytes = 0
        self._sending_since_s: float | None = None
        self._finish = asyncio.Event()
        self._outage = Outage()
        self._caution = Caution()
        self._precedence = Precedence()
        self._heavy = Heavy("forwarder")
        metrics.publish_unconfirmed.set_function(lambda: self._unconfirmed)

    async def run(self) -> None:
        """Forward until ``finish`` was called and everything is sent, or until cancelled."""
        while not self._finish.is_set():
            try:
                async with self._broker.publisher() as publisher:
                    await self._pump(publisher)
            except Unavailable as fault:
                delay_s = self._backoff.next_s()
                self._note_fault(fault, delay_s)
                await self._pause(delay_s)
            except FatalError:
                raise
            except Exception as fault:  # noqa: BLE001 - a bug of ours must not end forwarding; it is logged
                delay_s = self._backoff.next_s()
                _log.error("Forwarding failed (%s); next try in %.1f s", where(fault), delay_s)
                await self._pause(delay_s)
            finally:
                self._window.clear()
                self._unconfirmed = self._unconfirmed_bytes = 0

    def finish(self) -> None:
        """Let ``run`` end once everything stored is confirmed, or at once when the broker is away."""
        self._finish.set()

    @property
    def fault(self) -> str:
        """Why the broker takes nothing; "" while it does. ``held_up``: by an alarm, say."""
        since_s = self._sending_since_s
        is_held_up = since_s is not None and time.monotonic() - since_s >= _HELD_S
        return self._outage.reason or ("held_up" if is_held_up else "")

    async def _pump(self, publisher: Publisher) -> None:
        """Publish what stands after the cursor until something fails or the end is wanted."""
        self._outage.trying(self._journal.waiting)
        sent = self._journal.cursor
        while True:
            while self._has_room():
                size = self._caution.batch_size(sent, self._config.publish_batch_events)
                stored = self._journal.read(sent, size, _BATCH_BYTES)
                if not stored:
                    break
                began_s = time.monotonic()
                await self._send_or_settle(publisher, stored, sent)
                sent = stored[-1].position
                await self._precedence.give_way(time.monotonic() - began_s)
            if self._window:
                await self._settle_oldest(sent)
            elif self._finish.is_set():
                return
            else:
                self._outage.end()
                await self._wait_for_more(sent)

    async def _wait_for_more(self, sent: int) -> None:
        """Return when something was stored; wakes up by itself, so that the end is noticed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0.25):
                await self._journal.wait_for(sent)

    async def _pause(self, delay_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._finish.wait()

    def _has_room(self) -> bool:
        if self._caution.until:
            return not self._window
        most_bytes = self._config.max_unconfirmed_mb * 1_048_576
        return self._unconfirmed < self._config.max_unconfirmed and self._unconfirmed_bytes < most_bytes

    async def _send_or_settle(self, publisher: Publisher, stored: Sequence[Stored], sent: int) -> None:
        """Send *stored*; when that fails, what is under way is settled first: it may tell why."""
        try:
            await self._send(publisher, stored)
        except Unavailable as fault:
            # Why: a channel that the broker closes for the content of one batch fails the next send first.
            while self._window:
                await self._settle_oldest(sent)
            # Why: a queue that is asked alone first may refuse too, or the broker the content.
            if isinstance(fault, Unconfirmed):
                self._be_careful(fault, stored[-1].position)
            raise

    async def _send(self, publisher: Publisher, stored: Sequence[Stored]) -> None:
        # Why away from the loop: a few large bodies would hold up every answer longer than the sender waits.
        read_bytes = sum(len(record.callback.body) for record in stored)
        events = await self._heavy.run(read_bytes, self._all_events, stored)
        size = sum(len(event.body) for event in events)
        self._sending_since_s = time.monotonic()
        try:
            future = await publisher.send(events)
        finally:
            self._sending_since_s = None
        self._recent.note([event.body for event in events])
        self._window.append(_Sent(stored[-1].position, len(events), size, future, time.monotonic()))
        self._unconfirmed += len(events)
        self._unconfirmed_bytes += size

    def _all_events(self, stored: Sequence[Stored]) -> list[Event]:
        return [event.without_data() for record in stored for event in self._events(record)]

    def _events(self, stored: Stored) -> list[Event]:
        callback, position = stored.callback, f"{self._journal.id}.{stored.position}"
        redaction = self._redactions.get(callback.app_id, _OPEN)
        if self._caution.has_struck_out(stored.position):
            return [malformed(callback, position, "refused_by_broker", with_body=False, redaction=redaction)]
        return normalise_or_keep(
            callback, position, redaction, lambda error: _log.error(
                "Callback %s can't be normalised (%s); it goes out as im.malformed with its body",
                position, where(error),
            ),
        )  # fmt: skip

    async def _settle_oldest(self, sent: int) -> None:
        batch = self._window[0]
        try:
            await batch.future
        except Unconfirmed as fault:
            self._be_careful(await self._worst_answer(fault), sent)
            raise
        self._window.popleft()
        self._unconfirmed -= batch.events
        self._unconfirmed_bytes -= batch.size
        self._journal.confirm(batch.last)
        self._metrics.events_published.inc(batch.events)
        self._metrics.publish_seconds.observe(time.monotonic() - batch.sent_s)
        self._backoff.reset()
        self._outage.end()

    async def _worst_answer(self, fault: Unconfirmed) -> Unconfirmed:
        """Wait for all answers; return a refusal among them, unless *fault* is about the content.

        Why wait: nothing is resent that is still being taken or refused.
        """
        window = list(self._window)
        answers = await asyncio.gather(*(batch.future for batch in window), return_exceptions=True)
        for at, answer in enumerate(answers):
            if isinstance(answer, Unconfirmed) and answer.reason in ("nacked", "returned"):
                # Why not only those confirmed: nobody is told what one queue took before another refused it.
                if sum(batch.events for batch in window[at:]) > 1:
                    self._metrics.publish_order_breaks.inc()
                return fault if fault.reason == "rejected" else answer
        return fault

    def _be_careful(self, fault: Unconfirmed, sent: int) -> None:
        first = self._journal.cursor + 1
        if self._caution.note(fault.reason, first, sent, self._config.publish_batch_events):
            _log.error(
                "The broker closes the channel whenever position %d is published (%s); it goes out as"
                " im.malformed without its body and stays in the journal",
                first,
                fault.detail,
            )

    def _note_fault(self, fault: Unavailable, delay_s: float) -> None:
        self._metrics.publish_failures.labels(fault.reason).inc()
        journal = self._journal
        self._outage.note(fault, journal.waiting, lambda: journal.oldest_waiting_ms, delay_s)
