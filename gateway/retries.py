"""Delayed retries: when an event comes again, and what it carries of its attempts."""

from __future__ import annotations

from gateway.event import iso_time
from gateway.topology import retry_delay_s

HISTORY = "history"
"""Header of what has failed so far: ``<RFC 3339> <sink> <reason>``, joined by ``; ``, the oldest first."""
HISTORY_ENTRIES = 16
"""Bound: more are forgotten, the oldest first."""
_JITTER = 0.2


def retry_delay_ms(attempt: int, chance: float) -> int:
    """Return the delay before the attempt after *attempt*: its rung ± 20 %, by *chance* in [0, 1).

    What failed together then does not come back together.
    """
    return round(retry_delay_s(attempt) * 1000 * (1 + _JITTER * (2 * chance - 1)))


def lengthened(history: str, at_ms: int, sink: str, reason: str) -> str:
    """Return *history* with one failure more, at *at_ms* (Unix, milliseconds)."""
    entries = history.split("; ") if history else []
    return "; ".join([*entries, f"{iso_time(at_ms)} {sink} {reason}"][-HISTORY_ENTRIES:])
