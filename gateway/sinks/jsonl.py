"""The jsonl sink: one event a line in a file, exactly as it travelled, with one fsync per batch.

Everything that blocks happens on one thread (``lines``), what takes long on another (``closed``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from gateway.config import JsonlSink
from gateway.errors import Unavailable
from gateway.event import Event
from gateway.sinks import Failures
from gateway.sinks.lines import LineFile
from gateway.sinks.local import OwnThread

# Why a bound: the clock that says how old a file is may be set.
_MOST_S = 600.0
_log = logging.getLogger(__name__)


class Jsonl:
    """A file of events, ``config.path``; full ones are kept beside it as ``<path>.<UTC time>``."""

    def __init__(self, config: JsonlSink, name: str) -> None:
        self._file = LineFile(config, name)
        self._name = name
        self._thread = OwnThread(f"sink-{name}")
        self._timer: asyncio.TimerHandle | None = None
        self._chores: asyncio.Future[None] | None = None
        self._is_open = False

    async def open(self) -> None:
        """Take the lock, open the file and put right what a crash left at its end. Raises Unavailable."""
        self._is_open = True
        self._wake_in(await self._thread.run(self._open))

    async def write(self, events: Sequence[Event]) -> Failures:
        """Append *events*, in order; all or none is written. Raises Unavailable."""
        self._wake_in(await self._thread.run(lambda: self._append([event.body for event in events])))
        return {}

    async def close(self) -> None:
        """Close the file and free the lock."""
        self._is_open = False
        self._wake_in(None)
        await self._thread.end(self._file.close)

    def _open(self) -> float | None:
        self._file.open()
        return self._file.chores()

    def _append(self, bodies: Sequence[bytes]) -> float | None:
        self._file.append(bodies)
        return self._file.chores()

    def _wake_in(self, delay_s: float | None) -> None:
        """Do the file's chores in *delay_s*, whether events come or not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if delay_s is not None and self._is_open:
            self._timer = asyncio.get_running_loop().call_later(min(delay_s, _MOST_S), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._chores = asyncio.ensure_future(self._do_chores())

    async def _do_chores(self) -> None:
        try:
            self._wake_in(await self._thread.run(self._file.chores))
        except Unavailable as fault:
            # Why not raised: nobody waits; the next write finds the file closed, and opens it.
            _log.warning(
                "Sink %s: its file is closed (%s: %s); the next batch opens it",
                self._name,
                fault.reason,
                fault.detail,
            )
