"""What passes between the loop and the writer thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from gateway.errors import FatalError
from gateway.journal.files import Segment


class Item(NamedTuple):
    """One callback on its way to the disk."""

    payload: bytes
    future: asyncio.Future[int]
    durable: bool


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
