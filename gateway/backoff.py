"""How long to wait before the next try: doubling, capped, with jitter. The randomness is passed in."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Delays between *first_s* and *most_s*; each is drawn from the upper half of its step.

    Half jitter keeps many clients from coming back together and still never retries at once.
    """

    def __init__(self, first_s: float, most_s: float, random: Callable[[], float]) -> None:
        """Take *random* as a source of floats in [0, 1)."""
        self._first_s = first_s
        self._most_s = most_s
        self._random = random
        self._tries = 0

    def next_s(self) -> float:
        """Return the delay before the next try, in seconds."""
        step_s = min(self._most_s, self._first_s * 2.0 ** min(self._tries, 32))
        self._tries += 1
        return step_s * (0.5 + self._random() / 2)

    def reset(self) -> None:
        """Start from the shortest delay again, after a success."""
        self._tries = 0
