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
# Bound: at most so long does publishing wait three times: a batch goes out at least every 0.1 s.
_MOST_S = 0.03


def _turn() -> Awaitable[None]:
    return asyncio.sleep(0)


async def give_way(
    worked_s: float,
    turn: Callable[[], Awaitable[None]] = _turn,
    now_s: Callable[[], float] = time.monotonic,
) -> None:
    """Return once others had the loop for long enough after *worked_s* of work, or it has nothing to do.

    *turn* returns when the loop has gone round once; *now_s* is a clock that only goes forward.
    """
    due_s = _OTHERS * min(worked_s, _MOST_S)
    while True:
        began_s = now_s()
        await turn()
        took_s = now_s() - began_s
        due_s -= took_s
        if took_s < _IDLE_TURN_S or due_s <= 0:
            return
