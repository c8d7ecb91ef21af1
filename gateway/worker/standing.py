"""How a sink stands towards its worker: since when it takes nothing, why, and when it may be tried again."""

from __future__ import annotations

import logging
import math
import re
import time

from gateway.errors import Unavailable
from gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_TOKEN = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MOST_REASONS = 50
_LIMIT = -1


class Standing:
    """What the lanes of a sink know together. A lane is named by its number."""

    def __init__(self, name: str, metrics: Metrics) -> None:
        self._name = name
        self._metrics = metrics
        self._faults: dict[int, str] = {}
        """Lane → why it waits."""
        self._since_s: float | None = None
        """Unix time of the first failure behind which nothing was written."""
        self._told = self._shown = ""
        self._reasons: set[str] = set()
        self._has_answered = False
        self.is_stopped = False
        """The sink may be tried again only after a restart of the process."""
        self.not_before_s = 0.0
        """Until then (monotonic) no lane tries, because the sink has named a time."""
        self._show()

    @property
    def trouble(self) -> str:
        """Why nothing, or not everything, is written; empty while all is well."""
        reason = next(iter(self._faults.values()), "")
        if self.is_stopped:
            return f"has stopped ({reason}): mend it, then restart this process"
        return f"takes nothing ({reason}, for {self._away_s():.0f} s)" if reason else ""

    def token(self, reason: str) -> str:
        """Return *reason* if it may label a metric: a token, and one of few; a sink may be anybody's code."""
        reason = str(reason)
        if reason not in self._reasons:
            if len(self._reasons) >= _MOST_REASONS or not _TOKEN.fullmatch(reason):
                return "other"
            self._reasons.add(reason)
        return reason

    def failed(self, lane: int, fault: Unavailable, delay_s: float) -> None:
        """Note that the sink took nothing of *lane*, which tries again in *delay_s*."""
        reason = self._faults[lane] = self.token(fault.reason)
        if self._since_s is None:
            self._since_s = time.time()
        if fault.wait_s:
            self.not_before_s = max(self.not_before_s, time.monotonic() + fault.wait_s)
        if math.isinf(fault.wait_s) and not self.is_stopped:
            self.is_stopped = True
            self._told = reason
            _log.error(
                "Sink %s has stopped (%s: %s); its events wait. Mend it, then restart this process",
                self._name, reason, fault.detail,
            )  # fmt: skip
        elif reason != self._told:
            self._told = reason
            _log.warning(
                "Sink %s takes nothing (%s: %s); its events wait; next try in %.1f s",
                self._name, reason, fault.detail, delay_s,
            )  # fmt: skip
        self._show()

    def answered(self, lane: int) -> None:
        """Note that the sink of *lane* is open."""
        self._has_answered = True
        if self._faults.pop(lane, "") and not self._faults:
            _log.info("Sink %s answers after %.1f s; it is given events", self._name, self._away_s())
        self._show()

    def wrote(self, lane: int) -> None:
        """Note that the sink took events of *lane*."""
        if self._since_s is None:
            return
        was_away = self._faults.pop(lane, "")
        if not self._faults:
            if was_away:  # else it has answered before, and that was said
                _log.info("Sink %s takes events again after %.1f s", self._name, self._away_s())
            self._since_s, self._told = None, ""
        self._show()

    def limited(self, detail: str) -> None:
        """Note that the parking limit holds everything back."""
        if self._faults.setdefault(_LIMIT, "parking_limit") and self._since_s is None:
            self._since_s = time.time()
        _log.error(
            "Sink %s would park too much (%s); its events stay in the queue, and one is tried now and then."
            " Look at its dead queue: is it a fault of a new release, or of the sink?",
            self._name, detail,
        )  # fmt: skip
        self._show()

    def unlimited(self) -> None:
        """Note that an event was written although the limit was reached."""
        self.wrote(_LIMIT)

    def _away_s(self) -> float:
        return 0.0 if self._since_s is None else max(0.0, time.time() - self._since_s)

    def _show(self) -> None:
        reason = next(iter(self._faults.values()), "")
        self._metrics.sink_available.labels(self._name).set(self._has_answered and not reason)
        self._metrics.sink_stopped.labels(self._name).set(self.is_stopped)
        if reason != self._shown:
            if self._shown:
                self._metrics.sink_away_since.remove(self._name, self._shown)
            self._shown = reason
        if reason and self._since_s is not None:
            self._metrics.sink_away_since.labels(self._name, reason).set(self._since_s)
