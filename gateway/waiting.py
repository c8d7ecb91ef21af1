"""What to say of callbacks that wait in the journal: how many, since when, how long the room lasts. Pure."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

MB = 1_048_576
LEVELS = (0.5, 0.75, 0.9)
_BACK = 0.1
_RATE_S = 60.0
_LEAST_RATE_S = 5.0
LONG_S = 60.0
_SELDOM_S = 3600.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """The journal at one moment."""

    now_s: float
    """Monotonic."""
    records: int
    bytes: int
    """Of the callbacks that are stored and not confirmed: what can't be given up."""
    capacity_bytes: int
    """So many may wait before callbacks are refused."""
    oldest_s: float
    """Age of the oldest one."""
    fault: str
    """Why the broker takes nothing, a token; empty while it does."""

    @property
    def share(self) -> float:
        return self.bytes / self.capacity_bytes if self.capacity_bytes else float(self.bytes > 0)


class Levels:
    """Names each level once when it is crossed upwards, again after the share fell 10 points below it."""

    def __init__(self) -> None:
        self._reached = 0.0

    def crossed(self, share: float) -> float | None:
        """Return the highest level crossed since the last call."""
        if share < self._reached - _BACK:
            self._reached = max((one for one in LEVELS if share >= one - _BACK), default=0.0)
        level = max((one for one in LEVELS if share >= one), default=0.0)
        if level <= self._reached:
            return None
        self._reached = level
        return level


class Watch:
    """Looks at the journal about once a second, and says what an operator should know, each thing once.

    A backlog that lasts is told of at growing intervals: after a minute, then 1, 2, 4, … 60 minutes later.
    """

    def __init__(self, max_mb: int, min_free_mb: int) -> None:
        self.note = ""
        """A sentence while the journal is half full or more."""
        self._max_mb = max_mb
        self._min_free_mb = min_free_mb
        self._filling, self._disk = Levels(), Levels()
        self._past: deque[tuple[float, int]] = deque()
        self._due_s: float | None = None
        self._pause_s = LONG_S

    def look(self, waiting: Waiting) -> list[tuple[int, str]]:
        """Return log levels and sentences."""
        growth = self._growth(waiting)
        said = [self._on_disk(waiting), self._on_filling(waiting, growth), self._on_age(waiting, growth)]
        return [one for one in said if one is not None]

    def _growth(self, waiting: Waiting) -> float | None:
        """Return bytes a second over the last minute; None while there is too little to tell."""
        self._past.append((waiting.now_s, waiting.bytes))
        while self._past[0][0] < waiting.now_s - _RATE_S:
            self._past.popleft()
        since_s, before = self._past[0]
        took_s = waiting.now_s - since_s
        return (waiting.bytes - before) / took_s if took_s >= _LEAST_RATE_S else None

    def _on_disk(self, waiting: Waiting) -> tuple[int, str] | None:
        if self._disk.crossed(1 - waiting.capacity_bytes / (self._max_mb * MB)) is None:
            return None
        return logging.WARNING, (
            f"The disk of journal.dir has room for {_size(waiting.capacity_bytes)} of callbacks, though"
            f" journal.max_mb is {self._max_mb} (journal.min_free_mb {self._min_free_mb} stay free). When so"
            " many wait for the broker, further ones are refused with 503. Make room on the disk, or lower"
            " journal.max_mb to what it can hold"
        )

    def _on_filling(self, waiting: Waiting, growth: float | None) -> tuple[int, str] | None:
        level = self._filling.crossed(waiting.share)
        is_disk = waiting.capacity_bytes < self._max_mb * MB
        bound = f"the disk, less journal.min_free_mb {self._min_free_mb}" if is_disk else "journal.max_mb"
        state = (
            f"{waiting.share:.0%} full: {_size(waiting.bytes)} of {_size(waiting.capacity_bytes)} ({bound})"
            f" wait for the broker{_left(waiting, growth)}"
        )
        self.note = f"the journal is {state}" if waiting.share >= LEVELS[0] else ""
        if level is None:
            return None
        cure = "make room on the disk" if is_disk else "raise journal.max_mb"
        return logging.WARNING, (
            f"The journal is {state}. When it is full, callbacks are refused with 503, and who sent them may"
            f" not send them again. Mend the broker, or {cure}"
        )

    def _on_age(self, waiting: Waiting, growth: float | None) -> tuple[int, str] | None:
        if waiting.oldest_s < LONG_S:
            was_told, self._due_s = self._due_s is not None, None
            return (logging.INFO, "The callbacks that waited long are with the broker") if was_told else None
        if self._due_s is not None and waiting.now_s < self._due_s:
            return None
        self._pause_s = LONG_S if self._due_s is None else min(2 * self._pause_s, _SELDOM_S)
        self._due_s = waiting.now_s + self._pause_s
        why = f"The broker takes no events ({waiting.fault}): " if waiting.fault else ""
        return logging.WARNING, (
            f"{why}{waiting.records} callbacks ({_size(waiting.bytes)}) wait on disk, the oldest for"
            f" {_time(waiting.oldest_s)}{_left(waiting, growth)}"
        )


def _left(waiting: Waiting, growth: float | None) -> str:
    if not growth:
        return ""
    if growth < 0:
        return f"; they become fewer, and at the present rate are gone in {_time(waiting.bytes / -growth)}"
    left_s = max(0, waiting.capacity_bytes - waiting.bytes) / growth
    return f"; there is room for {_time(left_s)} more at the present rate"


def _size(count: int) -> str:
    return f"{count / MB:,.0f} MB" if count >= 10 * MB else f"{count / MB:.1f} MB"


def _time(seconds: float) -> str:
    for unit, least_s, unit_s in (("days", 172_800, 86_400), ("h", 7200, 3600), ("min", 90, 60)):
        if seconds >= least_s:
            return f"about {seconds / unit_s:.0f} {unit}"
    return "about a minute" if seconds >= 45 else "less than a minute"
