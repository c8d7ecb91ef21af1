"""Counts what becomes of requests: answered = refused (by reason) + probes + stored; hang-ups apart."""

from __future__ import annotations

from collections.abc import Collection

from gateway import answer
from gateway.metrics import Metrics
from gateway.outcome import Outcome, Reports


class Tally(Reports):
    """The counters of the callback port; what comes with every callback reaches them when they are read."""

    def __init__(self, app_ids: Collection[str], metrics: Metrics) -> None:
        self._metrics = metrics
        self._outcomes: dict[Outcome, int] = {}
        self._received_ms: dict[str, int] = {}
        self._apps: set[str] = set()
        # Why now: a sum over a series that is not there yet is nothing, and so is an alert on its silence.
        self._know(app_ids)
        for reason in (*answer.REFUSALS, "before_unstored"):
            metrics.requests_refused.labels(reason)
        for is_stored in ("yes", "no"):
            metrics.requests_hangups.labels(is_stored)
        metrics.before_reading(self._bring)

    def _know(self, app_ids: Collection[str]) -> None:
        """Count for these apps from now on; one that is gone is silent for ever, which is no fault."""
        gone, self._apps = self._apps.difference(app_ids), set(app_ids)
        for app_id in gone:
            self._metrics.last_callback.remove(app_id)
        for app_id in self._apps:
            self._metrics.callbacks_stored.labels(app_id)
            self._metrics.last_callback.labels(app_id)

    def answered(self, outcome: Outcome, took_s: float | None) -> None:
        if took_s is not None:
            self._metrics.answer_seconds.observe(took_s)
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1

    def _bring(self) -> None:
        found, self._outcomes = self._outcomes, {}
        for outcome, count in found.items():
            self._metrics.requests_answered.inc(count)
            if outcome.kind == "refused":
                self._metrics.requests_refused.labels(outcome.label).inc(count)
            elif outcome.kind == "probe":
                self._metrics.requests_probes.inc(count)
            else:
                self._metrics.callbacks_stored.labels(outcome.label).inc(count)
                if outcome.is_late:
                    self._metrics.answers_late.inc(count)
        for app_id in self._apps & self._received_ms.keys():
            self._metrics.last_callback.labels(app_id).set(self._received_ms[app_id] / 1000)

    def hung_up(self, outcome: Outcome | None) -> None:
        is_stored = outcome is not None and outcome.kind == "stored"
        self._metrics.requests_hangups.labels("yes" if is_stored else "no").inc()

    def evicted(self) -> None:
        self._metrics.connections_evicted.inc()

    def turned_away(self) -> None:
        self._metrics.connections_refused.inc()

    def handshake_failed(self) -> None:
        self._metrics.handshakes_failed.inc()

    def _note_callback(self, app_id: str, received_ms: int) -> None:
        self._received_ms[app_id] = received_ms
