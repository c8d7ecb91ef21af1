"""Opening ports, and the limit of open files that bounds how many connections fit."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import ssl

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.errors import ConfigError

_log = logging.getLogger(__name__)
_SPARE_FILES = 256
_BACKLOG = 1024


class _TlsSite(web.TCPSite):
    """A site of HTTPS. Bound: a handshake, and the end of a connection, take at most *patience_s*."""

    def __init__(
        self, runner: web.BaseRunner, host: str, port: int, context: ssl.SSLContext, patience_s: float
    ) -> None:
        super().__init__(runner, host, port, ssl_context=context, backlog=_BACKLOG)
        self._patience_s = patience_s

    async def start(self) -> None:
        await web.BaseSite.start(self)
        assert self._runner.server is not None
        self._server = await asyncio.get_running_loop().create_server(
            self._runner.server,
            self._host,
            self._port,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=self._patience_s,
            ssl_shutdown_timeout=self._patience_s,
        )


async def listen_on(
    runner: web.AppRunner | web.ServerRunner,
    host: str,
    port: int,
    key: str,
    *,
    tls: ssl.SSLContext | None = None,
    patience_s: float = 60.0,
) -> None:
    """Listen on *host*:*port*; ConfigError that names *key* when that can't be.

    With *tls* the port speaks HTTPS, and callers have *patience_s* for the handshake.
    """
    try:
        if tls is None:
            await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        else:
            await _TlsSite(runner, host, port, tls, patience_s).start()
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


def room_for_connections(max_connections: int) -> int:
    """Raise the soft limit of open files to the hard one; return how many connections fit below it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return max_connections
    room = max(1, soft - _SPARE_FILES)
    if room < max_connections:
        _log.warning(
            "Only %d connections fit the limit of open files (%d), fewer than listen.max_connections (%d)",
            room,
            soft,
            max_connections,
        )
    return min(max_connections, room)
