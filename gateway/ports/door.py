"""Who is let in from listening sockets, and how: TLS handshakes, and sockets that several processes share."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.base_protocol import BaseProtocol

from gateway.logs import where

_log = logging.getLogger(__name__)
BACKLOG = 1024
AT_ONCE = 64
"""Callers let in one after the other, where nobody else takes them."""
_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Https:
    """What a port that speaks HTTPS asks of the other parts."""

    context: Callable[[], ssl.SSLContext]
    """Returns the context that a handshake begun now is to use."""
    admit: Callable[[Any, Any], bool]
    """Says whether the caller at this address may come in, and counts it."""
    dismiss: Callable[[Any], None]
    """Takes back what *admit* counted."""
    failed: Callable[[], None]
    """Counts a handshake that came to nothing."""
    max_handshakes: int
    """Handshakes under way; beyond it the longest one is given up."""
    patience_s: float
    """The longest time for a handshake, and for the end of a connection."""


class Door:
    """Bound sockets that listen from now on, whose callers are let in by us.

    For HTTPS: asyncio's own servers tell of a connection once its handshake is done: until then nothing would
    count it, and strangers who never say a word would take every open file. Each handshake has the newest
    context. For sockets that several processes share: asyncio's take all who wait, which leaves one process
    with most of the connections; *at_once* 1 leaves the next caller to whoever is free.
    """

    def __init__(
        self, server: web.Server, https: Https | None, sockets: Sequence[socket.socket], at_once: int
    ) -> None:
        self.sockets = list(sockets)
        self._server = server
        self._https = https
        self._at_once = at_once
        self._loop = asyncio.get_running_loop()
        # Why ordered: the first one is the one that has been going on for longest.
        self._handshakes: dict[asyncio.Task[None], None] = {}
        for one in sockets:
            one.listen(BACKLOG)
            self._loop.add_reader(one, self._take_all, one)

    def close(self) -> None:
        """Stop accepting, and give up the handshakes under way."""
        for one in self.sockets:
            self._loop.remove_reader(one)
            one.close()
        self.sockets = []
        for task in self._handshakes:
            task.cancel()

    def _take_all(self, listener: socket.socket) -> None:
        for _ in range(self._at_once):
            try:
                caller, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.error("No connection can be accepted for %g s: %s", _PAUSE_S, error.strerror)
                self._loop.remove_reader(listener)
                self._loop.call_later(_PAUSE_S, self._listen_again, listener)
                return
            self._take(caller, address)

    def _listen_again(self, listener: socket.socket) -> None:
        if listener in self.sockets:
            self._loop.add_reader(listener, self._take_all, listener)

    def _take(self, caller: socket.socket, address: Any) -> None:
        connection = self._server()
        if self._https is not None and not self._https.admit(connection, address):
            caller.close()
            return
        caller.setblocking(False)
        task = self._loop.create_task(self._let_in(connection, caller))
        self._handshakes[task] = None
        task.add_done_callback(partial(self._end, connection, caller))
        if self._https is not None and len(self._handshakes) > self._https.max_handshakes:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]  # Why now: it ends later, and the next one must not meet it here
            oldest.cancel()

    async def _let_in(self, connection: BaseProtocol, caller: socket.socket) -> None:
        if self._https is None:
            await self._loop.connect_accepted_socket(lambda: connection, caller)
            return
        await self._loop.connect_accepted_socket(
            lambda: connection,
            caller,
            ssl=self._https.context(),
            ssl_handshake_timeout=self._https.patience_s,
            ssl_shutdown_timeout=self._https.patience_s,
        )

    def _end(self, connection: BaseProtocol, caller: socket.socket, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)
        if connection.transport is None:
            if self._https is not None:
                self._https.dismiss(connection)
            if task.cancelled():
                caller.close()  # Why: a task that was cancelled before it began has left that to us
        fault = None if task.cancelled() else task.exception()
        if self._https is not None and (task.cancelled() or fault is not None):
            self._https.failed()
        # Faults of the caller's are OSErrors: ssl.SSLError, time-outs, resets.
        if fault is not None and not isinstance(fault, OSError):
            _log.error("A TLS handshake failed inside the gateway (%s)", where(fault))


class Site(web.BaseSite):
    """A site behind a door of ours."""

    def __init__(
        self, runner: web.BaseRunner, sockets: Sequence[socket.socket], https: Https | None, at_once: int
    ) -> None:
        super().__init__(runner)
        self._sockets, self._https, self._at_once = sockets, https, at_once

    @property
    def name(self) -> str:
        return f"{'http' if self._https is None else 'https'} at {self._sockets[0].getsockname()}"

    async def start(self) -> None:
        await super().start()
        assert self._runner.server is not None
        # Why a type of ours: aiohttp asks a site's server for its sockets, and to close.
        self._server = Door(self._runner.server, self._https, self._sockets, self._at_once)  # type: ignore[assignment]
