"""How to find the one callback that a broker refuses, without holding up the others for long. Pure."""

from __future__ import annotations

from dataclasses import dataclass

STRIKES = 3


@dataclass(slots=True)
class Caution:
    """After a refusal batches are small and go one at a time, up to the position sent last by then."""

    until: int = 0
    """Position; 0 while nothing is suspected."""
    size: int = 0
    """Callbacks in a batch while careful."""
    suspect: int = 0
    """Position that was refused alone."""
    strikes: int = 0
    """How often."""

    def batch_size(self, sent: int, usual: int) -> int:
        """Return how many callbacks the batch behind position *sent* may have."""
        if self.until and sent >= self.until:
            self.until = self.size = 0
        return self.size or usual

    def has_struck_out(self, position: int) -> bool:
        """Say whether *position* was refused alone so often that it can't go out as it is."""
        return position == self.suspect and self.strikes >= STRIKES

    def note(self, reason: str, first: int, sent: int, usual: int) -> bool:
        """Take in a refusal; *first* is unconfirmed, *sent* the last sent. True: *first* has just struck out.

        *reason* is that of Unconfirmed. ``rejected``: the content is suspect, so batches shrink until the one
        refused stands alone. ``nacked``, ``returned``, ``deadline``: a queue or the topology is, so one event
        probes; each probe is one copy to the queues that do take it. ``closed`` tells nothing.
        """
        if reason not in ("nacked", "returned", "deadline", "rejected"):
            return False
        was_alone = self.size == 1
        self.until = max(self.until, sent)
        self.size = max(1, (self.size or usual) // 8) if reason == "rejected" else 1
        if reason != "rejected" or not was_alone:
            return False
        self.strikes = self.strikes + 1 if self.suspect == first else 1
        self.suspect = first
        return self.strikes == STRIKES
