"""Where large JSON is read: away from the event loop, on one thread a stage.

One thread bounds how many large bodies of a stage are worked on at once; one a stage keeps a worker's batch
from waiting behind another's, and an answer from waiting behind either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

HEAVY_BYTES = 64 * 1024
"""More JSON than this takes long enough (up to 1 ms per KiB) to be read away from the event loop."""
Given = TypeVarTuple("Given")
Result = TypeVar("Result")


class Heavy:
    """The thread of one stage; it starts with the first large body and ends with the process."""

    def __init__(self, stage: str) -> None:
        """Take *stage*, the thread's name in a debugger."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"heavy-{stage}")

    async def run(self, size_bytes: int, work: Callable[[*Given], Result], *given: *Given) -> Result:
        """Return ``work(*given)``, made here when *size_bytes* of JSON are few, else on the thread.

        A call that is cancelled runs on to its end, and the next one waits behind it.
        """
        if size_bytes <= HEAVY_BYTES:
            return work(*given)
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *given)
