"""The line of a connection: what its transport can do, and how it ends."""

from __future__ import annotations

import asyncio

from aiohttp.base_protocol import BaseProtocol
from aiohttp.tcp_helpers import tcp_keepalive


class Line(BaseProtocol):
    """A connection that takes bodies as they come, so the parser never needs to hold it up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.remote = ""
        self.is_half_closed = False
        """The caller has ended its side, and may still read."""
        self._is_plain = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        tcp_keepalive(self.transport)
        peer = self.transport.get_extra_info("peername")
        self.remote = str(peer[0]) if isinstance(peer, tuple) else ""
        self._is_plain = self.transport.get_extra_info("sslcontext") is None

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Do nothing."""

    @property
    def is_gone(self) -> bool:
        return self.transport is None or self.transport.is_closing()

    @property
    def can_half_close(self) -> bool:
        """Under TLS no side can end alone."""
        return self._is_plain

    def hold(self, is_held: bool) -> None:
        """Read nothing more, or go on reading."""
        if is_held != self._buffer_paused:
            (self._pause_reading_for_buffer if is_held else self._resume_reading_for_buffer)()

    def finish(self, *, is_more_coming: bool) -> bool:
        """Close once what was written is taken; say whether that may never be, or the caller has to close."""
        if self.transport is None or self.transport.is_closing():
            return False
        if is_more_coming and self._is_plain and not self.is_half_closed:
            # Why not close: what comes and is not read destroys the answer on its way.
            self.transport.write_eof()
            return True
        is_waiting = bool(self.transport.get_write_buffer_size())
        self.transport.close()
        return is_waiting
