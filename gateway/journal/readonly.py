"""The journal for tools: read without the lock, beside a running gateway or without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from gateway.errors import ConfigError
from gateway.journal.cursor import NONE, CursorFile, Progress
from gateway.journal.files import META_MAGIC, SEGMENT_MAGIC, Header, list_segments
from gateway.journal.reader import Damage, Reader, Stored, View
from gateway.record import MAX_POSITION, Found, Salt, unpack


class JournalReader:
    """The journal as it was when opened, for tools: needs no lock and changes nothing."""

    def __init__(self, folder: Path) -> None:
        """Raise ConfigError when *folder* holds no journal that can be read."""
        self._folder = folder
        self.segments = list_segments(folder)
        header = Header.read(META_MAGIC, folder / "meta")
        for segment in self.segments:
            header = Header.read(SEGMENT_MAGIC, segment.path) or header
        if header is None:
            raise ConfigError(f"journal.dir: {folder} holds no journal (no readable meta file or segment)")
        self.id = header.journal_id
        self._salt = Salt.of(header.salt)
        progress = self._progress()
        self.cursor = progress.cursor
        self.head = max(self._last_position(), progress.cursor, progress.head)
        """Last position in use; above ``cursor`` it may be newer than what is durable."""

    def records(self, after: int = 0) -> Iterator[Stored]:
        """Yield the callbacks behind the position *after*, in order; damage is passed over."""
        for found in self._walk(after, lambda damage: None):
            yield Stored(found.position, unpack(found.payload))

    def verify(self) -> Iterator[Damage]:
        """Read everything; yield what is damaged. Segments trimmed meanwhile are no damage."""
        met: list[Damage] = []
        for _ in self._walk(0, met.append):
            yield from (damage for damage in met if damage.path.exists())
            met.clear()
        yield from (damage for damage in met if damage.path.exists())

    def _walk(self, after: int, on_damage: Callable[[Damage], None]) -> Iterator[Found]:
        reader = Reader(self._salt, on_damage)
        view = View(self.segments, self.segments[-1].size if self.segments else 0, self.head)
        try:
            reader.seek(view, after, NONE.hint)
            while (found := reader.next(view)) is not None:
                yield found
        finally:
            reader.close()

    def _progress(self) -> Progress:
        try:
            file = CursorFile(self._folder / "cursor", self._salt, writable=False)
        except FileNotFoundError:
            return NONE
        file.close()
        return file.latest or NONE

    def _last_position(self) -> int:
        if not self.segments:
            return 0
        last = self.segments[-1]
        reader = Reader(self._salt, lambda damage: None)
        view = View((last,), last.size, MAX_POSITION - 1)
        position = last.first - 1
        while (found := reader.next(view)) is not None:
            position = found.position
        reader.close()
        return position


def open_readonly(folder: Path) -> JournalReader:
    """Open the journal in *folder* for reading; raise ConfigError when there is none that can be read."""
    try:
        return JournalReader(folder)
    except OSError as error:
        raise ConfigError(f"journal.dir: {folder} can't be read: {error}") from error
