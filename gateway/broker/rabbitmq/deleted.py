"""What the log says when objects of ours were deleted: when, what that cost, and how to bring it back."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.event import iso_time
from gateway.topology import SinkTopology

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """One object of ours, as it was when it was seen last."""

    kind: str
    """``exchange``, ``queue`` or ``binding``."""
    name: str
    sink: SinkTopology | None
    """The sink that it serves; None: all of them."""
    at_ms: int
    """When that look began, Unix time."""
    ready: int = 0
    """Events that stood ready in the queue."""


class Span:
    """When the oldest event was received that may have been routed since the look before the last one began.

    That, and not the time of the deletion, is what a replay has to begin with: a forwarder that has a backlog
    publishes what was received long ago. Times are those of the events, RFC 3339.
    """

    def __init__(self) -> None:
        self._before = self._now = ""

    def add(self, received: str) -> None:
        """Take in the time of the oldest event of what is being sent."""
        self._now = _oldest(self._now, received)

    def turn(self, unconfirmed: str) -> None:
        """Note that a look begins; *unconfirmed* is the time of the oldest event under way, or empty."""
        self._before, self._now = self._now, unconfirmed

    @property
    def oldest(self) -> str:
        """Empty when nothing was sent."""
        return _oldest(self._before, self._now)


def say_gone(gone: Sequence[Seen], *, is_declared: bool) -> None:
    """Name what somebody deleted, and since when."""
    what = "it is declared again" if is_declared else "let an administrator run: gateway topology apply"
    _log.error(
        "Somebody deleted %s between %s and %s; %s",
        ", ".join(
            f"{one.kind} {one.name}" + (f" (about {one.ready} events stood in it)" if one.ready else "")
            for one in gone
        ),
        iso_time(min(one.at_ms for one in gone)),
        iso_time(_now_ms()),
        what,
    )


def say_back(back: Sequence[Seen], received: str | None) -> None:
    """Say for each sink that the objects *back*, which stand again, belong to what it missed.

    *received* is a ``Span``'s oldest; None where this process does not publish, so that nobody knows.
    """
    until = iso_time(_now_ms() + 1)  # Why 1: a replay ends before this time
    # Why not a partition: as long as its queue was gone, the others took its events.
    back = [one for one in back if one.kind != "queue" or (one.sink and one.sink.partitions == 1)]
    for sink in {one.sink.name: one.sink for one in back if one.sink is not None}.values():
        theirs = [one for one in back if one.sink == sink]
        since = received if received is not None else iso_time(min(one.at_ms for one in theirs))
        if not since:
            _log.warning("Sink %s: nothing was sent meanwhile, so it misses nothing of that", sink.name)
            continue
        is_unrouted = all(one.kind == "queue" for one in theirs)
        _log.error(
            "Sink %s did not get what was sent meanwhile; it stands in the %s."
            " Bring it back: gateway journal replay --sink %s --since %s --until %s",
            sink.name,
            "unrouted queue" if is_unrouted else "journal, and nowhere else where another sink took it",
            sink.name,
            since,
            until,
        )


def _oldest(*times: str) -> str:
    return min((time for time in times if time), default="")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
