"""One connection of a caller: its requests are judged and answered one after the other.

There is no task, request or response object for a callback. What can be decided at once is; the answer to a
callback comes when the journal has spoken, by ``_reply``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gateway.errors import Refused
from gateway.logs import where
from gateway.outcome import Answer
from gateway.server.clocks import Deadline, Idleness, Waiter
from gateway.server.exchange import Does, Exchange
from gateway.server.line import Line
from gateway.server.requests import Body, Request, Requests

if TYPE_CHECKING:
    from gateway.server.front import FrontServer

_log = logging.getLogger(__name__)
_LINGER_S = 2.0
"""How long the rest of a refused body is thrown away, so that its sender sees the answer."""
_A_TURN = 32
"""Requests of one connection, until others have theirs."""

IDLE, READ, WAIT, STALL, LINGER, ENDED = Does


class Connection(Line):
    """See the module. Bound: what one read brings, and one body."""

    def __init__(self, front: FrontServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._requests = Requests(self, loop, front.listen)
        self._front = front
        self._does = IDLE
        self._body = Body(front.memory)
        self._exchange = Exchange()
        self._is_stepping = False
        self._is_closing = False
        self._deadline = Deadline(loop, self._too_late)
        """Of a head, a body, the taking of an answer, lingering, or the end."""
        self._idleness = Idleness(loop, front.listen.keepalive_timeout_s, self._too_idle)
        self._answered = Waiter(loop)
        self.has_stored = False
        """A callback that came by it was stored."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self._idleness.start()
        self._front.connection_made(self, self.transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._front.connection_lost(self)
        super().connection_lost(exc)
        self._idleness.clear()
        self._give_up()

    def data_received(self, data: bytes) -> None:
        if self._does is ENDED:
            return
        if self._requests.feed(data) and self._does is IDLE:
            self._deadline.clear()
        self._step()

    def eof_received(self) -> bool:
        """Keep the connection for answers that are owed; not under TLS, where no side can end alone."""
        self.is_half_closed = True
        if self.can_half_close and not self.is_idle and self._does not in (READ, LINGER):
            return True
        self._end()
        return False

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._does is STALL:
            self._written()

    @property
    def is_idle(self) -> bool:
        """No request is under way; part of a head may have come."""
        return self.is_gone or self._does is ENDED or (self._does is IDLE and not self._requests)

    def close(self) -> None:
        """Take no further request; end once the one under way is answered."""
        self._is_closing = True
        self._requests.clear()
        if self._does in (IDLE, LINGER):
            self._end()

    async def shutdown(self, wait_s: float | None) -> None:
        """Wait for the request under way, at most *wait_s* seconds, and end."""
        self.close()
        if self._does in (READ, WAIT):
            await self._answered.wait(wait_s)
        self._end()

    # The way of a request

    def _step(self) -> None:
        """Go on with what has come, and take up requests until one has to wait for something."""
        if self._is_stepping:
            return
        self._is_stepping = True
        try:
            if self._does is READ:
                self._read()
            elif self._does is LINGER:
                self._go_on()
            for _ in range(_A_TURN):
                if self._does is not IDLE or not self._requests.have_more():
                    break
                self._begin(self._requests.next())
            else:  # Why: thousands of probes fit one read, and all others would wait for them
                self._loop.call_soon(self._step)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not end the connection without a word
            _log.error("A request failed inside the gateway (%s); it was answered 500", where(error))
            self._refuse("internal_error")
        finally:
            self._is_stepping = False
        self.hold(self._requests.are_too_many)
        if self._does is IDLE and self._requests.has_half_a_head and not self._deadline.is_set:
            self._deadline.set(self._front.listen.header_timeout_s)

    def _begin(self, request: Request | None) -> None:
        if request is None:
            self._exchange.begin(None)
            self._refuse("bad_http")
            return
        exchange = self._exchange
        exchange.begin(*request)
        exchange.ticket = self._front.receiver.judge(request[0], self.remote)
        if isinstance(exchange.ticket, Answer):
            self._reply(exchange.ticket)
            return
        self._does = READ
        if exchange.is_asked and self.transport is not None:
            exchange.is_asked = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._read()
        if self._does is READ:
            self._deadline.set(self._front.listen.body_timeout_s)

    def _read(self) -> None:
        """Take what has come of the body; hand all of it to the receiver once it is there."""
        exchange = self._exchange
        assert exchange.payload is not None
        try:
            body = self._body.read(exchange.payload)
        except Refused as refused:
            self._refuse(refused.reason)
            return
        if body is not None:
            self._deadline.clear()
            self._does = WAIT
            self._front.receiver.take(exchange.ticket, body, exchange.started_s, self._reply)

    def _refuse(self, reason: str) -> None:
        self._reply(self._front.receiver.refuse(Refused(reason)))

    def _reply(self, answer: Answer) -> None:
        """Write *answer* to the request under way; then comes the next."""
        front, exchange = self._front, self._exchange
        self._body.forget()
        self._answered.wake()
        if self.transport is None or self.is_gone:
            self._does = ENDED
            front.reports.hung_up(answer.outcome)
            return
        front.touch(self)
        self.has_stored |= answer.outcome.kind == "stored"
        exchange.outcome = answer.outcome
        exchange.is_last |= answer.is_last or self._is_closing or front.is_draining
        if exchange.is_asked:  # Why: whether the body comes now, nobody can tell (RFC 9110, 10.1.1)
            exchange.is_last |= exchange.has_rest()
        if (self.is_half_closed or self._requests.is_over) and not self._requests.have_more():
            exchange.is_last = True
        self.transport.write(front.wire.write(answer, exchange.is_old, exchange.is_last, exchange.is_head))
        if self._paused:
            self._does = STALL
            self._deadline.set(front.listen.body_timeout_s)
        else:
            self._written()

    def _written(self) -> None:
        """Report the answer; be ready for what comes after it."""
        exchange = self._exchange
        assert exchange.outcome is not None
        self._does = IDLE
        if self.is_half_closed:  # Why: by then it has most likely given up
            self._front.reports.hung_up(exchange.outcome)
        else:
            self._front.reports.answered(exchange.outcome, exchange.took_s)
        self._go_on()
        self._step()

    def _go_on(self) -> None:
        """Be ready for the next request, or end, once nothing more comes of this one."""
        if self._exchange.has_rest():
            if self._does is not LINGER:
                self._does = LINGER
                self._deadline.set(_LINGER_S)
        elif self._exchange.is_last or (self._requests.is_over and not self._requests):
            self._end()
        else:
            self._deadline.clear()
            self._does = IDLE
            self._idleness.touch()

    def _end(self) -> None:
        """Close once what was written is taken, or cut the connection when it is not."""
        self._give_up()
        is_over = self._requests.is_over and not self._is_closing
        if self.finish(is_more_coming=is_over):
            self._deadline.set(_LINGER_S if is_over else self._front.listen.body_timeout_s)

    def _give_up(self) -> None:
        """Count what was under way, unless the receiver has it: its answer comes, and finds nobody."""
        if self._does is READ:
            self._front.reports.hung_up(None)
            self._body.forget()
        elif self._does is STALL:
            self._front.reports.hung_up(self._exchange.outcome)
        if self._does is not WAIT:
            self._does = ENDED
        self._deadline.clear()
        self._requests.clear()
        self._answered.wake()

    def _too_late(self) -> None:
        if self._does is IDLE:
            self._exchange.begin(None)
            self._refuse("slow_head")
        elif self._does is READ:
            self._refuse("slow_body")
        elif self._does is LINGER:
            self._end()
        else:
            self._front.abort(self)

    def _too_idle(self) -> None:
        # Why the deadline: a head that has begun is not idle, and has one of its own.
        if self._does is IDLE and not self._deadline.is_set:
            self._end()
