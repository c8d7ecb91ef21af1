"""The journal for tools: read without the lock, beside a running gateway or without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gateway.callback import Callback
from gateway.errors import ConfigError, Unavailable
from gateway.journal.cursor import NONE, CursorFile, Progress
from gateway.journal.files import META_MAGIC, SEGMENT_MAGIC, Header, list_segments
from gateway.journal.reader import Damage, Reader, Stored, View
from gateway.journal.recovery import last_record
from gateway.record import MAX_POSITION, Found, Salt, unpack

_CLOCK_SLACK_MS = 3_600_000
"""How far a clock may have been set back without hiding callbacks from a search by time."""


class JournalReader:
    """The journal as it was when opened, for tools: needs no lock and changes nothing.

    Segments that the gateway removes meanwhile are passed over and counted. Methods raise Unavailable when
    files can't be read, ConfigError when a newer release wrote them.
    """

    def __init__(self, folder: Path) -> None:
        """Raise ConfigError when *folder* holds no journal that can be read."""
        self._folder = folder
        header = Header.read(META_MAGIC, folder / "meta")
        for segment in () if header else list_segments(folder):
            header = header or Header.read(SEGMENT_MAGIC, segment.path)
        if header is None:
            raise ConfigError(f"journal.dir: {folder} holds no journal (no readable meta file or segment)")
        self.id = header.journal_id
        self._salt = Salt.of(header.salt)
        # Why before and after: what the file said before the listing has to be in it, and the cursor that it
        #      says afterwards is at or behind everything that was removed up to then.
        before = self._progress() or NONE
        self.segments = list_segments(folder)
        now = self._progress()
        last, self._end = 0, 0
        if self.segments:
            last, self._end = last_record(self.segments[-1], self._salt, (now or NONE).hint)
        self.head = max(last, before.cursor, before.head)
        """Last position in use; above ``cursor`` it may be newer than what is durable."""
        self._begun_ms = 0
        for segment in reversed(self.segments):
            # Why all of them: a newer format anywhere must be refused, not read.
            begun = Header.read(SEGMENT_MAGIC, segment.path)
            self._begun_ms = begun.created_ms if begun else 0
        self._confirmed = now.cursor if now else self.first - 1
        self.cursor = min(self._confirmed, self.head)
        self._hint = (now or NONE).hint
        self._reader: Reader | None = None
        self._position = 0
        self.lost = 0
        """Positions that were passed over so far because they are damaged or missing."""
        self.trimmed = 0
        """Positions that were passed over so far because the gateway removed their segment meanwhile."""

    @property
    def first(self) -> int:
        """The position at which the files begin."""
        return self.segments[0].first if self.segments else self.head + 1

    @property
    def size(self) -> int:
        """Bytes of all segment files."""
        return sum(segment.size for segment in self.segments)

    @property
    def retained(self) -> int:
        """Bytes of the segments that are wholly confirmed: kept for replays, given up when room is short."""
        following = [segment.first for segment in self.segments[1:]] + [self.head + 1]
        pairs = zip(self.segments, following, strict=False)
        return sum(segment.size for segment, first in pairs if first - 1 <= self.cursor)

    @property
    def times_ms(self) -> tuple[int, int] | None:
        """When the oldest segment was begun and the newest last written; None without segments."""
        return (self._begun_ms, self.segments[-1].touched_ms) if self.segments else None

    @property
    def position(self) -> int:
        """How far the pass that is under way, or the last one, has come."""
        return self._reader.last if self._reader else self._position

    def set_aside(self) -> tuple[int, int]:
        """Return how many pieces the gateway has put into ``damaged/``, and their bytes."""
        sizes = []
        with suppress(OSError):
            sizes = [path.stat().st_size for path in (self._folder / "damaged").iterdir()]
        return len(sizes), sum(sizes)

    def behind(self, since_ms: int) -> int:
        """Return a position behind which everything stands that was received from *since_ms* (Unix, ms) on.

        It goes by when segments were last written, so it costs nothing, and is generous.
        """
        after = self.first - 1
        for segment, following in zip(self.segments, self.segments[1:], strict=False):
            if segment.touched_ms + _CLOCK_SLACK_MS >= since_ms:
                break
            after = following.first - 1
        return after

    def records(self, after: int = 0, to: int = MAX_POSITION) -> Iterator[Stored]:
        """Yield the callbacks behind the position *after* up to *to*, in order; damage is passed over."""
        met: list[Damage] = []
        for found in self._walk(after, to, met):
            self._count(met, after, to)
            if found.position <= to:
                yield Stored(found.position, self._unpack(found))
        self._count(met, after, to)

    def verify(self, after: int = 0) -> Iterator[Damage]:
        """Check every record behind *after*; yield what is damaged, a torn tail (``is_torn``) included.

        Segments trimmed meanwhile are no damage.
        """
        gone = self.first - 1 - self._confirmed
        met = [Damage(self._folder, 0, 0, self._confirmed + 1, gone)] if gone > 0 else []
        for _ in self._walk(after, MAX_POSITION, met, only_check=True):
            yield from self._count(met, after)
        yield from self._count(met, after)

    def is_torn(self, damage: Damage) -> bool:
        """Say whether *damage* is what a write under way, or cut short, leaves behind the last record."""
        is_last = bool(self.segments) and damage.path == self.segments[-1].path
        return is_last and not damage.missing and damage.offset >= self._end

    def _count(self, met: list[Damage], after: int = 0, to: int = MAX_POSITION) -> list[Damage]:
        """Empty *met* into the two counts, positions behind *after* up to *to*; return what is damage."""
        found = []
        for damage in met:
            end = damage.first_missing + damage.missing
            missing = max(0, min(end, to + 1) - max(damage.first_missing, after + 1))
            if damage.path.exists():
                self.lost += missing
                found.append(damage)
            else:
                self.trimmed += missing
        met.clear()
        return found

    def _walk(self, after: int, to: int, met: list[Damage], *, only_check: bool = False) -> Iterator[Found]:
        """Yield records behind *after*, the first one above *to* included; with *only_check* but a few."""
        self._reader = reader = Reader(self._salt, met.append)
        view = View(self.segments, self.segments[-1].size if self.segments else 0, self.head)
        try:
            reader.seek(view, after, self._hint)
            while True:
                if only_check:
                    reader.pass_over(view, to)
                found = reader.next(view)
                if found is None:
                    return
                yield found
                if found.position > to:
                    return
        except OSError as error:
            raise Unavailable("journal_unreadable", f"{self._folder} can't be read: {error}") from error
        finally:
            self._position, self._reader = reader.last, None
            reader.close()

    def _unpack(self, found: Found) -> Callback:
        try:
            return unpack(found.payload)
        except ValueError as error:
            raise ConfigError(f"journal.dir: {self._folder}: {error}; use the newer one") from error

    def _progress(self) -> Progress | None:
        try:
            file = CursorFile(self._folder / "cursor", self._salt, writable=False)
        except FileNotFoundError:
            return None
        file.close()
        return file.latest


def open_readonly(folder: Path) -> JournalReader:
    """Open the journal in *folder* for reading; raise ConfigError when there is none that can be read."""
    try:
        return JournalReader(folder)
    except OSError as error:
        raise ConfigError(f"journal.dir: {folder} can't be read: {error}") from error
