"""A lane's way to its sink: opens it, writes to it, and waits in place while it is away."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from gateway.backoff import Backoff
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.logs import where
from gateway.sinks import Failures, Sink
from gateway.worker.shift import Bench, GiveBack, Shift

_RETRY_MIN_S = 0.2
_RETRY_MAX_S = 15.0
MOST_HELD_S = 1200.0
"""Then events go back, whatever the cause: RabbitMQ's acknowledgement timeout is 1800 s."""


class SinkBug(Exception):
    """The sink has raised what it may not raise, twice for the same events."""


class Access:
    """One instance of the sink, for one lane."""

    def __init__(self, number: int, sink: Sink, bench: Bench) -> None:
        """Take the *number* of the lane."""
        self._number = number
        self._sink = sink
        self._bench = bench
        self._backoff = Backoff(_RETRY_MIN_S, _RETRY_MAX_S, random.random)
        self._must_open = True
        self._failing_since_s: float | None = None
        self.held_since_s = 0.0
        """When (monotonic) the oldest event was taken that the lane holds."""

    async def open(self) -> None:
        """Return once the sink answers, or at once when it has stopped. Nothing is held meanwhile."""
        standing = self._bench.standing
        while not standing.is_stopped:
            wait_s = standing.not_before_s - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            try:
                async with asyncio.timeout(self._bench.config.write_timeout_s):
                    await self._open()
            except Unavailable as fault:
                delay_s = self._note(fault)
            except TimeoutError:
                delay_s = self._note(Unavailable("timeout", "opening took longer than write_timeout_s"))
            else:
                self.reset()
                standing.answered(self._number)
                return
            if not standing.is_stopped:
                await asyncio.sleep(delay_s)

    async def close(self) -> None:
        """Close the sink."""
        await self._sink.close()

    def reset(self) -> None:
        """Begin anew to count how long events are held, because none is."""
        self._failing_since_s = None

    async def write(self, shift: Shift, events: Sequence[Event], *, is_suspect: bool) -> Failures:
        """Write *events*, waiting in place while the sink is away; GiveBack when that takes too long.

        Raises Poison as the sink does, and SinkBug at the second exception that is none of ours, or at the
        first where *is_suspect*.
        """
        bench = self._bench
        while True:
            started_s, is_bug = time.monotonic(), False
            if started_s < bench.standing.not_before_s:
                await self._pause(shift, bench.standing.not_before_s - started_s)
                continue
            try:
                async with asyncio.timeout(bench.config.write_timeout_s):
                    if self._must_open:
                        await self._open()
                    failures = await self._sink.write(events)
                if len(failures) == len(events):
                    _raise_if_away(list(failures.values()))
            except Poison:
                self._failing_since_s = None
                raise
            except TimeoutError:
                fault = Unavailable("timeout", "the write took longer than write_timeout_s")
            except Unavailable as error:
                # Why a copy: the error holds its traceback, and that the events.
                fault = Unavailable(error.reason, error.detail, error.wait_s)
                is_bug = error.reason == "sink_error" and self._is_bug(error.__cause__)
            except Exception as error:  # noqa: BLE001 - nothing may be lost to a bug in a sink
                fault, is_bug = Unavailable("sink_error", where(error)), self._is_bug(error)
            else:
                self._failing_since_s = None
                self._backoff.reset()
                bench.standing.wrote(self._number)
                bench.metrics.sink_write_seconds.labels(bench.name).observe(time.monotonic() - started_s)
                return failures
            # Why twice: after the first the sink is opened anew, in case it was no fault of an event.
            if is_bug:
                if is_suspect:
                    self._must_open = True
                    raise SinkBug(fault.detail)
                is_suspect = True
            await self.wait(shift, fault)

    async def _open(self) -> None:
        try:
            await self._sink.open()
        except (Unavailable, TimeoutError):
            raise
        except Exception as error:
            raise Unavailable("sink_error", where(error)) from error
        self._must_open = False

    async def wait(self, shift: Shift, fault: Unavailable) -> None:
        """Note that the sink is away, and wait until it is to be tried again; GiveBack when that is long."""
        await self._pause(shift, self._note(fault))

    def _is_bug(self, error: BaseException | None) -> bool:
        """Say whether one of the events may be the cause of *error*, which none of our own sinks raises."""
        # Why no OSError: it speaks of a connection or a file. Nor what opening has raised.
        return not isinstance(error, OSError) and not self._must_open

    def _note(self, fault: Unavailable) -> float:
        """Note that the sink is away; return the delay before the next try."""
        self._must_open = True
        if self._failing_since_s is None:
            self._failing_since_s = time.monotonic()
        delay_s = max(self._backoff.next_s(), fault.wait_s)
        self._bench.standing.failed(self._number, fault, delay_s)
        return delay_s

    async def _pause(self, shift: Shift, delay_s: float) -> None:
        """Wait in place; GiveBack rather than hold events for more than hold_max_s, or MOST_HELD_S in all."""
        then_s = time.monotonic() + delay_s
        away_s = then_s - self._failing_since_s if self._failing_since_s is not None else delay_s
        if self._bench.standing.is_stopped or away_s > self._bench.config.hold_max_s:
            raise GiveBack("away")
        if then_s - self.held_since_s > MOST_HELD_S:
            raise GiveBack("held")
        await shift.pause(delay_s)


def _raise_if_away(failures: Sequence[Poison | Unavailable]) -> None:
    """Raise the first of *failures* when all name a time: that is said of the sink, and it took nothing."""
    if all(isinstance(why, Unavailable) and why.wait_s for why in failures):
        raise failures[0]
