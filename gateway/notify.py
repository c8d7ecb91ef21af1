"""Tells the service manager that the process is ready, goes on, and stops; where there is none, nobody."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from gateway.config import ServiceManager

_PARTS = 3


class Notify:
    """One process's line to its service manager. One that is gone or does not listen disturbs nothing."""

    def __init__(self, manager: ServiceManager) -> None:
        self._manager = manager

    async def run(self) -> None:
        """Say that the process is ready, then, as often as asked, that the loop turns; until cancelled."""
        self._say("READY=1")
        if not self._manager.watchdog_s:
            await asyncio.Event().wait()
        while True:
            # Why a third: two of three may come late before the manager ends the process.
            await asyncio.sleep(self._manager.watchdog_s / _PARTS)
            self._say("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the process stops by itself or as told."""
        self._say("STOPPING=1")

    def _say(self, words: str) -> None:
        address = self._manager.socket
        if not address:
            return
        if address.startswith("@"):
            address = "\0" + address[1:]
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            line.sendto(words.encode(), address)
