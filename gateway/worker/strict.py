"""``order: strict``: an event that fails is tried again in place, and its conversation waits for it."""

from __future__ import annotations

import logging
import time

from gateway.broker import Delivery
from gateway.errors import Poison, Unavailable
from gateway.worker.fate import Fate
from gateway.worker.queues import Conversations, Part
from gateway.worker.shift import Bench, GiveBack, Shift

_log = logging.getLogger(__name__)


class Strict:
    """Of one lane. Bound: the worker takes no more while half of its prefetch is held here."""

    def __init__(self, bench: Bench, fate: Fate) -> None:
        self._bench = bench
        self._fate = fate
        self._failing: dict[int, Unavailable] = {}
        """Tag → why, of the part that is in hand."""
        self._is_told = False
        self.queue = Conversations()

    def note(self, delivery: Delivery, why: Unavailable) -> None:
        """Note that *delivery*, which is in hand, can't be written now."""
        self._failing[delivery.tag] = why

    async def settle(self, shift: Shift, part: Part) -> None:
        """Let the conversations of *part* go on, or wait for what was noted; park what has failed too long.

        Raises GiveBack, or Unavailable when the broker is gone.
        """
        failing, self._failing = self._failing, {}
        since_s, deliveries = part
        for delivery in deliveries:
            why = failing.get(delivery.tag)
            if why is None:
                self.queue.settled(delivery)
            elif self.queue.failed(delivery, since_s, time.monotonic()) > self._bench.config.strict_hold_s:
                await self._park(shift, delivery.key, why)
        self._tell(next(iter(failing.values()), None))

    def reset(self) -> None:
        """Forget everything: the consumer that it came from is closed."""
        self._failing.clear()
        self.queue.clear()

    async def _park(self, shift: Shift, key: str, why: Unavailable) -> None:
        """Park all events of the conversation *key*, in order."""
        if not self._bench.limit.may_fail:
            raise GiveBack("limit")
        events = self.queue.remove(key)
        detail = f"{why.reason} for more than strict_hold_s; {len(events)} of its conversation, in order"
        for delivery in events:
            await self._fate.park(shift, delivery, Poison("key_blocked", detail))
        self._bench.limit.failed()

    def _tell(self, why: Unavailable | None) -> None:
        if why is not None and not self._is_told:
            self._is_told = True
            _log.warning(
                "Sink %s can't write an event now (%s: %s); it is tried again, and its conversation waits",
                self._bench.name, why.reason, why.detail,
            )  # fmt: skip
        elif self._is_told and not self.queue.held:
            self._is_told = False
            _log.info("Sink %s: no conversation waits any more", self._bench.name)
