"""Processes of one gateway take turns at declaring, by locks that the kernel frees when one ends.

Two that bind a partition at the same time may leave it without keys (3.10). Who looks first after a deletion
mends it, so the others would never see it: it is told in the lock's file, for each to say what to replay.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import aiormq

from gateway.broker.rabbitmq.watched import Key
from gateway.errors import Unavailable

_WAIT_S = 10.0
_TRY_S = 0.02


class Turns:
    """One for all links of a broker; without a *path* this process is alone, and nothing is locked."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._here = asyncio.Lock()
        self._fd = self._feeding_fd = -1
        self._read = 0
        self._connection: object = None

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[list[Key]]:
        """Hold the others back; yields what they found deleted since the last turn. Raises Unavailable."""
        if self._path is None:
            yield []
            return
        async with self._here:  # Why: to the kernel all of one process are one
            await self._lock(self._path)
            try:
                yield self._news()
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def tell(self, gone: Iterable[Key]) -> None:
        """Tell the others, in one's turn, that *gone* were deleted."""
        if self._path is not None:
            told = "".join(f"{kind}\t{name}\n" for kind, name in gone).encode()
            self._read += os.write(self._fd, told)

    def is_first(self, connection: aiormq.abc.AbstractConnection) -> bool:
        """Say in one's turn whether no other process feeds RabbitMQ; this one does from now on.

        As long as *connection* stands the others are told that they are not the first.
        """
        if self._path is None:
            return True
        if self._feeding_fd < 0:
            self._feeding_fd = _open(self._path.with_suffix(".feeding"))
        self._connection = connection
        try:
            fcntl.flock(self._feeding_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_first = True
        except BlockingIOError:
            is_first = False
        fcntl.flock(self._feeding_fd, fcntl.LOCK_SH)
        connection.closing.add_done_callback(lambda closing: self._on_closed(connection))
        return is_first

    def _on_closed(self, connection: object) -> None:
        if connection is self._connection:
            fcntl.flock(self._feeding_fd, fcntl.LOCK_UN)

    async def _lock(self, path: Path) -> None:
        if self._fd < 0:
            self._fd = _open(path)
            self._read = os.fstat(self._fd).st_size
        ends_s = asyncio.get_running_loop().time() + _WAIT_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if asyncio.get_running_loop().time() > ends_s:
                    raise Unavailable("busy", f"another process holds {path} for {_WAIT_S:g} s") from None
                await asyncio.sleep(_TRY_S)
            else:
                return

    def _news(self) -> list[Key]:
        size = os.fstat(self._fd).st_size
        told = os.pread(self._fd, max(0, size - self._read), self._read).decode()
        self._read = size
        return [(kind, name) for kind, _, name in (line.partition("\t") for line in told.splitlines())]


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
