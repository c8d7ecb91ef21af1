"""The journal: callbacks on local disk before anyone is told that they are taken.

``Journal`` lives on the loop: it hands callbacks to the writer thread, reads them back for the forwarder, and
keeps head, cursor and holes. Segment files are append-only; only trimming behind the cursor removes a record.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from gateway import config
from gateway.callback import Callback
from gateway.errors import ConfigError, FatalError, Unavailable
from gateway.journal.files import keep_damaged
from gateway.journal.intake import Intake
from gateway.journal.marks import Marks
from gateway.journal.posts import Report, StoredCall
from gateway.journal.reader import Damage, Reader, Stored, View
from gateway.journal.readonly import JournalReader, open_readonly
from gateway.journal.recovery import Opened, open_folder
from gateway.journal.waiters import Holes, Waiters
from gateway.metrics import Metrics
from gateway.record import unpack

__all__ = ["Damage", "Journal", "JournalReader", "Stored", "open_readonly"]

log = logging.getLogger(__name__)


def _system_ms() -> int:
    return time.time_ns() // 1_000_000


class Journal:
    """Durable log of callbacks. All methods belong to one loop, the one that uses it first."""

    @classmethod
    def open(
        cls, limits: config.Journal, metrics: Metrics, now_ms: Callable[[], int] = _system_ms
    ) -> Journal:
        """Take the folder ``journal.dir`` and recover what is in it; blocks while the last segment is read.

        Raises ConfigError when another process has it, a newer release wrote it, or it can't be used.
        """
        try:
            opened = open_folder(limits.dir, now_ms())
            return cls(limits, opened, metrics, now_ms)
        except OSError as error:
            raise ConfigError(
                f"journal.dir: {limits.dir} can't be used: {error}; the gateway has to create, write, lock "
                "and sync files there"
            ) from error

    def __init__(
        self, limits: config.Journal, opened: Opened, metrics: Metrics, now_ms: Callable[[], int]
    ) -> None:
        """Use ``Journal.open``."""
        self.id = opened.id
        """16 hex digits; with a position it names a callback for ever."""
        self.cursor = opened.cursor
        """Position up to which the broker has confirmed."""
        self._metrics = metrics
        self._salt = opened.salt
        self._view = View((), 0, 0)
        self._reader = Reader(opened.salt, self._on_damage)
        self._marks = Marks(opened.hint)
        self._met: set[tuple[str, int]] = set()
        self._holes = Holes()
        self._heads = Waiters()
        self._cursors = Waiters()
        self._oldest: tuple[int, int] | None = None
        self.waiting_bytes = 0
        """Bytes of the records that are stored and not confirmed yet; up to one batch more."""
        self._intake = Intake(limits, opened, metrics, now_ms, self._on_report)
        for damage in opened.lost:
            self._on_damage(damage)

    @property
    def head(self) -> int:
        """Position of the last durable callback; 0 when there was none yet."""
        return self._view.head

    @property
    def holes(self) -> int:
        """How many positions between cursor and head are known to be lost."""
        return self._holes.count(self.cursor)

    @property
    def waiting(self) -> int:
        """How many callbacks are stored and not confirmed yet."""
        return self.head - self.cursor - self.holes

    @property
    def is_full(self) -> bool:
        """True while ``append`` refuses for lack of room."""
        return self._intake.is_full

    @property
    def capacity_bytes(self) -> int:
        """How many bytes may wait before ``append`` refuses: ``max_mb``, or less where the disk has less."""
        return self._intake.capacity_bytes

    @property
    def failed(self) -> asyncio.Future[None]:
        """Gets FatalError when a write or sync failed: the process has to end."""
        return self._intake.failed

    @property
    def oldest_waiting_ms(self) -> int | None:
        """``received_ms`` of the first callback after the cursor; None when none waits."""
        if self.waiting <= 0:
            return None
        if self._oldest is None or self._oldest[0] != self.cursor:
            reader = Reader(self._salt, lambda damage: None)
            found = None
            with suppress(OSError):
                reader.seek(self._view, self.cursor, self._marks.before(self.cursor))
                found = reader.next(self._view)
            reader.close()
            self._oldest = (self.cursor, unpack(found.payload).received_ms) if found else None
        return self._oldest[1] if self._oldest else None

    def append(self, callback: Callback, *, durable: bool = True) -> asyncio.Future[int]:
        """Hand *callback* to the disk; the future gets its position once the group's fdatasync returned.

        With ``durable=False`` once it is written to the file (fdatasync within 100 ms). Raises JournalFull
        when there is no room or the journal closes, FatalError after a disk error, ValueError when a field is
        out of range; the future raises JournalFull (nothing was stored) or FatalError (nobody knows).
        """
        return self._intake.append(callback, durable)

    def store(self, callback: Callback, call: StoredCall, *, durable: bool = True) -> None:
        """Do as ``append``, and call *call* on the loop: a future for each takes longer than its record."""
        self._intake.store(callback, call, durable)

    def read(self, after: int, max_records: int, max_bytes: int) -> list[Stored]:
        """Return the durable callbacks behind the position *after*, in order, *max_bytes* of them at most.

        At least one if there is one. Reading on from where the last call ended costs no search. Raises
        Unavailable when files can't be opened, FatalError when a record has a newer format.
        """
        if after >= self.head:
            return []
        try:
            if self._reader.last != after:
                self._reader.seek(self._view, after, self._marks.before(after))
            batch, mark = self._reader.batch(self._view, max_records, max_bytes)
            if mark is not None:
                self._marks.note(mark)
            return [Stored(found.position, unpack(found.payload)) for found in batch]
        except OSError as error:
            self._reader.close()
            raise Unavailable("journal_unreadable", str(error)) from error
        except ValueError as error:
            raise FatalError(str(error)) from error

    async def wait_for(self, after: int) -> None:
        """Return when there is a callback behind the position *after*; the caller sets the deadline."""
        self._intake.start()
        # Why the cursor too: a hole that it has passed is forgotten; returning for one would never end.
        while self.head <= (last := max(self.cursor, self._holes.skip(after))):
            await self._heads.wait(last + 1)

    def confirm(self, position: int) -> None:
        """Note that the broker has confirmed everything up to *position*; raise ValueError above the head."""
        if position > self.head:
            raise ValueError(f"position {position} is above the journal's head {self.head}")
        if position > self.cursor:
            self._advance(position)

    async def confirmed(self, position: int) -> None:
        """Return when the cursor has reached *position*; the caller sets the deadline.

        Raises Unavailable("journal_lost") when the callback turned out to be damaged on the disk.
        """
        if self._holes.covers(position):
            raise Unavailable("journal_lost", f"position {position} is damaged on the disk")
        if self.cursor < position:
            await self._cursors.wait(position)

    async def close(self) -> None:
        """Finish pending appends, make cursor and head durable, give back files and lock."""
        await self._intake.close()
        self._reader.close()

    def _advance(self, position: int) -> None:
        self.cursor = position = self._holes.skip(position)
        self._marks.confirm(position)
        self._intake.hold(self._measure())
        if self._intake.keeper.confirm(position, self._marks.oldest):
            self._intake.wake()
        self._cursors.reach(position)
        self._show()

    def _on_report(self, report: Report) -> int:
        self._view = View(report.segments, report.end, report.head)
        if self._reader.segment < (report.segments[0].first if report.segments else report.head + 1):
            self._reader.close()  # Why: a file that is gone takes its room while anybody has it open
        held = self._measure()
        self._heads.reach(report.head)
        self._show()
        return held

    def _show(self) -> None:
        self._metrics.journal_head.set(self.head)
        self._metrics.journal_cursor.set(self.cursor)
        self._metrics.journal_waiting.set(self.waiting)
        self._metrics.journal_waiting_bytes.set(self.waiting_bytes)

    def _measure(self) -> int:
        """Set ``waiting_bytes``; return the bytes of the files that can't be given up."""
        held, self.waiting_bytes = self._view.behind(self.cursor, self._marks.place(self.cursor))
        return held

    def _on_damage(self, damage: Damage) -> None:
        """Count, keep and name what is lost; the reader goes on behind it."""
        last = damage.first_missing + damage.missing - 1
        news = self._holes.add(damage.first_missing, last, self.cursor)
        place = (damage.path.name, damage.offset)
        if place in self._met and not news:
            return
        self._met.add(place)
        kept = "nothing to keep" if not damage.size else self._keep(damage)
        log.error(
            "journal %s: %d bytes at offset %d hold no good record (%s); %d callbacks are lost%s",
            damage.path,
            damage.size,
            damage.offset,
            kept,
            damage.missing,
            f" (positions {damage.first_missing} to {last})" if damage.missing else "",
        )
        if damage.missing:
            self._metrics.journal_lost.inc(news)
            self._cursors.fail(damage.first_missing, last, Unavailable("journal_lost", "damaged on the disk"))
            if (after_hole := self._holes.skip(self.cursor)) > self.cursor:
                self._advance(after_hole)
            self._show()

    def _keep(self, damage: Damage) -> str:
        try:
            keep_damaged(damage.path, damage.offset, damage.offset + damage.size)
        except OSError as error:
            return f"not copied: {error}"
        return "copied to damaged/"
