"""What bounds one app: callbacks a second, and bytes of its callbacks that wait for the broker. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from gateway.config import App
from gateway.errors import Refused

_MERGED_BYTES = 256 * 1024
_RECORD_BYTES = 64
"""What a callback takes in the journal beside query and body, about."""


class Bucket:
    """Lets *rate* callbacks a second through, and a burst of one second's worth."""

    def __init__(self, rate: float, now_s: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate)
        self._left = self._most
        self._at_s = now_s

    def take(self, now_s: float) -> bool:
        """Take one; False when there is none left. *now_s* is monotonic."""
        self._left = min(self._most, self._left + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Backlog:
    """Bytes of one app's callbacks that stand in the journal and are not confirmed, since the start.

    Neighbours are merged to steps of 256 KiB, so that a long outage costs no entry per callback; a step
    counts until all of it is confirmed.
    """

    def __init__(self) -> None:
        self.waiting_bytes = 0
        self._steps: deque[tuple[int, int]] = deque()

    def add(self, position: int, size: int) -> None:
        """Note that *size* bytes were stored at *position*, which is above all before."""
        self.waiting_bytes += size
        if self._steps and self._steps[-1][1] + size <= _MERGED_BYTES:
            size += self._steps.pop()[1]
        self._steps.append((position, size))

    def confirm(self, cursor: int) -> None:
        """Note that everything up to *cursor* is confirmed."""
        while self._steps and self._steps[0][0] <= cursor:
            self.waiting_bytes -= self._steps.popleft()[1]


class AppLimits:
    """Both bounds of one app; 0 is no bound."""

    def __init__(self, max_per_s: int, max_backlog_mb: int, now_s: float) -> None:
        self._bucket = Bucket(max_per_s, now_s) if max_per_s else None
        self._backlog = Backlog() if max_backlog_mb else None
        self._most_bytes = max_backlog_mb * 1_048_576
        self._bounds = (max_per_s, max_backlog_mb)

    def changed(self, max_per_s: int, max_backlog_mb: int, now_s: float) -> AppLimits:
        """Return these limits with other bounds; what waits goes on counting where it was counted before."""
        if self._bounds == (max_per_s, max_backlog_mb):
            return self
        new = AppLimits(max_per_s, max_backlog_mb, now_s)
        if new._backlog is not None and self._backlog is not None:
            new._backlog = self._backlog
        return new

    def check(self, now_s: float, cursor: int) -> None:
        """Raise Refused("app_rate" | "app_backlog") when the app is over one of its bounds."""
        if self._backlog is not None:
            self._backlog.confirm(cursor)
            if self._backlog.waiting_bytes >= self._most_bytes:
                raise Refused("app_backlog")
        if self._bucket is not None and not self._bucket.take(now_s):
            raise Refused("app_rate")

    def stored(self, position: int, size: int) -> None:
        """Note a callback at *position*; *size* is that of its query and body, in bytes."""
        if self._backlog is not None:
            self._backlog.add(position, size + _RECORD_BYTES)


def limits_of(apps: Mapping[str, App], before: Mapping[str, AppLimits], now_s: float) -> dict[str, AppLimits]:
    """Return the limits of those *apps* that have any, by app id; *before* are those in force until now."""
    none = AppLimits(0, 0, now_s)
    return {
        app_id: before.get(app_id, none).changed(app.max_per_s, app.max_backlog_mb, now_s)
        for app_id, app in apps.items()
        if app.max_per_s or app.max_backlog_mb
    }
