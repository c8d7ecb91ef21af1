"""The segment files as the writer thread has them: the one that is written, and the closed ones."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from gateway.journal.files import (
    HEADER_BYTES,
    SEGMENT_MAGIC,
    Header,
    Segment,
    create,
    segment_path,
    sync_dir,
    write_all,
)


class Segments:
    """Appends, closes and removes segment files. Used by one thread; raises OSError as it comes."""

    def __init__(self, folder: Path, identity: Header, segments: tuple[Segment, ...]) -> None:
        """Take the *segments* that exist, all closed; ``reopen`` goes on with the last one."""
        self.folder = folder
        self._identity = identity
        starts = accumulate((segment.size for segment in segments), initial=0)
        self.closed = tuple(
            replace(segment, start=start) for segment, start in zip(segments, starts, strict=False)
        )
        self._closed_bytes = sum(segment.size for segment in segments)
        self.active: Segment | None = None
        self.created_ms = 0
        """When the active segment was begun."""
        self._fd = -1

    @property
    def all(self) -> tuple[Segment, ...]:
        return (*self.closed, self.active) if self.active else self.closed

    @property
    def size(self) -> int:
        """Bytes of all segment files."""
        return self._closed_bytes + self.active_size

    def reopen(self, created_ms: int) -> None:
        """Go on writing at the end of the last segment, and make sure that what stands there is durable."""
        *closed, last = self.closed
        # Why: a killed process may have left whole records that were never synced; they count from now on.
        self._fd = os.open(last.path, os.O_RDWR | os.O_CLOEXEC)
        os.fdatasync(self._fd)
        self.closed, self.active, self.created_ms = tuple(closed), last, created_ms
        self._closed_bytes -= last.size

    def begin(self, first: int, now_ms: int) -> None:
        """Create the segment whose first record has the position *first*; the name is durable on return."""
        header = replace(self._identity, first=first, created_ms=now_ms).pack(SEGMENT_MAGIC)
        path = segment_path(self.folder, first)
        self._fd = create(path, header)
        start = self.closed[-1].start + self.closed[-1].size if self.closed else 0
        self.active, self.created_ms = Segment(first, path, len(header), now_ms, start), now_ms

    def append(self, data: bytes, now_ms: int) -> None:
        """Write *data* at the end of the active segment; on an error the file is as long as before."""
        assert self.active is not None
        size = self.active.size
        try:
            write_all(self._fd, data, size)
        except OSError:
            os.ftruncate(self._fd, size)
            raise
        self.active = replace(self.active, size=size + len(data), touched_ms=now_ms)

    @property
    def active_size(self) -> int:
        """Bytes of the active segment, 0 when there is none."""
        return self.active.size if self.active else 0

    def has_records(self) -> bool:
        """Say whether there is an active segment that holds more than its header."""
        return self.active_size > HEADER_BYTES

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close_active(self) -> None:
        """Write no more to the active segment, which must be synced."""
        if self.active is not None:
            fd, self._fd = self._fd, -1
            self._closed_bytes += self.active.size
            self.closed, self.active = (*self.closed, self.active), None
            os.close(fd)

    def probe(self, size: int) -> None:
        """Raise OSError unless the disk has room for *size* bytes."""
        path = self.folder / "probe"
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, bytes(size), 0)
        finally:
            os.close(fd)
            path.unlink()

    def behind(self, cursor: int, head: int) -> int:
        """Return how many closed segments, from the oldest, hold no position above *cursor*."""
        following = [segment.first for segment in self.all[1:]]
        if self.active is None:
            following.append(head + 1)
        return sum(first - 1 <= cursor for first in following[: len(self.closed)])

    def drop(self, count: int) -> None:
        """Remove the *count* oldest closed segments from the disk."""
        if count:
            for segment in self.closed[:count]:
                segment.path.unlink(missing_ok=True)
                self._closed_bytes -= segment.size
            self.closed = self.closed[count:]
            sync_dir(self.folder)
