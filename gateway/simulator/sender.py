"""Sends callbacks as Tencent does: kept connections, two seconds to answer; by a schedule, or flat out.

With a rate the schedule is fixed beforehand and does not wait for answers; what a busy receiver delays counts
in its latency, because that begins when the callback was due.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

from gateway.simulator.http1 import Answer, Connection, Target
from gateway.simulator.ledger import CONNECTION, OK, TIMEOUT, Entry, Expected, LedgerFile, expected_events
from gateway.simulator.query import signed
from gateway.simulator.tally import Tally

_TOKEN = re.compile(r"[a-z][a-z0-9_]{0,39}")
_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One callback to send."""

    number: int
    """From 1."""
    command: str
    query: str
    """Without ``Sign``."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """How to send."""

    target: Target
    app_id: str
    token: str = field(repr=False)
    """Signs each attempt; "" leaves them unsigned."""
    connections: int = 16
    timeout_s: float = 2.0
    retries: int = 0
    """Further attempts after a timeout; other failures are not repeated."""
    rate_per_s: float | None = None
    count: int | None = None
    """Callbacks at most; None: until ``duration_s``."""
    duration_s: float | None = None

    def due_s(self, number: int) -> float:
        """Return when callback *number* is due, in seconds after the start; 0 without a rate."""
        return 0.0 if self.rate_per_s is None else (number - 1) / self.rate_per_s

    @property
    def total(self) -> int | None:
        """How many callbacks the plan asks for; None when only the time ends it."""
        if self.rate_per_s is None or self.duration_s is None:
            return self.count
        due = max(1, round(self.rate_per_s * self.duration_s))
        return due if self.count is None else min(due, self.count)

    @property
    def last_start_s(self) -> float:
        """After this many seconds nothing more is sent; what the schedule delayed gets one timeout longer."""
        if self.duration_s is None:
            return float("inf")
        return self.duration_s if self.rate_per_s is None else self.duration_s + self.timeout_s


class Sender:
    """One run of a plan over *callbacks*; ``tally`` may be read while it runs."""

    def __init__(
        self, plan: Plan, callbacks: Iterator[Outgoing], tally: Tally, ledger: LedgerFile | None = None
    ) -> None:
        self._plan = plan
        self._callbacks = callbacks
        self._tally = tally
        self._ledger = ledger
        self._tls = ssl.create_default_context() if plan.target.is_tls else None
        self._started_s = 0.0

    async def run(self) -> None:
        """Send until the plan is done. Raises OSError when the ledger can't be written."""
        self._started_s = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._plan.connections, self._plan.total or self._plan.connections)):
                    group.create_task(self._send_in_turn())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        finally:
            self._tally.elapsed_s = self._now_s()
        if self._plan.rate_per_s is not None:
            self._tally.behind = (self._plan.total or 0) - self._tally.sent

    async def _send_in_turn(self) -> None:
        """Take callback after callback, the next one once the last is over."""
        lane = _Lane(self._plan, self._tls)
        try:
            while (outgoing := self._next()) is not None:
                due_s = self._plan.due_s(outgoing.number)
                if due_s > self._now_s():
                    await asyncio.sleep(due_s - self._now_s())
                await self._send(lane, outgoing, due_s)
        finally:
            lane.close()

    def _next(self) -> Outgoing | None:
        plan = self._plan
        if plan.total is not None and self._tally.sent >= plan.total:
            return None
        if self._now_s() >= plan.last_start_s:
            return None
        outgoing = next(self._callbacks, None)
        # Why counted here: between taking the number and counting it no other connection may come.
        self._tally.sent += outgoing is not None
        return outgoing

    async def _send(self, lane: _Lane, outgoing: Outgoing, due_s: float) -> None:
        plan = self._plan
        expected: tuple[Expected, ...] = ()
        if self._ledger is not None:
            expected = expected_events(plan.app_id, outgoing.query, outgoing.body, is_signed=bool(plan.token))
            self._ledger.intend(outgoing.number, outgoing.command, expected)
        start_s = self._now_s()
        entry = Entry(outgoing.number, outgoing.command, expected, sent_ms=time.time_ns() // 1_000_000)
        while True:
            entry.attempts += 1
            entry.answer, entry.code = await lane.attempt(outgoing)
            if entry.answer != TIMEOUT or entry.attempts > plan.retries:
                break
        is_scheduled = plan.rate_per_s is not None
        entry.took_ms = (self._now_s() - (due_s if is_scheduled else start_s)) * 1000
        if self._ledger is not None:
            self._ledger.answered(entry)
        self._tally.add(entry, (start_s - due_s) * 1000 if is_scheduled else None)
        if entry.answer == CONNECTION and not is_scheduled:
            # Why: "as fast as possible" at a port that nobody listens on would only heat the machine.
            await asyncio.sleep(_PAUSE_S)

    def _now_s(self) -> float:
        return time.perf_counter() - self._started_s


class _Lane:
    """One kept connection, opened again when it was lost."""

    def __init__(self, plan: Plan, tls: ssl.SSLContext | None) -> None:
        self._plan = plan
        self._tls = tls
        self._connection: Connection | None = None

    async def attempt(self, outgoing: Outgoing) -> tuple[str, int]:
        """Send once; return ``Entry.answer`` and ``Entry.code``. Connecting counts in the timeout."""
        plan = self._plan
        try:
            async with asyncio.timeout(plan.timeout_s):
                if self._connection is None or not self._connection.is_open:
                    self._connection = await Connection.open(plan.target, self._tls)
                query = signed(outgoing.query, plan.token, int(time.time()))
                answer = await self._connection.exchange(plan.target.request(query, outgoing.body))
        except TimeoutError:
            return TIMEOUT, 0
        except (OSError, ValueError):  # Why ValueError: what answers there does not speak HTTP
            return CONNECTION, 0
        return read_answer(answer)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.abort()


def read_answer(answer: Answer) -> tuple[str, int]:
    """Return what *answer* says: ``ok`` and its code, or the token of a refusal.

    ``ok`` is 200 with a JSON object that has an ``ErrorCode``; any code, since a receiver may deny a
    before-callback that it has taken. A refusal without a token of its own is ``http_<status>``.
    """
    try:
        said = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        said = None
    code = said.get("ErrorCode") if isinstance(said, dict) else None
    code = code if isinstance(code, int) and not isinstance(code, bool) else None
    if answer.status == 200:
        return (OK, code) if code is not None else ("unreadable_answer", 0)
    token = said.get("ErrorInfo") if isinstance(said, dict) else None
    # Why matched: it comes from outside, and is printed and written.
    known = isinstance(token, str) and _TOKEN.fullmatch(token) and token not in (OK, TIMEOUT, CONNECTION)
    return (str(token) if known else f"http_{answer.status}"), code or 0
