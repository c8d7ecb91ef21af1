"""Opens the folder for writing: rights, lock, identity, cursor, and where the last good record ends."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import ConfigError
from gateway.journal.cursor import NONE, CursorFile, Hint, Progress
from gateway.journal.files import (
    HEADER_BYTES,
    META_MAGIC,
    NO_SPACE,
    SEGMENT_MAGIC,
    Header,
    Lock,
    Segment,
    cut,
    keep_damaged,
    list_segments,
    make_dir,
    replace,
    sync_dir,
)
from gateway.journal.filesystem import filesystem_warning
from gateway.journal.reader import Damage, Reader, View
from gateway.journal.segments import Segments
from gateway.record import MAX_POSITION, Salt

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """The folder, ready for the writer and the reader."""

    id: str
    salt: Salt
    lock: Lock
    segments: Segments
    cursor_file: CursorFile
    head: int
    cursor: int
    hint: Hint
    """A place at or before the cursor, to be checked."""
    lost: tuple[Damage, ...]
    """What opening already shows to be missing."""


def open_folder(folder: Path, now_ms: int) -> Opened:
    """Take the folder, cut a torn tail, and find head and cursor; raise ConfigError or OSError."""
    make_dir(folder)
    if warning := filesystem_warning(folder):
        log.warning("%s", warning)
    lock = Lock(folder)
    try:
        return _recover(folder, lock, now_ms)
    except BaseException:
        lock.release()
        raise


def _recover(folder: Path, lock: Lock, now_ms: int) -> Opened:
    found = list_segments(folder)
    identity = _identity(folder, found, now_ms)
    salt = Salt.of(identity.salt)
    cursor_file = CursorFile(folder / "cursor", salt)
    progress = cursor_file.latest
    if progress is None:
        first = found[0].first if found else 1
        progress = NONE._replace(cursor=first - 1)
        if found:
            log.warning(
                "journal cursor file of %s is missing or damaged; all callbacks from position %d on are "
                "sent again",
                folder,
                first,
            )
        cursor_file.write(progress)
    segments, last, named = _tail(folder, identity, found, salt, progress.hint)
    head = max(last, named, progress.cursor, progress.head)
    lost = _lost(segments, last, head, progress.cursor)
    if segments.closed and last == head:
        header = Header.read(SEGMENT_MAGIC, segments.closed[-1].path)
        if header is not None and segments.closed[-1].size > HEADER_BYTES:
            segments.reopen(header.created_ms)
    return Opened(
        identity.journal_id, salt, lock, segments, cursor_file, head, progress.cursor, progress.hint, lost
    )


def _identity(folder: Path, found: tuple[Segment, ...], now_ms: int) -> Header:
    """Return the journal's id and salt, from ``meta`` or any segment; repair or create ``meta``."""
    path = folder / "meta"
    meta = Header.read(META_MAGIC, path)
    known = meta
    for segment in found:
        header = Header.read(SEGMENT_MAGIC, segment.path)
        known = known or header
        if known and header and (header.journal_id, header.salt) != (known.journal_id, known.salt):
            raise ConfigError(
                f"journal.dir: {segment.path} belongs to another journal ({header.journal_id}, here "
                f"{known.journal_id}); move it to a folder of its own"
            )
    if found and known is None:
        raise ConfigError(
            f"journal.dir: {folder} has segments, but neither meta nor any segment header is readable, so "
            "their checksums can't be checked; move them away, or restore the file meta"
        )
    if known and not found and _progress(folder, known) is None:
        # Why: nothing tells which positions were used, and id and position name a callback for ever.
        known = meta = None
    identity = known or Header.fresh(now_ms)
    if meta is None:
        if path.exists():
            log.warning("journal file %s was damaged or out of use and is written anew", path)
        replace(path, Header(identity.journal_id, identity.salt, 0, identity.created_ms).pack(META_MAGIC))
    return identity


def _progress(folder: Path, identity: Header) -> Progress | None:
    try:
        file = CursorFile(folder / "cursor", Salt.of(identity.salt), writable=False)
    except FileNotFoundError:
        return None
    file.close()
    return file.latest


def _tail(
    folder: Path, identity: Header, found: tuple[Segment, ...], salt: Salt, hint: Hint
) -> tuple[Segments, int, int]:
    """Cut what follows the last good record.

    Returns the segments that stay, the position of the last good record, and the last position that the
    name of a segment without any vouches for (0: none).
    """
    named = 0
    while found:
        last = found[-1]
        position, end = last_record(last, salt, hint)
        if end > HEADER_BYTES:
            if end < last.size and _cut(last, end):
                last = Segment(last.first, last.path, end, last.touched_ms)
            return Segments(folder, identity, (*found[:-1], last)), position, named
        # Why: the crash came right after its creation. The name proves that all before it were in use.
        named = max(named, last.first - 1)
        _set_aside(last)
        found = found[:-1]
    return Segments(folder, identity, ()), 0, named


def last_record(segment: Segment, salt: Salt, hint: Hint) -> tuple[int, int]:
    """Return position and end (byte offset) of the last good record; ``HEADER_BYTES`` or less: none."""
    reader = Reader(salt, lambda damage: None)
    view = View((segment,), segment.size, MAX_POSITION)
    position, end = segment.first - 1, 0
    try:
        reader.seek(view, max(hint.position - 1, 0) if hint.segment == segment.first else 0, hint)
        while True:
            if reader.pass_over(view, MAX_POSITION):
                position, end = reader.last, reader.at
            if (found := reader.next(view)) is None:
                break
            position, end = found.position, found.end
        if not end and hint.segment == segment.first:
            return last_record(segment, salt, NONE.hint)
    finally:
        reader.close()
    return position, end


def _cut(segment: Segment, end: int) -> bool:
    """Copy the torn tail aside and cut it off; False when there was no room for the copy."""
    try:
        keep_damaged(segment.path, end, segment.size)
    except OSError as error:
        # Why harmless: the reader passes over it, to the records that are appended behind it.
        log.error("journal %s: torn tail from offset %d on is left in place: %s", segment.path, end, error)
        return False
    cut(segment.path, end)
    log.warning(
        "journal %s: %d bytes behind the last good record are cut off and kept in damaged/; after a crash "
        "these are callbacks that were never answered with 200",
        segment.path,
        segment.size - end,
    )
    return True


def _set_aside(segment: Segment) -> None:
    """Take a segment without any good record out of the journal; its bytes, if any, are kept."""
    if segment.size > HEADER_BYTES:
        target = segment.path.parent / "damaged" / f"{segment.path.stem}-0.bin"
        try:
            target.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            # Why beside: a full disk has no room for a folder, and must not keep the journal shut.
            if error.errno not in NO_SPACE:
                raise
            target = segment.path.with_suffix(".bin")
        segment.path.rename(target)
        log.error(
            "journal %s: %d bytes without a good record; moved to %s", segment.path, segment.size, target
        )
    else:
        segment.path.unlink()
    sync_dir(segment.path.parent)


def _lost(segments: Segments, last: int, head: int, cursor: int) -> tuple[Damage, ...]:
    """Return the positions above *cursor* that are missing before the first and behind the last record."""
    ranges = []
    if segments.closed:
        first = segments.closed[0]
        ranges.append((cursor + 1, first.first - 1, first.path, 0))
        ranges.append((max(last, cursor) + 1, head, segments.closed[-1].path, segments.closed[-1].size))
    else:
        ranges.append((cursor + 1, head, segments.folder, 0))
    return tuple(
        Damage(path, offset, 0, low, high - low + 1) for low, high, path, offset in ranges if high >= low
    )
