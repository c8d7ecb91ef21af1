"""Opening ports, and the limit of open files that bounds how many connections fit."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
from collections.abc import Sequence

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.errors import ConfigError
from gateway.ports.door import AT_ONCE, BACKLOG, Https, Site

__all__ = [
    "Https",
    "bound_sockets",
    "limit_connections",
    "listen_by",
    "listen_on",
    "max_handshakes",
    "room_for_connections",
]
_log = logging.getLogger(__name__)
_SPARE_FILES = 256


async def bound_sockets(host: str, port: int, key: str) -> list[socket.socket]:
    """Return a socket for each address that *host* has ("": all of this machine's), bound to *port*.

    Nobody can connect before one listens. Raises ConfigError that names *key*.
    """
    # Why a server that never serves: it finds and binds the addresses as the one for plain HTTP does.
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
        sockets = [socket.socket(fileno=os.dup(one.fileno())) for one in server.sockets]
        server.close()
        for one in sockets:
            one.setblocking(False)
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, key, error) from error
    return sockets


async def listen_by(
    runner: web.ServerRunner, sockets: Sequence[socket.socket], key: str, https: Https | None
) -> None:
    """Take callers from bound *sockets* that other processes take callers from, too; ConfigError."""
    try:
        await Site(runner, sockets, https, 1).start()
    except OSError as error:  # another program was faster
        await runner.cleanup()
        host, port = sockets[0].getsockname()[:2]
        raise _cannot_listen(host, port, key, error) from error


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
            await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
        else:
            sockets = await bound_sockets(host, port, key)
            await Site(runner, sockets, https, AT_ONCE).start()
    except ConfigError:
        await runner.cleanup()
        raise
    except (OSError, UnicodeError) as error:
        await runner.cleanup()
        raise _cannot_listen(host, port, key, error) from error


def _cannot_listen(host: str, port: int, key: str, error: OSError | UnicodeError) -> ConfigError:
    """Return what to tell of *error*; a UnicodeError comes of a host that is no host name."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        said = f"{host}:{port} is in use by another program; stop that or choose another port"
    else:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        said = f"can't listen on {host}:{port}: {reason or error}"
    return ConfigError(f"{key}: {said}")


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
