"""The server of the callback port: its connections, their number, and whose they are."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from aiohttp.http import RawRequestMessage

from gateway.config import Listen
from gateway.errors import Refused
from gateway.networks import Networks, plain
from gateway.outcome import Answer, Reports
from gateway.server.connection import Connection
from gateway.server.requests import Memory
from gateway.server.wire import Wire


class Handler(Protocol):
    """Who decides on requests."""

    def judge(self, message: RawRequestMessage, remote: str) -> object:
        """Return the answer to a request by its head alone, or whatever ``take`` is to get of it."""
        ...

    def take(self, ticket: Any, body: bytes, started_s: float, reply: Callable[[Answer], None]) -> None:
        """Decide on a whole request; *reply* is called once, now or later.

        *started_s* is when its head had come, by ``time.perf_counter``.
        """
        ...

    def refuse(self, refused: Refused) -> Answer:
        """Return the answer to what the server itself refuses."""
        ...


class FrontServer:
    """The server of ``listen``: makes Connections and keeps their number within ``max_connections``.

    Has what ``web.ServerRunner`` asks of a server: being called, ``pre_shutdown``, ``shutdown``.
    """

    def __init__(self, receiver: Handler, listen: Listen, reports: Reports, max_connections: int) -> None:
        self.receiver = receiver
        self.reports = reports
        self.wire = Wire()
        self.max_connections = max_connections
        self.memory = Memory()
        self.is_draining = False
        # Why ordered: the first one that is idle is the one that has been so for longest.
        self._by_activity: dict[Connection, asyncio.Transport] = {}
        self._peers: dict[Connection, str] = {}
        self._per_peer: Counter[str] = Counter()
        self.configure(listen)

    def configure(self, listen: Listen) -> None:
        """Go by *listen* from now on; open connections keep their idle time and limits of a head."""
        self.listen = listen
        self.memory.limit(listen)
        self._networks = Networks.of((), listen.trusted_proxies)

    def __call__(self) -> Connection:
        return Connection(self, asyncio.get_running_loop())

    @property
    def connections(self) -> list[Connection]:
        return list(self._by_activity)

    def pre_shutdown(self) -> None:
        """Let every connection take no further request."""
        for connection in self.connections:
            connection.close()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's protocol
        """Wait for the requests under way, each at most *timeout* seconds, and end all connections."""
        await asyncio.gather(*(connection.shutdown(timeout) for connection in self.connections))

    @property
    def open_connections(self) -> int:
        return len(self._by_activity)

    def connection_made(self, handler: Connection, transport: asyncio.Transport) -> None:
        if not self.admit(handler, transport.get_extra_info("peername")):
            transport.abort()
            return
        self._by_activity[handler] = transport
        if len(self._by_activity) > self.max_connections:
            self._evict(handler)

    def connection_lost(self, handler: Connection) -> None:
        self._by_activity.pop(handler, None)
        self.dismiss(handler)

    def touch(self, handler: Connection) -> None:
        """Note that *handler*'s connection served a request just now."""
        transport = self._by_activity.pop(handler, None)
        if transport is not None:
            self._by_activity[handler] = transport

    def abort(self, handler: Connection) -> None:
        """End the connection now, whatever was not taken of its answers."""
        transport = self._by_activity.pop(handler, None)
        if transport is not None:
            # Why not close: what was written last would wait for a caller that may never take it.
            transport.abort()

    def admit(self, handler: Connection, address: Any) -> bool:
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

    def dismiss(self, handler: Connection) -> None:
        """Take back what ``admit`` counted."""
        peer = self._peers.pop(handler, None)
        if peer is not None:
            self._per_peer[peer] -= 1
            if not self._per_peer[peer]:
                del self._per_peer[peer]

    def _evict(self, newest: Connection) -> None:
        """End the longest idle connection, rather one by which no callback has come yet."""
        oldest: Connection | None = None
        oldest_idle: Connection | None = None
        for one in self._by_activity:
            if one is newest:
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
