"""Whether the senders' clock and ours agree, told by the RequestTime of what was signed with our tokens."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping

from prometheus_client import Gauge

from gateway.errors import Refused

_log = logging.getLogger(__name__)
_LAST = 20
_PAUSE_S = 60


def is_stale(refusal: Refused | None) -> bool:
    """Say whether the Sign matched and only its time was wrong."""
    return refusal is not None and refusal.reason == "stale_signature"


class ClockWatch:
    """Sets the skew of each app, and says so loudly when most of its last signed requests were stale."""

    def __init__(self, skew: Gauge, window_s: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self._skew = skew
        self._window_s = window_s
        self._now_s = now_s
        self._last_skew_s: dict[str, int] = {}
        self._stale: dict[str, deque[bool]] = {}
        self._next_s: dict[str, float] = {}

    def allow(self, window_s: int) -> None:
        """Let requests be so many seconds off from now on."""
        self._window_s = window_s

    def signed(self, params: Mapping[str, str], now_ms: int) -> None:
        """Note a request whose Sign has matched, stale or not; *params* are those of its query."""
        app_id = params["sdkappid"]
        skew_s = int(params["requesttime"]) - now_ms // 1000
        # Why the two questions: this comes for every callback, and nearly always with nothing new.
        if self._last_skew_s.get(app_id) != skew_s:
            self._last_skew_s[app_id] = skew_s
            self._skew.labels(app_id).set(skew_s)
        is_stale_now = abs(skew_s) > self._window_s
        if not is_stale_now and app_id not in self._stale:
            return
        last = self._stale.setdefault(app_id, deque(maxlen=_LAST))
        last.append(is_stale_now)
        if last[-1] and 2 * sum(last) > _LAST and self._now_s() >= self._next_s.get(app_id, 0.0):
            self._next_s[app_id] = self._now_s() + _PAUSE_S
            _log.error(
                "App %s: %d of its last %d signed requests were refused as stale (RequestTime %d s %s this"
                " machine's clock, listen.signature_window_s is %d). Either this machine's clock is wrong:"
                " check its time service; or the sender's is, or somebody sends old requests again",
                app_id,
                sum(last),
                len(last),
                abs(skew_s),
                "ahead of" if skew_s > 0 else "behind",
                self._window_s,
            )
