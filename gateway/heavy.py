"""Where large JSON is read: away from the event loop, on a thread or two a stage.

Few threads bound how many large bodies of a stage are worked on at once; those of its own keep a worker's
batch from waiting behind another's, and an answer from waiting behind either.
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
    """The threads of one stage; they start with the first large bodies and end with the process."""

    def __init__(self, stage: str, threads: int = 1) -> None:
        """Take *stage*, the threads' name in a debugger, and how many there may be."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"heavy-{stage}")

    async def run(self, size_bytes: int, work: Callable[[*Given], Result], *given: *Given) -> Result:
        """Return ``work(*given)``, made here when *size_bytes* of JSON are few, else on a thread.

        A call that is cancelled runs on to its end, and the next ones wait behind it.
        """
        if size_bytes <= HEAVY_BYTES:
            return work(*given)
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *given)
