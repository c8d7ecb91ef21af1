"""The last events that were published, for who looks: nothing is ever bound to the exchange for it."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence

_MAX_BYTES = 4 * 1_048_576


class Recent:
    """Batches of bodies as they went out; a batch that was sent again is there again.

    Bound: 4 MiB of bodies, or one batch. Costs a copy and an append a batch, whether anybody looks or not.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        # Why joined: bodies that outlive those around them would leave the heap full of holes (36 MB).
        self._batches: deque[tuple[int, bytes, array[int]]] = deque()
        self._bytes = 0
        self.count = 0
        """How many there were since the start; the number of the last one."""

    def note(self, bodies: Sequence[bytes]) -> None:
        """Take the *bodies* of a batch."""
        joined = b"".join(bodies)
        self._batches.append((self.count, joined, array("Q", map(len, bodies))))
        self.count += len(bodies)
        self._bytes += len(joined)
        while self._bytes > self._max_bytes and len(self._batches) > 1:
            self._bytes -= len(self._batches.popleft()[1])

    def newest(self, after: int = 0) -> list[tuple[int, bytes]]:
        """Return number and body of those behind the number *after* that are still here, the newest first."""
        found: list[tuple[int, bytes]] = []
        for before, bodies, sizes in reversed(self._batches):
            if before + len(sizes) <= after:
                break
            end = len(bodies)
            for at in range(len(sizes) - 1, max(0, after - before) - 1, -1):
                found.append((before + at + 1, bodies[end - sizes[at] : end]))
                end -= sizes[at]
        return found
