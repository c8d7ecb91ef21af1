"""The cursor file: up to which position the broker has confirmed, in two slots that are written in turn."""

from __future__ import annotations

import os
import time
from pathlib import Path
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from gateway.journal.files import NO_SPACE, create, write_all
from gateway.record import Salt

_SLOT = Struct(">4sQQQQQQI")
_MAGIC = b"IMJC"
# Why: a page (and sector) each, so that a torn write of one slot cannot hurt the other.
_SPACING = 4096
# Why 50 ms: what a killed process sends again stays small, at 20 writes to the page cache a second.
WRITE_S = 0.05
SYNC_S = 1.0


class Hint(NamedTuple):
    """Where in the files a record starts: shortens the search, and is checked before use."""

    position: int
    segment: int
    """First position of the segment that holds it."""
    offset: int
    """Bytes from the segment's start."""


class Progress(NamedTuple):
    """What one slot says."""

    cursor: int
    head: int
    """Last position known to be durable when the slot was written; at a clean close the very last."""
    hint: Hint


NONE = Progress(0, 0, Hint(0, 0, 0))


class CursorFile:
    """Two slots, of which the valid one with the higher generation counts. Losing it only sends again."""

    def __init__(self, path: Path, salt: Salt, *, writable: bool = True) -> None:
        """Open or create the file; ``latest`` is None when no slot is valid."""
        self._salt = salt
        self.was_there = path.exists()
        if writable and not self.was_there:
            self._fd = create(path, bytes(2 * _SPACING))
        else:
            self._fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        if writable:
            os.fdatasync(self._fd)
        slots = [self._read(0), self._read(1)]
        self._generation = max(generation for generation, _ in slots)
        self._target = 0 if slots[1][0] > slots[0][0] else 1
        self.latest: Progress | None = slots[1 - self._target][1]
        self.written = self.latest or NONE
        self.durable = self.written

    def write(self, progress: Progress) -> None:
        """Put *progress* into the slot that was not synced last: now it survives this process.

        Where the disk has no room for it the file says less for now; that only sends again.
        """
        # Why the same slot until the next sync: the other one is the last that surely is on disk.
        self._generation += 1
        body = _SLOT.pack(_MAGIC, self._generation, progress.cursor, progress.head, *progress.hint, 0)[:-4]
        try:
            write_all(self._fd, body + self._crc(body), self._target * _SPACING)
        except OSError as error:
            # Why: file systems that copy on write need room even here. The slot may be half overwritten.
            if error.errno not in NO_SPACE:
                raise
            self.written = self.durable
        else:
            self.written = progress

    def sync(self) -> None:
        """Make what was written durable."""
        os.fdatasync(self._fd)
        # Why not always: where nothing new was written, the other slot is the only one that holds.
        if self.written is not self.durable:
            self.durable = self.written
            self._target = 1 - self._target

    def close(self) -> None:
        os.close(self._fd)

    def _read(self, slot: int) -> tuple[int, Progress | None]:
        raw = os.pread(self._fd, _SLOT.size, slot * _SPACING)
        # Why salted: a cursor that was copied from another journal would skip callbacks here.
        if len(raw) != _SLOT.size or raw[:4] != _MAGIC or self._crc(raw[:-4]) != raw[-4:]:
            return 0, None
        _, generation, cursor, head, position, segment, offset, _ = _SLOT.unpack(raw)
        return generation, Progress(cursor, head, Hint(position, segment, offset))

    def _crc(self, body: bytes) -> bytes:
        return crc32(body, self._salt.header).to_bytes(4, "big")


class CursorKeeper:
    """Brings the cursor from the loop to the disk, seldom enough to cost nothing; for the writer thread."""

    def __init__(self, file: CursorFile, cursor: int, hint: Hint) -> None:
        self._file = file
        self.confirmed = (cursor, hint)
        """Cursor and a hint at or before it; set by the loop."""
        self._is_told = False
        self._written_s = float("-inf")
        self._synced_s = time.monotonic()

    def confirm(self, cursor: int, hint: Hint) -> bool:
        """Take over the cursor; True when the thread has to be woken for it. Called on the loop."""
        # Why in this order: whoever clears the flag reads the cursor afterwards, so no change goes unseen.
        self.confirmed = (cursor, hint)
        if self._is_told:
            return False
        self._is_told = True
        return True

    @property
    def is_stale(self) -> bool:
        """True while the file says less than the loop."""
        return self.confirmed[0] > self._file.written.cursor

    def next_duty_s(self) -> float:
        """Return when ``keep`` has something to do (``time.monotonic``); infinity when nothing is due."""
        due = self._written_s + WRITE_S if self.is_stale else float("inf")
        if self._file.written is not self._file.durable:
            due = min(due, self._synced_s + SYNC_S)
        return due

    def keep(self, now_s: float, head: int) -> None:
        """Write and sync what is due."""
        if self.is_stale and now_s >= self._written_s + WRITE_S:
            self._write(now_s, head)
        if self._file.written is not self._file.durable and now_s >= self._synced_s + SYNC_S:
            self._synced_s = now_s
            self._file.sync()

    def settled(self, position: int) -> int:
        """Return the durable cursor; make it durable first when it has reached *position*."""
        # Why: a segment that is gone while the cursor on disk still points before it would look like a loss.
        if self._file.durable.cursor < position <= self.confirmed[0]:
            self._write(self._written_s, self._file.written.head)
            self._file.sync()
        return self._file.durable.cursor

    def finish(self, head: int) -> None:
        """Make cursor and head durable: the next start sees it if the last records are gone."""
        self._write(self._written_s, head)
        self._file.sync()

    def close(self) -> None:
        self._file.close()

    def _write(self, now_s: float, head: int) -> None:
        self._written_s = now_s
        self._is_told = False
        cursor, hint = self.confirmed
        self._file.write(Progress(cursor, head, hint))
