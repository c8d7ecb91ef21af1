"""What a worker asks of a sink; one file a kind beside this one. Stages import only this protocol.

A sink owns its connection. It knows no broker, no attempts and no other sink. Classes of users import their
names from here, and from nowhere else in this package: these stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.errors import Poison, Unavailable
from gateway.event import Event

__all__ = ["Event", "Failures", "Poison", "Sink", "Unavailable"]

Failures = Mapping[int, Poison | Unavailable]


class Sink(Protocol):
    """Where events end up. The worker calls ``open`` before the first write and after every Unavailable.

    Whether an event that comes again may leave a second trace, its configuration says (``effect``).
    """

    async def open(self) -> None:
        """Connect, create and migrate what is needed; safe to call again. Raises Unavailable."""
        ...

    async def write(self, events: Sequence[Event]) -> Failures:
        """Make *events* durable; on return every event not named in the result is durable here.

        The result maps an index to Poison (this event can never be written) or Unavailable (this one event
        later; where it names a time, ``wait_s``, the whole sink waits so long and these come next). Raising
        Unavailable means: unknown which were written, all come again. Raising Poison means that of one or
        more of them, without saying of which: they come again in halves.
        """
        ...

    async def close(self) -> None:
        """Give everything back; safe to call when never opened."""
        ...
