"""The stage that callbacks come in by: judge, journal, answer. It never publishes.

A 200 for a callback leaves only after the journal's word, as ``listen.ack_after`` says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote

from aiohttp.http import RawRequestMessage

from gateway import answer
from gateway.callback import Accepted, Head, Probe, Rules, decide_body, decide_head
from gateway.catalogue import COMMANDS
from gateway.clock import ClockWatch, is_stale
from gateway.config import Config
from gateway.errors import JournalFull, Refused, Unavailable
from gateway.heavy import HEAVY_BYTES, Heavy
from gateway.journal import Journal
from gateway.limits import AppLimits, limits_of
from gateway.logs import where
from gateway.metrics import Metrics
from gateway.networks import Networks
from gateway.notes import Notes
from gateway.outcome import Answer, Outcome, refusal
from gateway.query import parse_query
from gateway.rules import rules_of
from gateway.tally import Tally

_log = logging.getLogger(__name__)
_PROBE = Answer(200, answer.OK, Outcome("probe"))


class _Ticket(NamedTuple):
    """A request between its head and its body."""

    rules: Rules
    head: Head
    peer: str


class _Slow:
    """Tasks that nobody else holds, for the requests that need one."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Receiver(Tally):
    """Decides on each request of the callback port. Bound: max_inflight callbacks wait for the journal."""

    def __init__(
        self, config: Config, journal: Journal, metrics: Metrics, now_ms: Callable[[], int] | None = None
    ) -> None:
        self.rules = rules_of(config)
        self._clock = ClockWatch(metrics.clock_skew, config.listen.signature_window_s)
        self._journal = journal
        self._is_durable = config.listen.ack_after != "written"
        super().__init__(config.apps, metrics)
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        # Why two: a large body need not wait behind an odd one.
        self._heavy = Heavy("receiver", threads=2)
        self._slow = _Slow()
        self._inflight = 0
        self._notes = Notes()
        metrics.requests_inflight.set_function(lambda: self._inflight)
        self._limits: dict[str, AppLimits] = {}
        self._usual: dict[str, Answer] = {}
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Go by *config* from now on, but for ``rules``; requests may be under way, also of apps it lacks."""
        self._listen = config.listen
        self._networks = Networks.of(config.listen.allow_networks, config.listen.trusted_proxies)
        self._clock.allow(config.listen.signature_window_s)
        self._know(config.apps)
        self._limits = limits_of(config.apps, self._limits, time.monotonic())
        self._usual |= {app_id: Answer(200, answer.OK, Outcome("stored", app_id)) for app_id in config.apps}

    def judge(self, message: RawRequestMessage, remote: str) -> _Ticket | Answer:
        """Return what the head of a request says, or the answer where its body need not be read."""
        try:
            forwarded = message.headers.getall("X-Forwarded-For", ()) if self._networks.trusted else ()
            peer = self._networks.caller(remote, forwarded)
            head = self._judge_head(message)
            if isinstance(head, Probe):
                return _PROBE
            if head.app is not None and head.refusal is None and head.app.app_id in self._limits:
                self._limits[head.app.app_id].check(time.monotonic(), self._journal.cursor)
            # Why digits only: the parser takes no others, and has read the number already.
            if int(message.headers.get("Content-Length", 0)) > self._listen.max_body_bytes:
                raise Refused("body_too_large")
        except Refused as refused:
            return self.refuse(refused)
        return _Ticket(self.rules, head, peer)

    def take(self, ticket: _Ticket, body: bytes, started_s: float, reply: Callable[[Answer], None]) -> None:
        """Judge a whole request and store its callback; *reply* gets the answer once that is durable."""
        if len(body) > HEAVY_BYTES:
            # Why away from the loop: it would hold up all other answers.
            self._slow.start(self._take_slowly(ticket, body, started_s, reply))
            return
        try:
            decision = decide_body(ticket.rules, ticket.head, body, ticket.peer, self._now_ms())
        except Refused as refused:
            reply(self.refuse(refused))
            return
        self._decided(decision, started_s, reply)

    async def _take_slowly(
        self, ticket: _Ticket, body: bytes, started_s: float, reply: Callable[[Answer], None]
    ) -> None:
        try:
            decision = await self._heavy.run(
                len(body), decide_body, ticket.rules, ticket.head, body, ticket.peer, self._now_ms()
            )
            self._decided(decision, started_s, reply)
        except Refused as refused:
            reply(self.refuse(refused))
        except Exception as fault:  # noqa: BLE001 - whoever asked gets an answer whatever happens
            reply(self._failed(fault))

    def _judge_head(self, message: RawRequestMessage) -> Head | Probe:
        """Return what the request's head says, and note how far a matching Sign's clock is from ours."""
        path, query = _target(message)
        has_encoding = "Content-Encoding" in message.headers
        encoding = ", ".join(message.headers.getall("Content-Encoding")) if has_encoding else ""
        now_ms = self._now_ms()
        try:
            head = decide_head(self.rules, message.method, path, query, encoding, now_ms)
        except Refused as refused:
            if is_stale(refused):
                self._clock.signed(parse_query(query), now_ms)
            raise
        if isinstance(head, Head) and (head.verified or is_stale(head.refusal)):
            self._clock.signed(head.params, now_ms)
        return head

    def _decided(self, decision: Accepted | Probe, started_s: float, reply: Callable[[Answer], None]) -> None:
        if isinstance(decision, Probe):
            reply(_PROBE)
            return
        if self._inflight >= self._listen.max_inflight:
            reply(self.refuse(Refused("overloaded")))
            return
        try:
            self._journal.store(
                decision.callback, partial(self._stored, decision, started_s, reply), durable=self._is_durable
            )
        except JournalFull as full:
            reply(self._no_room(decision, full.detail))
            return
        self._inflight += 1

    def _stored(
        self,
        decision: Accepted,
        started_s: float,
        reply: Callable[[Answer], None],
        position: int,
        fault: Exception | None,
    ) -> None:
        """Answer, now that the journal has spoken."""
        if fault is not None:
            self._inflight -= 1
            is_full = isinstance(fault, JournalFull)
            reply(self._no_room(decision, str(fault)) if is_full else self._failed(fault))
            return
        callback = decision.callback
        app_id = callback.app_id
        if app_id in self._limits:
            self._limits[app_id].stored(position, len(callback.query) + len(callback.body))
        self._note_callback(app_id, callback.received_ms)
        if self._listen.ack_after == "confirmed":
            self._slow.start(self._wait_for_confirm(decision, position, started_s, reply))
            return
        self._inflight -= 1
        reply(self._ok(decision))

    async def _wait_for_confirm(
        self, decision: Accepted, position: int, started_s: float, reply: Callable[[Answer], None]
    ) -> None:
        left_s = self._listen.answer_deadline_ms / 1000 - (time.perf_counter() - started_s)
        told = self._ok(decision)
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                await self._journal.confirmed(position)
        except (TimeoutError, Unavailable):
            told = replace(
                refusal("", self._listen.retry_after_s, row=answer.LATE),
                outcome=Outcome("stored", decision.callback.app_id, is_late=True),
            )
        finally:
            self._inflight -= 1
        reply(told)

    def _ok(self, decision: Accepted) -> Answer:
        usual = self._usual[decision.callback.app_id]
        return usual if decision.answer is answer.OK else replace(usual, body=decision.answer)

    def _no_room(self, decision: Accepted, detail: str) -> Answer:
        if self._listen.before_when_full == "answer" and _is_before(decision.command):
            # The operator's choice: an intent that nobody records is better than users who are blocked.
            return Answer(200, decision.answer, Outcome("refused", "before_unstored"))
        return self.refuse(Refused("journal_full", detail))

    def _failed(self, fault: BaseException) -> Answer:
        _log.error("A request failed inside the gateway (%s); it was answered 500", where(fault))
        return refusal("internal_error", self._listen.retry_after_s)

    def refuse(self, refused: Refused) -> Answer:
        """Return the answer to what is refused, and say so in the log where an operator can mend it."""
        self._notes.refused(refused)
        return refusal(refused.reason, self._listen.retry_after_s)


def _is_before(command: str) -> bool:
    row = COMMANDS.get(command)
    return row.phase in ("before", "sync") if row is not None else "CallbackBefore" in command


def _target(message: RawRequestMessage) -> tuple[str, str]:
    """Return the path and the raw query of the request line, as text that can be encoded again."""
    target = message.path
    if not target.startswith("/"):  # the absolute form, http://host/path?query
        target = message.url.raw_path_qs
    if not target.isascii():
        target = target.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    path, _, query = target.partition("?")
    # Why decoded: /%7Eim and /~im are one path (RFC 3986, 6.2.2), and proxies write it as they like.
    return unquote(path) if "%" in path else path, query.partition("#")[0]
