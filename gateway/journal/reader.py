"""Reads records in order over segment files, notices damage and goes on behind it. Read-only."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gateway.callback import Callback
from gateway.journal.cursor import Hint
from gateway.journal.files import HEADER_BYTES, SEGMENT_MAGIC, Header, Segment, read_some
from gateway.journal.marks import Mark
from gateway.record import Found, Gap, Salt, Scanner


class Stored(NamedTuple):
    """A callback in the journal."""

    position: int
    callback: Callback


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that hold no good record, or positions that are simply not there."""

    path: Path
    """The segment file."""
    offset: int
    """Bytes from the file's start."""
    size: int
    """Damaged bytes; 0 when positions are missing without any."""
    first_missing: int
    """The first position that is lost; means nothing when ``missing`` is 0."""
    missing: int
    """How many positions are lost, consecutive."""


@dataclass(slots=True)
class View:
    """The part of the journal that may be read."""

    segments: tuple[Segment, ...]
    end: int
    """Bytes of the last segment that may be read; of the others, all."""
    head: int
    """Last position that may be read."""

    def index(self, position: int) -> int:
        """Return the index of the segment whose range holds *position*; 0 when it lies before all."""
        if position >= self.segments[-1].first:
            return len(self.segments) - 1
        return max(0, bisect_right(self.segments, position, key=lambda segment: segment.first) - 1)

    def end_of(self, index: int) -> int:
        return self.end if index == len(self.segments) - 1 else self.segments[index].size

    def behind(self, cursor: int, place: Hint) -> tuple[int, int]:
        """Return the bytes of the files that hold a record behind *cursor*, and of those records.

        *place* is where the next record starts, as far as known; without one in that file all of it counts.
        """
        if not self.segments or cursor >= self.head:
            return 0, 0
        segment = self.segments[self.index(cursor + 1)]
        held = self.segments[-1].start + self.end - segment.start
        return held, held - (place.offset if place.segment == segment.first else HEADER_BYTES)

    def before(self, index: int) -> int:
        """Return the position that every record of the segment at *index* is below."""
        return self.head + 1 if index == len(self.segments) - 1 else self.segments[index + 1].first


class Reader:
    """Steps over records; keeps its file open and its place, so that reading on costs no search."""

    def __init__(self, salt: Salt, on_damage: Callable[[Damage], None]) -> None:
        """Report each damage met to *on_damage*, once its extent and the missing positions are known."""
        self._salt = salt
        self._on_damage = on_damage
        self._fd = -1
        self.segment = 0
        """First position of the segment that the last record came from, or a later one without any."""
        self._scanner: Scanner | None = None
        self._held: Found | None = None
        self._gaps: list[Gap] = []
        self.last = 0
        """Everything up to this position was returned, or is missing."""

    @property
    def at(self) -> int:
        """Bytes from the start of its file to where the next record is looked for."""
        return self._scanner.at if self._scanner else 0

    def seek(self, view: View, after: int, hint: Hint) -> None:
        """Make ``next`` return the first record behind the position *after*; *hint* lies at or before it."""
        self.close()
        if not view.segments:
            return
        index = view.index(after + 1)
        self._enter(view, index)
        segment = view.segments[index]
        if self._scanner and hint.segment == segment.first and segment.first < hint.position <= after + 1:
            found = self._scanner.peek(hint.offset, view.end_of(index), hint.position - 1, hint.position + 1)
            if found:
                self._scanner.at = found.at
                self.last = hint.position - 1
                self._gaps.clear()
        while self.last < after:
            if self.pass_over(view, after):
                continue
            found = self._next(view, quiet_below=after)
            if found is None:
                break
            if found.position > after:
                self.push_back(found)

    def next(self, view: View) -> Found | None:
        """Return the next record; None when there is no more up to the view's head."""
        if self._held is not None:
            found, self._held = self._held, None
            self.last = found.position
            return found
        return self._next(view, quiet_below=0)

    def pass_over(self, view: View, to: int) -> int:
        """Step over records up to the position *to* while nothing is amiss; return over how many.

        May end at any place before; ``next`` tells why.
        """
        if self._scanner is None or self._held is not None or self._gaps:
            return 0
        index = view.index(self.segment)
        if view.segments[index].first != self.segment:
            return 0
        last = self.last
        self.last = self._scanner.pass_over(view.end_of(index), last, min(to, view.before(index) - 1))
        return self.last - last

    def batch(self, view: View, max_records: int, max_bytes: int) -> tuple[list[Found], Mark | None]:
        """Return the next records and where they stand.

        *max_bytes* of payloads at most, but one record if there is one.
        """
        batch: list[Found] = []
        size = first = last = 0
        while len(batch) < max_records and (found := self.next(view)) is not None:
            size += len(found.payload)
            if batch and size > max_bytes:
                self.push_back(found)
                break
            batch.append(found)
            first, last = first or self.segment, self.segment
        if not batch:
            return batch, None
        end = batch[-1]
        return batch, Mark(Hint(batch[0].position, first, batch[0].at), Hint(end.position + 1, last, end.end))

    def push_back(self, found: Found) -> None:
        """Make ``next`` return *found*, the record that it returned last, once more."""
        self._held = found
        self.last = found.position - 1

    def close(self) -> None:
        """Forget the place."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self.segment, self._scanner, self._held, self.last = -1, 0, None, None, 0
        self._gaps.clear()

    def _next(self, view: View, quiet_below: int) -> Found | None:
        if not view.segments:
            return None
        if self.segment == 0:
            self._enter(view, 0)
        while True:
            index = view.index(self.segment)
            if view.segments[index].first != self.segment:
                # Why: the segment was trimmed, so all of it is confirmed; what follows starts with the next.
                self._enter(view, index + 1 if view.segments[index].first < self.segment else index)
                continue
            step = None
            if self._scanner is not None:
                step = self._scanner.step(view.end_of(index), self.last, view.before(index))
            if isinstance(step, Gap):
                self._gaps.append(step)
                continue
            missing_to = step.position if step else view.before(index)
            self._report(view.segments[index].path, missing_to, quiet_below)
            if step is not None:
                self.last = step.position
                return step
            if index == len(view.segments) - 1:
                return None
            self._enter(view, index + 1)

    def _enter(self, view: View, index: int) -> None:
        segment = view.segments[index]
        self.close()
        self.segment, self.last = segment.first, segment.first - 1
        try:
            self._fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._gaps.append(Gap(0, segment.size))
            return
        self._scanner = Scanner(partial(read_some, self._fd), self._salt, HEADER_BYTES)
        if Header.unpack(SEGMENT_MAGIC, read_some(self._fd, 0, HEADER_BYTES), segment.path) is None:
            self._gaps.append(Gap(0, min(HEADER_BYTES, view.end_of(index))))

    def _report(self, path: Path, before: int, quiet_below: int) -> None:
        """Report the gaps met since the last record; the last one takes the missing positions."""
        first, missing = self.last + 1, max(0, before - self.last - 1)
        self.last += missing
        gaps, self._gaps = self._gaps, []
        if missing and not gaps:
            gaps = [Gap(self.at, self.at)]
        if quiet_below and before <= quiet_below + 1:
            return
        for number, gap in enumerate(gaps, 1):
            lost = missing if number == len(gaps) else 0
            self._on_damage(Damage(path, gap.at, gap.end - gap.at, first, lost))
