"""The stage that callbacks come in by: judge, journal, answer. It never publishes.

A 200 for a callback leaves only after the journal's word, as ``listen.ack_after`` says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from urllib.parse import unquote

from aiohttp import HttpVersion11, web
from aiohttp.web_protocol import RequestPayloadError

from gateway import answer
from gateway.callback import Accepted, Head, Probe, Rules, decide_body, decide_head, parse_query
from gateway.catalogue import COMMANDS
from gateway.clock import ClockWatch, is_stale
from gateway.config import Config
from gateway.errors import JournalFull, Refused, Unavailable
from gateway.heavy import Heavy
from gateway.journal import Journal
from gateway.limits import AppLimits
from gateway.metrics import Metrics
from gateway.networks import Networks
from gateway.notes import Notes
from gateway.outcome import JSON_HEADERS, OUTCOME, Outcome, Reports, refusal_response
from gateway.rules import rules_of


class Receiver(Reports):
    """Handles each request of the callback port. Bound: max_inflight requests, max_inflight_mb of bodies."""

    def __init__(
        self, config: Config, journal: Journal, metrics: Metrics, now_ms: Callable[[], int] | None = None
    ) -> None:
        self._listen = config.listen
        self.rules = rules_of(config)
        self._networks = Networks.of(config.listen.allow_networks, config.listen.trusted_proxies)
        self._clock = ClockWatch(metrics.clock_skew, config.listen.signature_window_s)
        self._journal = journal
        self._metrics = metrics
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._limits = {
            app_id: AppLimits(app.max_per_s, app.max_backlog_mb, time.monotonic())
            for app_id, app in config.apps.items()
            if app.max_per_s or app.max_backlog_mb
        }
        # Why two: a large body need not wait behind an odd one.
        self._heavy = Heavy("receiver", threads=2)
        self._inflight = 0
        self._inflight_bytes = 0
        self._notes = Notes()
        self.touch: Callable[[object], None] = lambda connection: None
        metrics.requests_inflight.set_function(lambda: self._inflight)
        # Why now: a sum over a series that is not there yet is nothing, and so is an alert on its silence.
        for app_id in config.apps:
            metrics.callbacks_stored.labels(app_id)
            metrics.last_callback.labels(app_id)
        for reason in (*answer.REFUSALS, "before_unstored"):
            metrics.requests_refused.labels(reason)
        for is_stored in ("yes", "no"):
            metrics.requests_hangups.labels(is_stored)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        started_s = time.perf_counter()
        try:
            return await self._answer(request, started_s)
        except Refused as refused:
            return self._refuse(refused)
        except JournalFull as full:
            return self._refuse(Refused("journal_full", full.detail))
        except ConnectionError:
            # The caller is gone; writing this fails, and the server counts the hang-up.
            return web.Response(status=400)
        finally:
            self.touch(request.protocol)
            self._metrics.answer_seconds.observe(time.perf_counter() - started_s)

    async def _answer(self, request: web.BaseRequest, started_s: float) -> web.StreamResponse:
        peer = self._networks.caller(request.remote or "", request.headers.getall("X-Forwarded-For", ()))
        rules = self.rules
        head = self._judge(rules, request)
        if isinstance(head, Probe):
            return _ok(head.answer, Outcome("probe"))
        if head.app is not None and head.refusal is None and head.app.app_id in self._limits:
            self._limits[head.app.app_id].check(time.monotonic(), self._journal.cursor)
        body = await self._read(request)
        try:
            now_ms = self._now_ms()
            decision = await self._heavy.run(len(body), decide_body, rules, head, body, peer, now_ms)
            if isinstance(decision, Probe):
                return _ok(decision.answer, Outcome("probe"))
            if self._inflight >= self._listen.max_inflight:
                raise Refused("overloaded")
            self._inflight += 1
            try:
                return await self._store(decision, started_s)
            finally:
                self._inflight -= 1
        finally:
            self._inflight_bytes -= len(body)

    def _judge(self, rules: Rules, request: web.BaseRequest) -> Head | Probe:
        """Return what the request's head says, and note how far a matching Sign's clock is from ours."""
        path, query = _target(request)
        encoding = ", ".join(request.headers.getall("Content-Encoding", ()))
        now_ms = self._now_ms()
        try:
            head = decide_head(rules, request.method, path, query, encoding, now_ms)
        except Refused as refused:
            if is_stale(refused):
                self._clock.signed(parse_query(query), now_ms)
            raise
        if isinstance(head, Head) and (head.verified or is_stale(head.refusal)):
            self._clock.signed(head.params, now_ms)
        return head

    async def _read(self, request: web.BaseRequest) -> bytes:
        """Return the body, at most max_body_bytes within body_timeout_s; its bytes count as in flight."""
        if (request.content_length or 0) > self._listen.max_body_bytes:
            raise Refused("body_too_large")
        is_asked = request.headers.get("Expect", "").lower() == "100-continue"
        # Why not for 1.0: such a caller would take it for the answer (RFC 9110, 10.1.1).
        if is_asked and request.version >= HttpVersion11 and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._listen.body_timeout_s):
                while chunk := await request.content.readany():
                    size += len(chunk)
                    self._inflight_bytes += len(chunk)
                    if size > self._listen.max_body_bytes:
                        raise Refused("body_too_large")
                    if self._inflight_bytes > self._listen.max_inflight_mb * 1_048_576:
                        raise Refused("overloaded")
                    chunks.append(chunk)
        except BaseException as error:
            self._inflight_bytes -= size
            if isinstance(error, TimeoutError):
                raise Refused("slow_body") from None
            if isinstance(error, RequestPayloadError):
                raise Refused("bad_http") from None
            raise
        return b"".join(chunks)

    async def _store(self, decision: Accepted, started_s: float) -> web.StreamResponse:
        callback = decision.callback
        try:
            position = await self._journal.append(callback, durable=self._listen.ack_after != "written")
        except JournalFull:
            if self._listen.before_when_full == "answer" and _is_before(decision.command):
                # The operator's choice: an intent that nobody records is better than users who are blocked.
                return _ok(decision.answer, Outcome("refused", "before_unstored"))
            raise
        if callback.app_id in self._limits:
            self._limits[callback.app_id].stored(position, len(callback.query) + len(callback.body))
        self._metrics.last_callback.labels(callback.app_id).set(callback.received_ms / 1000)
        outcome = Outcome("stored", callback.app_id)
        if self._listen.ack_after == "confirmed":
            left_s = self._listen.answer_deadline_ms / 1000 - (time.perf_counter() - started_s)
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    await self._journal.confirmed(position)
            except (TimeoutError, Unavailable):
                response = refusal_response("", self._listen.retry_after_s, refusal=answer.LATE)
                response[OUTCOME] = Outcome("stored", callback.app_id, is_late=True)
                return response
        return _ok(decision.answer, outcome)

    def answered(self, outcome: Outcome) -> None:
        self._metrics.requests_answered.inc()
        if outcome.kind == "refused":
            self._metrics.requests_refused.labels(outcome.label).inc()
        elif outcome.kind == "probe":
            self._metrics.requests_probes.inc()
        else:
            self._metrics.callbacks_stored.labels(outcome.label).inc()
            if outcome.is_late:
                self._metrics.answers_late.inc()

    def hung_up(self, outcome: Outcome | None) -> None:
        is_stored = outcome is not None and outcome.kind == "stored"
        self._metrics.requests_hangups.labels("yes" if is_stored else "no").inc()

    def evicted(self) -> None:
        self._metrics.connections_evicted.inc()

    def turned_away(self) -> None:
        self._metrics.connections_refused.inc()

    def handshake_failed(self) -> None:
        self._metrics.handshakes_failed.inc()

    def _refuse(self, refused: Refused) -> web.StreamResponse:
        self._notes.refused(refused)
        response = refusal_response(refused.reason, self._listen.retry_after_s)
        if refused.reason in ("body_too_large", "slow_body", "bad_http"):
            response.force_close()
        return response


def _is_before(command: str) -> bool:
    row = COMMANDS.get(command)
    return row.phase in ("before", "sync") if row is not None else "CallbackBefore" in command


def _target(request: web.BaseRequest) -> tuple[str, str]:
    """Return the path and the raw query of the request line, as text that can be encoded again."""
    target = request.raw_path
    if not target.startswith("/"):  # the absolute form, http://host/path?query
        target = request.rel_url.raw_path_qs
    if not target.isascii():
        target = target.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    path, _, query = target.partition("?")
    # Why decoded: /%7Eim and /~im are one path (RFC 3986, 6.2.2), and proxies write it as they like.
    return unquote(path), query.partition("#")[0]


def _ok(body: bytes, outcome: Outcome) -> web.Response:
    response = web.Response(body=body, headers=JSON_HEADERS)
    response[OUTCOME] = outcome
    return response
