"""What the log says of refusals that an operator can mend: seldom, and without a word of the caller's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gateway.errors import Refused

_log = logging.getLogger(__name__)
_PAUSE_S = 60
_MEANING = {
    "bad_signature": "their Sign matches none of the app's tokens: compare apps.<id>.tokens with the console",
    "no_signature": "they carry no Sign though the app has tokens: turn on authentication in the console",
    "stale_signature": "their RequestTime is too far from this machine's clock: check its time service",
    "forbidden_network": "they come from outside listen.allow_networks (or past listen.trusted_proxies)",
    "unknown_app": "their SdkAppid is not configured for that path",
    "journal_full": "the journal has no room: see journal.max_mb, journal.min_free_mb and the broker's state",
    "app_rate": "the app sends more than its max_per_s",
    "app_backlog": "more of the app's callbacks wait for the broker than its max_backlog_mb allows",
    "overloaded": "more requests are under way than listen.max_inflight or max_inflight_mb allows",
}


class Notes:
    """Says each explanation once, and each reason at most once a minute."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._explained: set[str] = set()
        self._next_s: dict[str, float] = {}

    def refused(self, refused: Refused) -> None:
        """Note a refusal; its detail is a sentence of ours, from a closed set."""
        if refused.detail and refused.reason in ("not_found", "unknown_app"):
            if refused.detail not in self._explained:
                self._explained.add(refused.detail)
                _log.warning("Callbacks are refused (%s): %s", refused.reason, refused.detail)
            return
        now_s = self._now_s()
        if refused.reason in _MEANING and now_s >= self._next_s.get(refused.reason, 0.0):
            self._next_s[refused.reason] = now_s + _PAUSE_S
            _log.warning(
                "Callbacks are refused (%s): %s. Said at most once a minute; the metric counts each",
                refused.reason,
                _MEANING[refused.reason],
            )
