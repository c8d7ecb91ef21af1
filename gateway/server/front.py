"""The server of the callback port: its connections, their number, and whose they are."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.config import Listen
from gateway.networks import Networks, plain
from gateway.outcome import Reports
from gateway.server.connection import Connection

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

# Why silenced: aiohttp logs the stranger's bytes with every bad request; what matters of it we count.
_quiet = logging.getLogger(f"{__name__}.aiohttp")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


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
