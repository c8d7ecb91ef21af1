"""aiohttp's server with what a public port needs: deadlines, limits, JSON for HTTP that it refuses itself.

Knows nothing of callbacks. Handlers put the outcome of a request into ``response[OUTCOME]``; it is reported
once the answer is written or the caller turns out to be gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.web_protocol import RequestHandler

from gateway import answer
from gateway.config import Listen
from gateway.logs import where
from gateway.networks import Networks, plain
from gateway.outcome import OUTCOME, Outcome, Reports, refusal_response

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_log = logging.getLogger(__name__)
# Why silenced: aiohttp logs the stranger's bytes with every bad request; what matters of it we count.
_quiet = logging.getLogger(f"{__name__}.aiohttp")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Connection(RequestHandler):
    """One connection of a caller, with deadlines for its head and for taking its answers."""

    __slots__ = (
        "_front",
        "_head_deadline",
        "_is_half_closed",
        "_last_payload",
        "_stall_deadline",
        "has_stored",
    )

    def __init__(self, front: FrontServer, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(front, loop=loop, **kwargs)
        self._front = front
        self._head_deadline: asyncio.TimerHandle | None = None
        self._stall_deadline: asyncio.TimerHandle | None = None
        self._is_half_closed = False
        self._last_payload: StreamReader | None = None
        self.has_stored = False
        """A callback that came by it was stored."""

    @property
    def is_idle(self) -> bool:
        """No request is under way; part of a head may have come, or the last answer waits to be taken."""
        if self.transport is None or self.transport.is_closing():
            return True
        if self._request_in_progress or self._messages:
            return False
        return self._waiter is not None or self._request_count == 0

    def data_received(self, data: bytes) -> None:
        parsed = self._request_count
        super().data_received(data)
        if self._request_count > parsed:
            self._last_payload = self._messages[-1][1]
            self._stop_clock()
        # Why strip: an empty line before a request is to be ignored (RFC 9112, 2.2), so it starts no head.
        elif data.strip(b"\r\n") and self.is_idle and self._head_deadline is None:
            self._head_deadline = self._loop.call_later(self._front.listen.header_timeout_s, self._too_slow)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection for answers that are owed; not under TLS, where no side can end alone."""
        is_whole = self._last_payload is None or self._last_payload.is_eof()
        is_plain = self.transport is not None and self.transport.get_extra_info("sslcontext") is None
        self._is_half_closed = True
        return is_plain and is_whole and not self.is_idle

    def pause_writing(self) -> None:
        super().pause_writing()
        wait_s = self._front.listen.body_timeout_s
        self._stall_deadline = self._loop.call_later(wait_s, self._front.abort, self)

    def resume_writing(self) -> None:
        if self._stall_deadline is not None:
            self._stall_deadline.cancel()
        super().resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_clock()
        if self._stall_deadline is not None:
            self._stall_deadline.cancel()
        super().connection_lost(exc)

    def _process_keepalive(self) -> None:
        if self._head_deadline is None:
            super()._process_keepalive()
        else:  # a head that has begun is not idle, and has a deadline of its own
            self._keepalive_handle = None

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
        if self._front.is_draining or (self._is_half_closed and not self._messages):
            resp.force_close()
        is_gone = self._is_half_closed  # Why before writing: by then it has most likely given up
        resp, is_reset = await super().finish_response(request, resp, start_time)
        outcome: Outcome | None = resp.get(OUTCOME)
        if outcome is None or is_reset or is_gone or self.transport is None:
            self._front.reports.hung_up(outcome)
        else:
            self._front.reports.answered(outcome)
        if outcome is not None and outcome.kind == "stored":
            self.has_stored = True
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
        self._by_activity: dict[RequestHandler, asyncio.Transport] = {}
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
        self._by_activity[handler] = transport
        if len(self._by_activity) > self.max_connections:
            self._evict(handler)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._by_activity.pop(handler, None)
        self.dismiss(handler)

    def touch(self, handler: object) -> None:
        """Note that *handler*'s connection served a request just now."""
        if isinstance(handler, RequestHandler) and handler in self._by_activity:
            self._by_activity[handler] = self._by_activity.pop(handler)

    def abort(self, handler: RequestHandler) -> None:
        """End the connection now, whatever was not taken of its answers."""
        transport = self._by_activity.pop(handler, None)
        handler.force_close()
        if transport is not None:
            # Why at once: what was written last would wait for a caller that may never take it.
            transport.abort()

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
        """End the longest idle connection, rather one by which no callback has come yet."""
        oldest: Connection | None = None
        oldest_idle: Connection | None = None
        for one in self._by_activity:
            if one is newest or not isinstance(one, Connection):
                continue
            oldest = oldest or one
            if one.is_idle:
                oldest_idle = oldest_idle or one
                if not one.has_stored:
                    oldest_idle = one
                    break
        # Why the oldest when none is idle: those are slow senders, the new caller may be the real one.
        victim = oldest_idle or oldest
        if victim is not None:
            self.reports.evicted()
            self.abort(victim)
