"""The journal's one writer thread: groups of callbacks, one write and one fdatasync each.

It owns the segment and cursor files and never touches loop objects but to hand them back through ``post``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from gateway import config
from gateway.errors import FatalError
from gateway.journal.cursor import CursorKeeper
from gateway.journal.files import NO_SPACE
from gateway.journal.posts import Item, Posts, Report
from gateway.journal.recovery import Opened
from gateway.journal.room import CHECK_S, MB, Room
from gateway.record import header

log = logging.getLogger(__name__)

# Bound: a group is at most so many callbacks, or so many bytes (or a segment's) and one callback.
GROUP_RECORDS = 1024
GROUP_BYTES = 4 * MB
# Why: only whole segments can be given up, so with two of them one callback would hold up half of max_mb.
LEAST_SEGMENTS = 16
WRITTEN_SYNC_S = 0.1
TRIM_S = 5.0


class Writer:
    """Runs in a thread of its own until ``None`` comes out of the queue or the disk fails."""

    def __init__(
        self, limits: config.Journal, opened: Opened, posts: Posts, now_ms: Callable[[], int]
    ) -> None:
        self.queue: SimpleQueue[list[Item] | bool | None] = SimpleQueue()
        """What came in one turn of the loop; True only wakes; None ends."""
        self.cursor = CursorKeeper(opened.cursor_file, opened.cursor, opened.hint)
        self._posts = posts
        self._salt = opened.salt
        self._now_ms = now_ms
        self._lock = opened.lock
        self._segments = opened.segments
        self.room = Room(limits, opened.segments, self.cursor.settled)
        self._segment_bytes = min(limits.segment_mb * MB, self.room.max_bytes // LEAST_SEGMENTS)
        self._position = self._head = opened.head
        self._unsynced: list[list[Item]] = []
        self._first_unsynced = 0
        self._began_s = 0.0
        self._stopping = False
        self._group: list[Item] = []
        self._ahead: list[Item] = []
        """Taken from the queue, for the next group."""
        self._sync_due_s = 0.0
        self._trimmed_s = time.monotonic()

    def report(self) -> Report:
        """Return the durable state; used by the loop only before ``run`` starts."""
        segments = self._segments.all
        return Report(segments, segments[-1].size if segments else 0, self._segments.size, self._head)

    def run(self) -> None:
        """Write until told to end; every way out closes the files and reports ``closed``."""
        try:
            while not self._stopping or self._ahead:
                group = self._collect()
                if group:
                    self._commit(group)
                self._keep_house()
            self._finish()
        except Exception as error:  # noqa: BLE001 - whatever it is, no callback may be acknowledged any more
            self._fail(error)
        finally:
            self._close()
            self._posts.closed()

    def _collect(self) -> list[Item]:
        """Return what has come in since the last group, after waiting for something or the next duty."""
        most_bytes = min(GROUP_BYTES, self._segment_bytes)
        with suppress(Empty):
            if not self._ahead:
                self._take(self.queue.get(timeout=max(0.0, self._next_duty_s() - time.monotonic())))
            while not self._stopping and len(self._ahead) < GROUP_RECORDS:
                self._take(self.queue.get_nowait())
        size = at = 0
        for at, item in enumerate(self._ahead, 1):
            size += len(item.payload)
            if at == GROUP_RECORDS or size >= most_bytes:
                break
        group, self._ahead = self._ahead[:at], self._ahead[at:]
        return group

    def _take(self, came: list[Item] | bool | None) -> None:
        if isinstance(came, list):
            self._ahead += came
        elif came is None:
            self._stopping = True

    def _next_duty_s(self) -> float:
        due = min(self._trimmed_s + TRIM_S, self.cursor.next_duty_s())
        if self._unsynced:
            due = min(due, self._sync_due_s)
        return min(due, self.room.checked_s + CHECK_S) if self.room.is_full else due

    def _commit(self, group: list[Item]) -> None:
        """Write *group*; sync it when one of its callers waits for that."""
        self._group = group
        self._began_s = time.monotonic()
        if self.room.is_due(self._began_s):
            self._check_room(self._began_s)
        if self.room.must_refuse or not self._write(group):
            self._posts.refused(group)
            return
        if not self._unsynced:
            self._first_unsynced = self._position + 1
            self._sync_due_s = self._began_s + WRITTEN_SYNC_S
        self._unsynced.append(group)
        self._position += len(group)
        if all(item.durable for item in group):
            self._sync()
            return
        self._posts.written(group, self._position - len(group) + 1)
        if any(item.durable for item in group):
            self._sync()

    def _write(self, group: list[Item]) -> bool:
        """Append *group* as a whole, at the cost of confirmed segments; False when the disk has no room."""
        parts: list[bytes] = []
        for position, item in enumerate(group, self._position + 1):
            parts += (header(position, item.payload, self._salt), item.payload)
        data = b"".join(parts)
        while self.room.make_place(len(data), self._position):
            try:
                self._roll(len(data))
                self._segments.append(data, self._now_ms())
                return True
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
            if not self.room.give_up(self._position):
                self.room.no_space(len(data))
                break
        self._changed()
        return False

    def _roll(self, coming: int) -> None:
        """See to it that there is an active segment with room for *coming* bytes."""
        now_ms = self._now_ms()
        is_over = self._segments.active_size + coming > self._segment_bytes
        if self._segments.has_records() and (is_over or self.room.is_aged(now_ms)):
            self._close_active()
            self.room.trim(self._position, now_ms)
        if self._segments.active is None:
            self._segments.begin(self._position + 1, now_ms)

    def _close_active(self) -> None:
        if self._unsynced:
            self._sync()
        self._segments.close_active()

    def _sync(self) -> None:
        """Make all that was written durable, then tell so."""
        self._segments.sync()
        items = [item for group in self._unsynced for item in group]
        self._unsynced = []
        self._head = self._position
        self._posts.committed(self.report(), items, self._first_unsynced, time.monotonic() - self._began_s)

    def _keep_house(self) -> None:
        now_s = time.monotonic()
        if self._unsynced and now_s >= self._sync_due_s:
            self._sync()
        self.cursor.keep(now_s, self._head)
        if self.room.is_full and self.room.is_due(now_s):
            self._check_room(now_s)
        if now_s >= self._trimmed_s + TRIM_S:
            self._trim(now_s)

    def _trim(self, now_s: float) -> None:
        self._trimmed_s = now_s
        before, now_ms = self._segments.all, self._now_ms()
        if self.room.is_aged(now_ms):
            self._close_active()
        self.room.trim(self._position, now_ms)
        if self._segments.all != before:
            self._changed()
        self._check_room(now_s)

    def _check_room(self, now_s: float) -> None:
        was_full, before = self.room.is_full, self._segments.all
        self.room.check(now_s, self._position)
        if self.room.is_full != was_full or self._segments.all != before:
            self._changed()

    def _changed(self) -> None:
        """Tell the loop about segments and room; sync first, because a report holds durable bytes only."""
        if self._unsynced:
            self._sync()
        else:
            self._posts.changed(self.report())

    def _finish(self) -> None:
        if self._unsynced:
            self._sync()
        self.cursor.finish(self._head)

    def _fail(self, error: Exception) -> None:
        text = (
            f"journal {self._segments.folder}: {error}. Nothing more is acknowledged, because it may not be "
            "on disk; check the disk, then start again: what was acknowledged is kept"
        )
        log.critical("%s", text, exc_info=None if isinstance(error, OSError) else error)
        items = [item for group in (*self._unsynced, self._group, self._ahead) for item in group]
        self._posts.failed(FatalError(text), items)

    def _close(self) -> None:
        for close in (self._segments.close_active, self.cursor.close, self._lock.release):
            with suppress(OSError):
                close()
