"""Whose turn it is on the event loop: callbacks come first, because their senders do not wait for long.

Publishing an event takes as long as accepting one, and both have one processor. What is accepted is safe in
the journal; what is not accepted in time is lost for ever, because nobody sends it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

_OTHERS = 3
"""While others want it, they have the loop for so many times what publishing took."""
_IDLE_TURN_S = 0.0003
"""A turn of the loop that is shorter has next to nothing to do: about five callbacks take so long."""
_RECENT_S = 0.1
"""So long after a full turn there are callbacks about: they wait for the disk, or for their next sender."""
_PAUSE_S = 0.001
# Bound: at most so long does publishing wait three times: a batch goes out at least every 0.1 s.
_MOST_S = 0.03


class Precedence:
    """Remembers whether callbacks came just now: those that wait for the disk come back at once."""

    def __init__(
        self,
        turn: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take *turn*, which returns after so many seconds, at least one round of the loop; and a clock."""
        self._turn, self._now_s = turn, now_s
        self._busy_until_s = 0.0

    async def give_way(self, worked_s: float) -> None:
        """Return once others had the loop for long enough after *worked_s* of work, or leave it idle."""
        due_s = _OTHERS * min(worked_s, _MOST_S)
        pause_s = 0.0
        while True:
            began_s = self._now_s()
            await self._turn(pause_s)
            ended_s = self._now_s()
            took_s = ended_s - began_s
            due_s -= took_s
            if took_s - pause_s >= _IDLE_TURN_S:
                self._busy_until_s = ended_s + _RECENT_S
            if due_s <= 0 or ended_s >= self._busy_until_s:
                return
            pause_s = _PAUSE_S
