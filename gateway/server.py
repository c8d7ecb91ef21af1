"""aiohttp's server with what a public port needs: deadlines, limits, JSON for HTTP that it refuses itself.

Knows nothing of callbacks. Handlers put the outcome of a request into ``response[OUTCOME]``; it is reported
once the answer is written or the caller turns out to be gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway import answer
from gateway.config import Listen
from gateway.logs import where
from gateway.networks import Networks, plain

JSON_HEADERS = {"Content-Type": "application/json", "Server": "im-callback-gateway"}
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)
# Why silenced: aiohttp logs the stranger's bytes with every bad request; what matters of it we count.
_quiet = logging.getLogger(f"{__name__}.aiohttp")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request: ``kind`` is ``refused``, ``probe`` or ``stored``."""

    kind: str
    label: str = ""
    """The reason of a refusal, the app id of a stored callback."""
    is_late: bool = False
    """Stored, but answered 503 because the broker's confirm took too long."""


OUTCOME = web.ResponseKey("outcome", Outcome)


class Reports:
    """Whom the server tells what happened; the receiver counts it."""

    def answered(self, outcome: Outcome) -> None:
        """An answer was written."""

    def hung_up(self, outcome: Outcome | None) -> None:
        """The caller was gone before the answer, or before its body had come (None)."""

    def evicted(self) -> None:
        """A connection was closed to make room for a newer one."""

    def turned_away(self) -> None:
        """A connection was closed at once: its peer has max_connections_per_peer already."""

    def handshake_failed(self) -> None:
        """A connection ended before it spoke TLS."""


def refusal_response(
    reason: str, retry_after_s: int, *, refusal: answer.Refusal | None = None
) -> web.Response:
    """Return the answer for *reason*, its outcome included; 503 names *retry_after_s*."""
    row = refusal or answer.REFUSALS[reason]
    headers = dict(JSON_HEADERS)
    if row.status == 503:
        headers["Retry-After"] = str(retry_after_s)
    if row.status == 405:
        headers["Allow"] = "GET, HEAD, POST"
    response = web.Response(status=row.status, body=row.body, headers=headers)
    response[OUTCOME] = Outcome("refused", reason)
    return response


class Connection(RequestHandler):
    """One connection of a caller, with a deadline from its first byte to its last header."""

    __slots__ = ("_front", "_head_deadline")

    def __init__(self, front: FrontServer, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(front, loop=loop, **kwargs)
        self._front = front
        self._head_deadline: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """No request is under way; part of a head may have come."""
        if self._request_in_progress or self._messages:
            return False
        return self._waiter is not None or self._request_count == 0

    def data_received(self, data: bytes) -> None:
        parsed = self._request_count
        super().data_received(data)
        if self._request_count > parsed:
            self._stop_clock()
        # Why strip: an empty line before a request is to be ignored (RFC 9112, 2.2), so it starts no head.
        elif data.strip(b"\r\n") and self.is_idle and self._head_deadline is None:
            self._head_deadline = self._loop.call_later(self._front.listen.header_timeout_s, self._too_slow)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer HTTP that aiohttp refused (400) or a fault of ours (500), without a word of the caller's."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        if status >= 500:
            _log.error("A request failed inside the gateway (%s); it was answered 500", where(exc))
        response = refusal_response("internal_error" if status >= 500 else "bad_http", 1)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if self._front.is_draining:
            resp.force_close()
        resp, is_reset = await super().finish_response(request, resp, start_time)
        outcome: Outcome | None = resp.get(OUTCOME)
        if outcome is None or is_reset:
            self._front.reports.hung_up(outcome)
        else:
            self._front.reports.answered(outcome)
        return resp, is_reset

    def _too_slow(self) -> None:
        self._head_deadline = None
        if self.transport is None or not self.is_idle:
            return
        row = answer.REFUSALS["slow_head"]
        head = "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self.transport.write(f"{head}Content-Length: {len(row.body)}\r\n\r\n".encode() + row.body)
        self._front.reports.answered(Outcome("refused", "slow_head"))
        self.force_close()

    def _stop_clock(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None


class FrontServer(web.Server):
    """The server of ``listen``: makes Connections and keeps their number within ``max_connections``."""

    def __init__(self, handler: Handler, listen: Listen, reports: Reports, max_connections: int) -> None:
        super().__init__(
            handler,
            keepalive_timeout=listen.keepalive_timeout_s,
            max_line_size=listen.max_header_bytes,
            max_field_size=listen.max_header_bytes,
            max_headers=listen.max_headers,
            lingering_time=2.0,
            auto_decompress=False,
            access_log=None,
            logger=_quiet,
        )
        self.listen = listen
        self.reports = reports
        self.max_connections = max_connections
        self.is_draining = False
        # Why ordered: the first one that is idle is the one that has been so for longest.
        self._by_activity: dict[RequestHandler, None] = {}
        self._networks = Networks.of((), listen.trusted_proxies)
        self._peers: dict[RequestHandler, str] = {}
        self._per_peer: Counter[str] = Counter()

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)

    @property
    def open_connections(self) -> int:
        return len(self._by_activity)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if not self.admit(handler, transport.get_extra_info("peername")):
            # Why later: lost before its task has begun, a handler of aiohttp fails with a stack trace.
            self._loop.call_soon(transport.abort)
            return
        self._by_activity[handler] = None
        if len(self._by_activity) > self.max_connections:
            self._evict(handler)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._by_activity.pop(handler, None)
        self.dismiss(handler)

    def touch(self, handler: object) -> None:
        """Note that *handler*'s connection served a request just now."""
        if isinstance(handler, RequestHandler) and handler in self._by_activity:
            del self._by_activity[handler]
            self._by_activity[handler] = None

    def admit(self, handler: RequestHandler, address: Any) -> bool:
        """Count the connection for its peer, unless that has as many as it may have; once is enough."""
        most = self.listen.max_connections_per_peer
        if not most or not address or handler in self._peers or self._networks.is_proxy(address[0]):
            return True
        peer = plain(address[0])
        if self._per_peer[peer] >= most:
            self.reports.turned_away()
            return False
        self._peers[handler] = peer
        self._per_peer[peer] += 1
        return True

    def dismiss(self, handler: RequestHandler) -> None:
        """Take back what ``admit`` counted."""
        peer = self._peers.pop(handler, None)
        if peer is not None:
            self._per_peer[peer] -= 1
            if not self._per_peer[peer]:
                del self._per_peer[peer]

    def _evict(self, newest: RequestHandler) -> None:
        others = (conn for conn in self._by_activity if conn is not newest and isinstance(conn, Connection))
        oldest = next(others, None)
        victim = oldest
        if oldest is not None and not oldest.is_idle:
            # Why the oldest when none is idle: those are slow senders, the new caller may be the real one.
            victim = next((conn for conn in others if conn.is_idle), oldest)
        if victim is not None:
            self._by_activity.pop(victim, None)
            self.reports.evicted()
            victim.force_close()
