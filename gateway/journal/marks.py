"""Places of batches that were read and are not confirmed: they shorten searches, and tell how much waits."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from gateway.journal.cursor import Hint

_MOST = 4096  # Bound: one for each batch that was read and is not confirmed.


class Mark(NamedTuple):
    """One batch."""

    first: Hint
    """Its first record."""
    behind: Hint
    """Where the record behind its last one stands or will stand, unless a new file begins there."""


class Marks:
    """The marks of one journal, by position; there is always one at or before the cursor."""

    def __init__(self, hint: Hint) -> None:
        """*hint* lies at or before the cursor."""
        self._marks: deque[Mark] = deque([Mark(hint, hint)], _MOST)

    @property
    def oldest(self) -> Hint:
        """A record at or before the one behind the cursor."""
        return self._marks[0].first

    def note(self, mark: Mark) -> None:
        """Take in a batch; one that was read before is known."""
        if mark.first.position > self._marks[-1].first.position:
            self._marks.append(mark)

    def confirm(self, cursor: int) -> None:
        """Forget what lies wholly before the record behind *cursor*."""
        while len(self._marks) > 1 and self._marks[1].first.position <= cursor + 1:
            self._marks.popleft()

    def before(self, after: int) -> Hint:
        """Return the last known record at or before the one behind *after*."""
        for mark in reversed(self._marks):
            if mark.first.position <= after + 1:
                return mark.first
        return self.oldest

    def place(self, cursor: int) -> Hint:
        """Return where the record behind *cursor* starts, or the batch that it belongs to."""
        first, behind = self._marks[0]
        return behind if behind.position <= cursor + 1 else first
