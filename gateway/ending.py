"""How a process waits for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any

_END_S = 15.0


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, Any]) -> None:
    """Await *work*, or let it go when *event* is set."""
    task = asyncio.ensure_future(work)
    now = asyncio.ensure_future(event.wait())
    await asyncio.wait((task, now), return_when=asyncio.FIRST_COMPLETED)
    for one in (task, now):
        one.cancel()
    await asyncio.gather(task, now, return_exceptions=True)


async def cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel all *tasks* until they have ended."""
    # Why again and again: a driver that loses its connection in that moment may swallow a cancellation.
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_END_S)
