"""What becomes of an event behind the sink: acknowledged, later, parked, or passed over; each is counted."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence

from gateway.broker import Delivery
from gateway.errors import Poison, Unavailable
from gateway.worker.shift import Bench, GiveBack, Shift

_log = logging.getLogger(__name__)
_OUR_ID = re.compile(r"[0-9a-f]{32}")


class Fate:
    """Of one sink, for all its lanes. All methods raise Unavailable when the broker is gone."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._has_told_strange = False
        self.count_written = 0
        """Events, since the start."""

    async def written(self, shift: Shift, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge what is durable in the sink."""
        await shift.consumer.ack(deliveries)
        self.count_written += len(deliveries)
        self._bench.metrics.sink_written.labels(self._bench.name).inc(len(deliveries))

    async def without_strange(
        self, shift: Shift, deliveries: Sequence[Delivery], takes: Callable[[str], bool]
    ) -> Sequence[Delivery]:
        """Acknowledge what came by a pattern that the sink no longer has; return the others."""
        strange: list[Delivery] = []
        ours: list[Delivery] = []
        for delivery in deliveries:
            is_strange = delivery.is_routed and not takes(delivery.routing_key)
            (strange if is_strange else ours).append(delivery)
        if strange:
            await shift.consumer.ack(strange)
            self._bench.metrics.sink_skipped.labels(self._bench.name).inc(len(strange))
            self._tell_strange()
        return ours

    async def failed(self, shift: Shift, delivery: Delivery, failure: Poison | Unavailable) -> None:
        """Let an event come again later, or park it. GiveBack when too many fail."""
        limit = self._bench.limit
        if isinstance(failure, Unavailable) and delivery.attempt >= self._bench.config.max_attempts:
            failure = Poison("max_attempts", f"attempt {delivery.attempt} failed: {failure}")
        # Why sink_error too: what a fault of the sink's code keeps from being written is parked in the end.
        counts = isinstance(failure, Poison) or failure.reason == "sink_error"
        if counts and not limit.may_fail:
            raise GiveBack("limit")
        if isinstance(failure, Poison):
            await self.park(shift, delivery, failure)
        else:
            await self._retry(shift, delivery, failure)
        if counts:
            limit.failed()

    async def park(self, shift: Shift, delivery: Delivery, why: Poison) -> None:
        """Park an event."""
        reason = self._bench.standing.token(why.reason)
        await shift.consumer.park(delivery, reason)
        self._bench.metrics.sink_parked.labels(self._bench.name, reason).inc()
        _log.error(
            "Sink %s can't take event %s (%s: %s); it is parked in the dead queue",
            self._bench.name,
            # Why not any other id: a stranger on the broker could write into our log with it.
            delivery.message_id if _OUR_ID.fullmatch(delivery.message_id) else "of unknown origin",
            reason,
            why.detail,
        )

    async def _retry(self, shift: Shift, delivery: Delivery, why: Unavailable) -> None:
        reason = self._bench.standing.token(why.reason)
        await shift.consumer.retry(delivery, reason)
        self._bench.metrics.sink_retried.labels(self._bench.name, reason).inc()

    def _tell_strange(self) -> None:
        if not self._has_told_strange:
            self._has_told_strange = True
            _log.warning(
                "Sink %s gets events that none of its patterns matches; they are acknowledged and counted."
                " The broker keeps the bindings of older patterns until somebody removes them",
                self._bench.name,
            )
