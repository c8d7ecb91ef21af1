"""How much the journal may hold: retention, ``max_mb``, ``min_free_mb``, and what is given up first."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from gateway import config
from gateway.journal.files import NO_SPACE
from gateway.journal.segments import Segments

log = logging.getLogger(__name__)

MB = 1024 * 1024
CHECK_S = 0.25
# Why: else a broker that is slow, or a file that comes and goes, would open and shut the door many times a
#      second, and who may knock could not tell.
HOLD_S = 5.0
_DAY_MS = 24 * 3600 * 1000
_MINUTE_MS = 60 * 1000
_PROBE_BYTES = 4 * MB


class Room:
    """Decides when callbacks are refused and which segments go. Used by the writer thread.

    ``is_full`` is read by the loop, which may also set it (when what is pending would not fit), and sets
    ``held_bytes``.
    """

    def __init__(self, limits: config.Journal, segments: Segments, settled: Callable[[int], int]) -> None:
        """``settled(position)`` returns the durable cursor, after a sync if that may reach *position*."""
        self._limits = limits
        self._segments = segments
        self._settled = settled
        self.checked_s = float("-inf")
        self._failed_bytes = 0
        self._was_full = False
        self._full_since_s, self._full_bytes = 0.0, 0
        self.max_bytes = limits.max_mb * MB
        self.held_bytes = 0
        """Files that hold what is not confirmed: all that can't be given up."""
        self.disk_bytes = self._disk_bytes()
        """How large the segment files together can get on this disk, when it was looked at last."""
        self.is_full = False
        self.must_refuse = False
        """True while the disk has no room, even for what was let in already."""

    def is_due(self, now_s: float) -> bool:
        return now_s - self.checked_s >= CHECK_S

    def check(self, now_s: float, head: int) -> None:
        """Give up confirmed segments while the disk is short of room; then set ``is_full``, with hysteresis.

        Full at ``max_mb`` resp. below ``min_free_mb``; free again below 90 % resp. above 110 % after
        ``HOLD_S``, or once half of what was held then is confirmed.
        """
        self.checked_s = now_s
        full = self.is_full
        while not self._has_disk(full) and self.give_up(head):
            pass
        self.disk_bytes = self._disk_bytes()
        self.must_refuse = not self._has_disk(full)
        if not self._was_full:
            self._full_since_s, self._full_bytes = now_s, self.held_bytes
        is_early = now_s < self._full_since_s + HOLD_S and self.held_bytes >= 0.5 * self._full_bytes
        self.is_full = self.must_refuse or (full and (is_early or self.held_bytes > 0.9 * self.max_bytes))
        if self.is_full != self._was_full:
            self._was_full = self.is_full
            self._log()

    def no_space(self, size: int) -> None:
        """Refuse callbacks until *size* bytes, which the disk just had no room for, can be written."""
        self._failed_bytes = min(size, _PROBE_BYTES)
        self.is_full = self.must_refuse = True

    def make_place(self, size: int, head: int) -> bool:
        """Give up confirmed segments until *size* bytes more fit below ``max_mb``; False when they do not."""
        while self._segments.size + size > self.max_bytes:
            if not self.give_up(head):
                self.is_full = True
                return False
        return True

    def give_up(self, head: int) -> bool:
        """Remove the oldest segment that is wholly confirmed, retained or not; False when there is none."""
        segments = self._segments
        if not segments.closed and segments.has_records() and self._settled(head) >= head:
            segments.close_active()
        if not segments.closed or not segments.behind(self._settled(self._oldest_end(head)), head):
            return False
        segments.drop(1)
        return True

    def trim(self, head: int, now_ms: int) -> None:
        """Remove confirmed segments that are older than ``retain_h`` or beyond ``retain_mb``."""
        segments = self._segments
        kept = 0
        behind = segments.closed[: segments.behind(self._settled(self._oldest_end(head)), head)]
        for index in reversed(range(len(behind))):
            kept += behind[index].size
            age_ms = now_ms - behind[index].touched_ms
            if kept > self._limits.retain_mb * MB or age_ms > self._limits.retain_h * 3_600_000:
                segments.drop(index + 1)
                return

    def is_aged(self, now_ms: int) -> bool:
        """Say whether the active segment has to be closed so that it can be trimmed in time."""
        # Why a minute at least: retain_h 0 would else begin a file at every tick.
        limit_ms = max(_MINUTE_MS, min(_DAY_MS, self._limits.retain_h * 3_600_000))
        return self._segments.has_records() and now_ms - self._segments.created_ms > limit_ms

    def _oldest_end(self, head: int) -> int:
        """Return the last position of the oldest closed segment, as far as the names tell."""
        following = self._segments.all[1:2]
        return following[0].first - 1 if following else head

    def _has_disk(self, full: bool) -> bool:
        return self._has_free(1.1 if full else 1.0) and self._can_write()

    def _has_free(self, factor: float) -> bool:
        return self._free_bytes() >= factor * self._limits.min_free_mb * MB

    def _free_bytes(self) -> int:
        stat = os.statvfs(self._segments.folder)
        return int(stat.f_bavail * stat.f_frsize)

    def _disk_bytes(self) -> int:
        return max(0, self._free_bytes() - self._limits.min_free_mb * MB) + self._segments.size

    def _can_write(self) -> bool:
        """Try whether the disk takes again what it refused; quotas do not show in statvfs."""
        if self._failed_bytes:
            try:
                self._segments.probe(self._failed_bytes)
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                return False
            self._failed_bytes = 0
        return True

    def _log(self) -> None:
        if self.is_full:
            log.error(
                "journal is full (%d of %d MB wait; journal.max_mb %d, journal.min_free_mb %d): callbacks "
                "are refused with 503 until the broker has taken more or the disk has room",
                self.held_bytes // MB,
                min(self.max_bytes, self.disk_bytes) // MB,
                self._limits.max_mb,
                self._limits.min_free_mb,
            )
        else:
            log.warning("journal has room again: callbacks are taken")
