"""Opening ports, and the limit of open files that bounds how many connections fit."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.errors import ConfigError

_log = logging.getLogger(__name__)
_SPARE_FILES = 256


async def listen_on(runner: web.AppRunner | web.ServerRunner, host: str, port: int, key: str) -> None:
    """Listen on *host*:*port*; ConfigError that names *key* when that can't be."""
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
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
