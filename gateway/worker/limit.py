"""When to stop parking: a bad release must not empty a queue into the dead letters."""

from __future__ import annotations

_LAST = 200
"""About so many of the last events does the ratio look at."""


class ParkingLimit:
    """Counts events that were written and events that could not be, in the order in which that shows."""

    def __init__(self, consecutive: int, ratio: float) -> None:
        """Take how many in a row (0: any number), and which part of the last 200 (1: all), may fail."""
        self._most_in_a_row = consecutive
        self._ratio = ratio
        self._in_a_row = 0
        self._seen = self._failed = 0.0
        self._is_trying = False
        self.is_reached = False

    @property
    def may_fail(self) -> bool:
        """One more may be parked."""
        return self._is_trying or not self.is_reached

    def wrote(self, count: int) -> None:
        """Count events that were written."""
        self._in_a_row = 0
        self._count(count, 0)

    def failed(self) -> None:
        """Count an event that was parked, or that only a fault of the sink kept from being written."""
        self._is_trying = False
        self._in_a_row += 1
        self._count(1, 1)
        is_row = 0 < self._most_in_a_row <= self._in_a_row
        is_part = self._ratio < 1 and self._failed > self._ratio * _LAST
        self.is_reached = self.is_reached or is_row or is_part

    def try_one(self) -> None:
        """Let one event fail although the limit is reached."""
        self._is_trying = True

    def reset(self) -> None:
        """Begin anew: the sink has written an event."""
        self._in_a_row = 0
        self._seen = self._failed = 0.0
        self._is_trying = self.is_reached = False

    def describe(self) -> str:
        """Say what was counted."""
        return f"{self._in_a_row} failed in a row, {self._failed:.0f} of the last {self._seen:.0f}"

    def _count(self, seen: int, failed: int) -> None:
        self._seen += seen
        self._failed += failed
        if self._seen > _LAST:  # Why not a list of the last ones: fading out costs nothing
            self._failed *= _LAST / self._seen
            self._seen = _LAST
