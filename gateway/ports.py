"""Opening ports, TLS handshakes, and the limit of open files that bounds how many connections fit."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.web_protocol import RequestHandler

from gateway.errors import ConfigError
from gateway.logs import where

_log = logging.getLogger(__name__)
_SPARE_FILES = 256
_BACKLOG = 1024
_ACCEPTED_AT_ONCE = 64
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


class _TlsServer:
    """Listening sockets whose callers are let in before their handshake, not after it.

    asyncio's own servers tell of a connection once its handshake is done: until then nothing would count it,
    and strangers who never say a word would take every open file. Each handshake has the newest context.
    """

    def __init__(self, server: web.Server, https: Https, sockets: list[socket.socket]) -> None:
        self.sockets = sockets
        self._server = server
        self._https = https
        self._loop = asyncio.get_running_loop()
        # Why ordered: the first one is the one that has been going on for longest.
        self._handshakes: dict[asyncio.Task[None], None] = {}
        for one in sockets:
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
        for _ in range(_ACCEPTED_AT_ONCE):
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
        if not self._https.admit(connection, address):
            caller.close()
            return
        caller.setblocking(False)
        task = self._loop.create_task(self._shake_hands(connection, caller))
        self._handshakes[task] = None
        task.add_done_callback(partial(self._end, connection, caller))
        if len(self._handshakes) > self._https.max_handshakes:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]  # Why now: it ends later, and the next one must not meet it here
            oldest.cancel()

    async def _shake_hands(self, connection: BaseProtocol, caller: socket.socket) -> None:
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
            self._https.dismiss(connection)
            if task.cancelled():
                caller.close()  # Why: a task that was cancelled before it began has left that to us
        fault = None if task.cancelled() else task.exception()
        if task.cancelled() or fault is not None:
            self._https.failed()
        # Faults of the caller's are OSErrors: ssl.SSLError, time-outs, resets.
        if fault is not None and not isinstance(fault, OSError):
            _log.error("A TLS handshake failed inside the gateway (%s)", where(fault))


class _TlsSite(web.BaseSite):
    """A site of HTTPS."""

    def __init__(self, runner: web.BaseRunner, host: str, port: int, https: Https) -> None:
        super().__init__(runner)
        self._host, self._port, self._https = host, port, https

    @property
    def name(self) -> str:
        return f"https://{self._host}:{self._port}"

    async def start(self) -> None:
        await super().start()
        assert self._runner.server is not None
        sockets = await _listening_sockets(self._host, self._port)
        # Why a type of ours: aiohttp asks a site's server for its sockets, and to close.
        self._server = _TlsServer(self._runner.server, self._https, sockets)  # type: ignore[assignment]


async def _listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for each address that *host* has ("": all of this machine's); OSError."""
    # Why a server that never serves: it finds and binds the addresses as the one for plain HTTP does.
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
    sockets = [socket.socket(fileno=os.dup(one.fileno())) for one in server.sockets]
    server.close()
    for one in sockets:
        one.setblocking(False)
        one.listen(_BACKLOG)
    return sockets


async def listen_on(
    runner: web.AppRunner | web.ServerRunner,
    host: str,
    port: int,
    key: str,
    *,
    https: Https | None = None,
) -> None:
    """Listen on *host*:*port*, by HTTPS if that is given; ConfigError that names *key* when that can't be."""
    try:
        if https is None:
            await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        else:
            await _TlsSite(runner, host, port, https).start()
    except (OSError, UnicodeError) as error:  # Why UnicodeError: a host that is no host name
        await runner.cleanup()
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            said = f"{key}: {host}:{port} is in use by another program; stop that or choose another port"
        else:
            said = f"{key}: can't listen on {host}:{port}: {reason or error}"
        raise ConfigError(said) from error


def limit_connections(runner: web.AppRunner, most: int) -> None:
    """Close what connects beyond *most*, so that idle strangers never take the files that others need."""
    server = runner.server
    assert server is not None
    accept = server.connection_made

    def connection_made(handler: RequestHandler, transport: asyncio.Transport) -> None:
        accept(handler, transport)
        if len(server.connections) > most:
            # Why later: lost before its task has begun, a handler of aiohttp fails with a stack trace.
            asyncio.get_running_loop().call_soon(transport.abort)

    server.connection_made = connection_made  # type: ignore[method-assign]


def max_handshakes(max_connections: int) -> int:
    """Return how many TLS handshakes there may be beside *max_connections* connections."""
    return max(1, max_connections // 4)


def room_for_connections(max_connections: int, *, tls: bool = False) -> int:
    """Raise the soft limit of open files to the hard one; return how many connections fit below it.

    With *tls* there is room for max_handshakes beside them.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return max_connections
    room = max(1, (soft - _SPARE_FILES) * 4 // 5 if tls else soft - _SPARE_FILES)
    if room < max_connections:
        _log.warning(
            "Only %d connections fit the limit of open files (%d), fewer than listen.max_connections (%d)",
            room,
            soft,
            max_connections,
        )
    return min(max_connections, room)
