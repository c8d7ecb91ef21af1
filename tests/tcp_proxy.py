"""A TCP proxy that can be told to misbehave, for tests of what a network does to a connection.

Works in a thread of its own, so that it serves asyncio tests and tests of real processes alike; each method
may be called from any thread and has taken effect when it returns. *Up* is from the client to the server,
*down* the way back.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Literal
from urllib.parse import urlsplit

HOST = "127.0.0.1"
CHUNK_BYTES = 65536
SLOW_TICK_S = 0.05
Direction = Literal["up", "down", "both"]


class TcpProxy:
    """Listens on ``port`` from construction to ``close()`` and passes everything on to *target_port*.

    What is held up is not lost: it stands in here (one chunk a direction) and in the kernel's buffers, as on
    a real network, and goes on when ``flow()`` is called.
    """

    def __init__(self, target_port: int, target_host: str = HOST) -> None:
        self._target = (target_host, target_port)
        self._bytes_per_s = 0
        self._is_mute = False
        self._pairs: set[_Pair] = set()
        self._silent: list[socket.socket] = []
        """Sockets that nothing is said on any more, or never was."""
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self.accepted = 0
        """Connections taken so far."""
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._may_pass: dict[str, asyncio.Event] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._begin)

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def through(self, url: str) -> str:
        """Return *url* with its host and port replaced by the proxy's."""
        place = urlsplit(url)
        login, at, _ = place.netloc.rpartition("@")
        return place._replace(netloc=f"{login}{at}{HOST}:{self.port}").geturl()

    @property
    def open(self) -> int:
        """How many connections stand from client to server."""
        return len(self._pairs)

    def flow(self) -> None:
        """Pass everything on, at once, in both directions; take connections."""
        self._do(self._flow)

    def stall(self, direction: Direction = "both") -> None:
        """Hold all bytes of a direction, the end of the stream included; connections stay, new ones too.

        The other direction flows.
        """
        self._do(lambda: self._stall(direction))

    def slow(self, bytes_per_s: int) -> None:
        """Pass at most this much on, in each direction of each connection."""
        self._do(lambda: setattr(self, "_bytes_per_s", bytes_per_s))

    def mute(self) -> None:
        """Accept new connections and never say anything on them; those that stand go on."""
        self._do(lambda: setattr(self, "_is_mute", True))

    def cut(self) -> None:
        """End all connections on both sides with a reset; new ones work."""
        self._do(self._cut)

    def refuse(self) -> None:
        """Cut, and refuse new connections until ``flow()``."""
        self._do(self._refuse)

    def half_open(self) -> None:
        """End all connections on the client's side; the server hears nothing of it, now or later."""
        self._do(self._half_open)

    def black_hole(self) -> None:
        """Pass nothing on any more for the connections that stand, and end none; new ones work."""
        self._do(self._black_hole)

    def close(self) -> None:
        """End everything."""
        if self._thread.is_alive():
            self._do(self._end)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    def _do(self, change: Callable[[], object]) -> None:
        """Make *change* on the proxy's own loop; return when it has taken effect."""

        async def apply() -> None:
            result = change()
            if isinstance(result, Coroutine):
                await result

        asyncio.run_coroutine_threadsafe(apply(), self._loop).result(10)

    def _begin(self) -> None:
        self._may_pass = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._flow()

    def _flow(self) -> None:
        self._bytes_per_s = 0
        self._is_mute = False
        for event in self._may_pass.values():
            event.set()
        if self._listener is None:
            self._listener = socket.create_server((HOST, self.port), backlog=128)
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            self._accepting = self._loop.create_task(self._accept(self._listener))

    def _stall(self, direction: Direction) -> None:
        for name, event in self._may_pass.items():
            if direction in (name, "both"):
                event.clear()
            else:
                event.set()

    async def _cut(self) -> None:
        for pair in list(self._pairs):
            await self._forget(pair)
            _reset(pair.client)
            _reset(pair.server)

    async def _refuse(self) -> None:
        if self._listener is not None and self._accepting is not None:
            await _cancel([self._accepting])
            self._listener.close()
            self._listener = None
        await self._cut()

    async def _half_open(self) -> None:
        for pair in list(self._pairs):
            await self._forget(pair)
            _reset(pair.client)
            self._silent.append(pair.server)

    async def _black_hole(self) -> None:
        for pair in list(self._pairs):
            await self._forget(pair)
            self._silent += [pair.client, pair.server]

    async def _end(self) -> None:
        await self._refuse()
        for one in self._silent:
            one.close()

    async def _forget(self, pair: _Pair) -> None:
        self._pairs.discard(pair)
        await _cancel(pair.tasks)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = await self._loop.sock_accept(listener)
            self.accepted += 1
            if self._is_mute:
                self._silent.append(client)
                continue
            pair = _Pair(client, socket.socket())
            for one in (pair.client, pair.server):
                one.setblocking(False)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.add(pair)
            pair.tasks = [self._loop.create_task(self._serve(pair))]

    async def _serve(self, pair: _Pair) -> None:
        try:
            await self._loop.sock_connect(pair.server, self._target)
            pair.tasks += [
                self._loop.create_task(self._pump(pair.client, pair.server, "up")),
                self._loop.create_task(self._pump(pair.server, pair.client, "down")),
            ]
            await asyncio.gather(*pair.tasks[1:])
        except OSError:
            self._pairs.discard(pair)
            await _cancel(pair.tasks[1:])
            _reset(pair.client)
            _reset(pair.server)
            return
        self._pairs.discard(pair)
        pair.client.close()
        pair.server.close()

    async def _pump(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        while chunk := await self._loop.sock_recv(source, CHUNK_BYTES):
            while chunk:
                await self._may_pass[direction].wait()
                rate = self._bytes_per_s
                most = max(1, int(rate * SLOW_TICK_S)) if rate else CHUNK_BYTES
                piece, chunk = chunk[:most], chunk[most:]
                await self._loop.sock_sendall(target, piece)
                if rate:
                    await asyncio.sleep(len(piece) / rate)
        await self._may_pass[direction].wait()
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


class _Pair:
    """One connection: the client's socket and the one to the server, with what is at work on them."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.tasks: list[asyncio.Task[None]] = []


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Return once none of *tasks* uses its sockets any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()
