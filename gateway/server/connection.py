"""One connection of a caller: deadlines, and JSON for HTTP that aiohttp refuses itself."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from aiohttp import StreamReader, web
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from gateway import answer
from gateway.logs import where
from gateway.outcome import OUTCOME, Outcome, refusal_response

if TYPE_CHECKING:
    from gateway.server.front import FrontServer

_log = logging.getLogger(__name__)


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
        parsed, last = self._request_count, self._last_payload
        super().data_received(data)
        if self._request_count > parsed:
            if last is not None and not last.is_eof():
                # Why: after a faulty chunk aiohttp has a fault for the next message, and none for this body.
                last.set_exception(RequestPayloadError())
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
