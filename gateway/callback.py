"""The callback: one HTTP request as it arrived. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Callback:
    """One accepted request, as the journal keeps it."""

    app_id: str
    """SDKAppID, decimal digits."""
    query: str
    """The raw query string without ``Sign``, still percent-encoded."""
    body: bytes
    """The body's own bytes; a JSON object, unless the caller was verified and sent something else."""
    peer: str
    """Address of the caller."""
    received_ms: int
    """Unix time in milliseconds."""
    verified: bool
    """True when a token's Sign was checked and matched."""
    id_recipe: int
    """Version of the rules that derive the event id (``normalise.ID_RECIPE`` at the time of receipt)."""
    id_window_s: int
    """``journal.id_window_s`` at the time of receipt."""
