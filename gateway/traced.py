"""Parts that note spans beside what they do. Chosen at the start: with tracing off, none of it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from gateway.broker import Publisher, Publishing
from gateway.callback import Accepted, Probe
from gateway.config import Config
from gateway.errors import GatewayError
from gateway.event import Event
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.outcome import Answer
from gateway.receiver import Receiver
from gateway.sinks import Failures, Sink
from gateway.spans import Spans
from gateway.trace import trace_in, trace_of, with_trace


def _unix_ns(*times_s: float) -> list[int]:
    """Return times of ``time.perf_counter`` as Unix time, and now as the last one."""
    now_ns, now_s = time.time_ns(), time.perf_counter()
    return [*(now_ns - int((now_s - one_s) * 1e9) for one_s in times_s), now_ns]


class _Started(float):
    """When the head of a request had come, with when it was decided on."""

    decided_s: float


class TracedReceiver(Receiver):
    """Notes ``receive``, from the head to the answer, and in it ``journal``."""

    def __init__(self, config: Config, journal: Journal, metrics: Metrics, spans: Spans) -> None:
        super().__init__(config, journal, metrics)
        self._spans = spans

    def _decided(self, decision: Accepted | Probe, started_s: float, reply: Callable[[Answer], None]) -> None:
        started = _Started(started_s)
        started.decided_s = time.perf_counter()
        super()._decided(decision, started, reply)

    def _stored(
        self,
        decision: Accepted,
        started_s: float,
        reply: Callable[[Answer], None],
        position: int,
        fault: Exception | None,
    ) -> None:
        if fault is None:
            reply = partial(self._answer, decision, started_s, position, time.perf_counter(), reply)
        super()._stored(decision, started_s, reply, position, fault)

    def _answer(
        self,
        decision: Accepted,
        started_s: float,
        position: int,
        stored_s: float,
        reply: Callable[[Answer], None],
        answer: Answer,
    ) -> None:
        reply(answer)
        trace = trace_of(f"{self._journal.id}.{position}", self._spans.ratio)
        about: dict[str, str | int] = {
            "im.app": decision.callback.app_id,
            "im.position": position,
            "http.response.status_code": answer.status,
        }
        decided_s = started_s.decided_s if isinstance(started_s, _Started) else started_s
        began, decided, stored, now = _unix_ns(started_s, decided_s, stored_s)
        self._spans.note("receive", trace, (began, now), about, "late" if answer.outcome.is_late else "")
        self._spans.note("journal", trace, (decided, stored), {"im.position": position})


class TracedPublishing:
    """Satisfies ``gateway.broker.Publishing``: events get their trace, each leaves a ``publish``."""

    def __init__(self, broker: Publishing, spans: Spans) -> None:
        self._broker = broker
        self._spans = spans

    @asynccontextmanager
    async def publisher(self, sink: str = "") -> AsyncIterator[Publisher]:
        async with self._broker.publisher(sink) as publisher:
            yield _TracedPublisher(publisher, self._spans)


class _TracedPublisher:
    def __init__(self, publisher: Publisher, spans: Spans) -> None:
        self._publisher = publisher
        self._spans = spans

    async def send(self, events: Sequence[Event]) -> asyncio.Future[None]:
        began_s = time.perf_counter()
        traced = [with_trace(event, self._spans.ratio) for event in events]
        confirmed = await self._publisher.send(traced)
        confirmed.add_done_callback(partial(self._settled, traced, began_s))
        return confirmed

    def _settled(self, events: Sequence[Event], began_s: float, confirmed: asyncio.Future[None]) -> None:
        fault = ""
        if confirmed.cancelled():
            fault = "cancelled"
        elif error := confirmed.exception():
            fault = _token(error)
        _note_all(self._spans, "publish", events, began_s, {}, dict.fromkeys(range(len(events)), fault))


class TracedSink:
    """Satisfies ``gateway.sinks.Sink``: each event that *sink* is given leaves a ``write``."""

    def __init__(self, sink: Sink, name: str, spans: Spans) -> None:
        self._sink = sink
        self._name = name
        self._spans = spans

    async def open(self) -> None:
        await self._sink.open()

    async def write(self, events: Sequence[Event]) -> Failures:
        began_s = time.perf_counter()
        about = {"im.sink": self._name}
        try:
            failures = await self._sink.write(events)
        except BaseException as error:
            faults = dict.fromkeys(range(len(events)), _token(error))
            _note_all(self._spans, "write", events, began_s, about, faults)
            raise
        faults = {at: _token(why) for at, why in failures.items()}
        _note_all(self._spans, "write", events, began_s, about, faults)
        return failures

    async def close(self) -> None:
        await self._sink.close()


def _note_all(
    spans: Spans,
    name: str,
    events: Sequence[Event],
    began_s: float,
    about: dict[str, str],
    faults: dict[int, str],
) -> None:
    began, now = _unix_ns(began_s)
    for at, event in enumerate(events):
        if trace := trace_in(event):
            more = {"im.app": event.app_id, "im.event.id": event.id, "im.event.type": event.type}
            spans.note(name, trace, (began, now), {**about, **more}, faults.get(at, ""))


def _token(error: BaseException) -> str:
    # Why no text: it may hold what a stranger sent, or a row of somebody's database.
    return error.reason if isinstance(error, GatewayError) else type(error).__name__
