"""What is said of a broker that takes no events: when that begins, when its reason changes, when it ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gateway.errors import Unavailable

_log = logging.getLogger(__name__)


class Outage:
    """Of one journal's callbacks."""

    def __init__(self) -> None:
        self.reason = ""
        """Why the broker takes nothing; empty while it does, or was not asked yet."""
        self._since_s = 0.0
        self._waited = 0

    def trying(self, waiting: int) -> None:
        """Note that *waiting* callbacks are there to be sent now."""
        self._waited = waiting

    def note(
        self, fault: Unavailable, waiting: int, oldest_ms: Callable[[], int | None], delay_s: float
    ) -> None:
        """Note *fault*; *oldest_ms* says when the oldest callback came (Unix), which takes time to find."""
        if fault.reason == self.reason:
            return
        if not self.reason:
            self._since_s = time.monotonic()
        self.reason = fault.reason
        came_ms = oldest_ms()
        _log.warning(
            "The broker takes no events (%s); %d callbacks wait on disk, the oldest for %.0f s;"
            " next try in %.1f s",
            fault,
            waiting,
            0.0 if came_ms is None else max(0.0, time.time() - came_ms / 1000),
            delay_s,
        )

    def end(self) -> None:
        """Note that the broker takes events; nothing when it did before."""
        if self.reason:
            away_s = time.monotonic() - self._since_s
            _log.info("The broker takes events again after %.1f s; %d callbacks wait", away_s, self._waited)
            self.reason = ""
