"""What passes between the loop and the writer thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from gateway.errors import FatalError
from gateway.journal.files import Segment
from gateway.logs import where

StoredCall = Callable[[int, Exception | None], None]
"""Gets the position, and the fault instead: JournalFull (nothing was stored), FatalError (nobody knows)."""

log = logging.getLogger(__name__)


class Item:
    """One callback on its way to the disk, and whom to tell, once."""

    __slots__ = ("_call", "durable", "payload")

    def __init__(self, payload: bytes, call: StoredCall, durable: bool) -> None:
        self.payload = payload
        self.durable = durable
        self._call: StoredCall | None = call

    def tell(self, position: int, fault: Exception | None = None) -> None:
        """Tell what became of it, unless that was done."""
        call, self._call = self._call, None
        if call is None:
            return
        try:
            call(position, fault)
        except Exception as error:  # noqa: BLE001 - the others of its group have to be told too
            log.error("A callback was stored, and what comes after failed (%s)", where(error))


class Report(NamedTuple):
    """What the loop has to know after each change."""

    segments: tuple[Segment, ...]
    end: int
    """Durable bytes of the last segment."""
    size: int
    """Bytes of all segments."""
    head: int
    """Last durable position."""


class Posts(NamedTuple):
    """What the writer calls, in its own thread; each hands over to the loop."""

    written: Callable[[list[Item], int], None]
    """Items and the first one's position: in the file, not synced yet."""
    committed: Callable[[Report, list[Item], int, float], None]
    """Items and the first one's position, durable now, after so many seconds."""
    refused: Callable[[list[Item]], None]
    """No room: nothing of these items was stored."""
    changed: Callable[[Report], None]
    """Segments were removed, or room came or went."""
    failed: Callable[[FatalError, list[Item]], None]
    closed: Callable[[], None]
