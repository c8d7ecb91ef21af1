"""What the lanes of a worker share: for its whole life (Bench), and while one consumer stands (Shift)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gateway.broker import Consumer
from gateway.config import SinkBase
from gateway.heavy import Heavy
from gateway.metrics import Metrics
from gateway.worker.limit import ParkingLimit
from gateway.worker.standing import Standing


class GiveBack(Exception):
    """What is held has to go back to the queue; ``why`` is ``away``, ``limit`` or ``held``, or empty."""

    def __init__(self, why: str = "") -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Bench:
    """Of one sink."""

    name: str
    config: SinkBase
    metrics: Metrics
    standing: Standing
    limit: ParkingLimit
    heavy: Heavy
    takes: Callable[[str], bool] | None
    """Says by the routing key whether an event is for this sink; None: all are."""


class Shift:
    """The time of one consumer: ends when somebody wants what is held to go back, or at a stop."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.ended = asyncio.Event()
        self.changed = asyncio.Event()
        """Set when a lane has nothing to do."""
        self.why = ""

    def end(self, why: str = "") -> None:
        """Let every lane finish the write that is under way, and no more."""
        self.why = self.why or why
        self.ended.set()

    async def pause(self, delay_s: float) -> None:
        """Return after *delay_s*; GiveBack when the shift ends before."""
        try:
            async with asyncio.timeout(delay_s):
                await self.ended.wait()
        except TimeoutError:
            return
        raise GiveBack
