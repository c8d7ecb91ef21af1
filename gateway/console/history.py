"""The last hour in memory, for sparklines and for "within the last minutes".

Bound: 361 rows of five numbers and one a sink, and the figures of the last five minutes: about 1 MB.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from gateway.console.figures import Figures

EVERY_S = 10.0
_ROWS = 361
_WHOLE = 31


class History:
    """Takes the figures every ``EVERY_S`` seconds."""

    def __init__(self) -> None:
        self._rows: deque[dict[str, float]] = deque(maxlen=_ROWS)
        self._whole: deque[Figures] = deque(maxlen=_WHOLE)

    def note(self, figures: Figures) -> None:
        """Take the *figures* of now."""
        self._whole.append(figures)
        self._rows.append(_row(figures))

    def before(self, now_s: float, seconds: float) -> Figures | None:
        """Return the figures of about *seconds* before *now_s*, or the oldest; None when there are none."""
        for one in reversed(self._whole):
            if one["at_s"] <= now_s - seconds:
                return one
        return self._whole[0] if self._whole else None

    def series(self) -> dict[str, list[float]]:
        """Return columns of equal length, the oldest first: ``at_s``, counts, gauges; ``sink:<name>``."""
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        return {name: [row.get(name, 0.0) for row in self._rows] for name in names}


def _row(figures: Figures) -> dict[str, float]:
    row: dict[str, Any] = {
        "at_s": figures["at_s"],
        "stored": figures["requests"]["stored"],
        "refused": sum(figures["requests"]["refused"].values()),
        "published": figures["broker"]["published"],
        "waiting": figures["journal"]["waiting"],
    }
    return row | {f"sink:{name}": one.get("written", 0.0) for name, one in figures["sinks"].items()}
