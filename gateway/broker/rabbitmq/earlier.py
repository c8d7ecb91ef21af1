"""When to read the queues that a sink had with another number of partitions: before those it has now.

They stay, empty, after that; what may still come to one is read beside the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from gateway.broker.rabbitmq.consume import Consumer

_log = logging.getLogger(__name__)
PATIENCE_S = 60.0
_LOOKS = 2


class Queue(Protocol):
    """One of the queues, as who reads it knows it."""

    queue: str
    is_single: bool
    """It gives to one consumer at a time."""
    is_wanted: bool
    consumer: Consumer | None


class Earlier:
    """Decides; asks nobody."""

    def __init__(
        self, sink: str, parts: Sequence[Queue], now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.parts = parts
        self._sink = sink
        self._now_s = now_s
        self._empty_looks = 0
        self._least: int | None = None
        self._since_s = now_s()
        self.is_done = not parts
        """What the sink has now may be read."""

    def decide(self, standing: Mapping[str, tuple[int, int]]) -> None:
        """Say which queues are wanted, by (events that are ready, consumers) of each."""
        is_held = False
        for part in self.parts:
            ready, consumers = standing[part.queue]
            mine = part.consumer
            held = mine.given + mine.waiting if mine is not None else 0
            is_held = is_held or held > 0
            # Why: a queue without single active consumer would give to several, in no order.
            is_free = part.is_single or consumers <= (mine is not None)
            part.is_wanted = is_free and (ready > 0 or held > 0)
        if not self.is_done:
            self._look(standing, is_held=is_held)

    def _look(self, standing: Mapping[str, tuple[int, int]], *, is_held: bool) -> None:
        ready = sum(count for count, _ in standing.values())
        if self._least is None and ready:
            _log.info("Sink %s: %d events of its earlier partitions come first", self._sink, ready)
        if self._least is None or ready < self._least or is_held:
            self._least, self._since_s = ready, self._now_s()
        is_empty = not ready and not is_held and not any(consumers for _, consumers in standing.values())
        self._empty_looks = self._empty_looks + 1 if is_empty else 0
        # Why twice: what was routed just before they were unbound may be on its way.
        if self._empty_looks >= _LOOKS:
            self.is_done = True
        elif self._now_s() - self._since_s > PATIENCE_S:
            self.is_done = True
            _log.warning(
                "Sink %s: another worker has read its earlier partitions for %.0f s and they do not get empty"
                " (%d events); the present ones are read too. Restart that worker with this configuration",
                self._sink, PATIENCE_S, ready,
            )  # fmt: skip
