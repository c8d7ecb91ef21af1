"""The journal's folder: names and headers of segment files, the ``meta`` file, the lock, fsync of folders."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from zlib import crc32

from gateway.errors import ConfigError, FolderInUse
from gateway.record import SALT_BYTES

log = logging.getLogger(__name__)

FORMAT = 1
SEGMENT_MAGIC = b"IMJSEG\r\n"
META_MAGIC = b"IMJMETA\n"
# Why fixed for all formats: magic, format and a CRC over the first 60 of 64 bytes, so that an older release
# can tell a newer format from damage.
_HEADER = Struct(">8sHxx8s16sQQ8xI")
HEADER_BYTES = _HEADER.size
_BLOCK = 4096
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Header:
    """What stands at the start of every segment file, and alone in ``meta``."""

    journal_id: str
    """16 hex digits."""
    salt: bytes
    """Secret of the checksums, ``SALT_BYTES`` bytes."""
    first: int
    """Position of the segment's first record; 0 in ``meta``."""
    created_ms: int

    def pack(self, magic: bytes) -> bytes:
        """Return the header's 64 bytes."""
        raw = _HEADER.pack(
            magic, FORMAT, bytes.fromhex(self.journal_id), self.salt, self.first, self.created_ms, 0
        )
        return raw[:-4] + crc32(raw[:-4]).to_bytes(4, "big")

    @classmethod
    def unpack(cls, magic: bytes, raw: bytes, path: Path) -> Header | None:
        """Return the header in *raw*, None when it is damaged; ConfigError when a newer release wrote it."""
        if len(raw) != HEADER_BYTES or crc32(raw[:-4]) != int.from_bytes(raw[-4:], "big"):
            return None
        found, version, journal_id, salt, first, created_ms, _ = _HEADER.unpack(raw)
        if found != magic:
            return None
        if version > FORMAT:
            raise ConfigError(
                f"journal.dir: {path} has format {version}, written by a newer release; this one reads up to "
                f"{FORMAT}. Start the newer release, or name another folder."
            )
        return cls(journal_id.hex(), salt, first, created_ms)

    @classmethod
    def fresh(cls, now_ms: int) -> Header:
        """Return the identity of a new journal."""
        return cls(secrets.token_hex(8), secrets.token_bytes(SALT_BYTES), 0, now_ms)

    @classmethod
    def read(cls, magic: bytes, path: Path) -> Header | None:
        """Return the header at the start of the file *path*; None when it is damaged or not there."""
        try:
            with path.open("rb", buffering=0) as file:
                # Why not file.read: a block that the disk cannot read is damage, not a reason not to start.
                return cls.unpack(magic, read_some(file.fileno(), 0, HEADER_BYTES), path)
        except FileNotFoundError:
            return None


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment file."""

    first: int
    """Position of its first record, also its name."""
    path: Path
    size: int
    """Bytes, the header's included."""
    touched_ms: int
    """Unix time in milliseconds of the last write."""
    start: int = 0
    """Bytes of all segments before it, counted from the oldest that was there when the journal was opened."""


def segment_path(folder: Path, first: int) -> Path:
    return folder / f"{first:020d}.seg"


def list_segments(folder: Path) -> tuple[Segment, ...]:
    """Return the segment files in *folder*, by position; what vanishes meanwhile is left out."""
    found = []
    for path in folder.glob("*.seg"):
        if len(path.stem) != 20 or not (path.stem.isascii() and path.stem.isdigit()):
            continue
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        found.append(Segment(int(path.stem), path, stat.st_size, stat.st_mtime_ns // 1_000_000))
    return tuple(sorted(found, key=lambda segment: segment.first))


def sync_dir(folder: Path) -> None:
    """Make the names in *folder* durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_dir(folder: Path) -> None:
    """Create *folder* with its parents, durable and closed to other users."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700 if path == folder else 0o755, exist_ok=True)
        sync_dir(path.parent)
    if folder.stat().st_mode & 0o077:
        try:
            folder.chmod(0o700)
        except PermissionError:
            log.warning("journal.dir %s is open to other users; its files are not (mode 0600)", folder)


def create(path: Path, content: bytes) -> int:
    """Create the file *path* (mode 0600) with *content* and its durable name; return the descriptor.

    The content itself is durable only after the next fdatasync. Nothing is left behind on an error.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, content, 0)
    except OSError:
        os.close(fd)
        path.unlink()
        raise
    sync_dir(path.parent)
    return fd


def write_all(fd: int, content: bytes, at: int) -> None:
    """Write *content* at the byte offset *at*, however many calls that takes."""
    view = memoryview(content)
    while view:
        done = os.pwrite(fd, view, at)
        at += done
        view = view[done:]


def replace(path: Path, content: bytes) -> None:
    """Make *content* the content of *path*: after a crash it is the old or the new one."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    fd = create(fresh, content)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    fresh.rename(path)
    sync_dir(path.parent)


def cut(path: Path, end: int) -> None:
    """Make *path* end at the byte offset *end*; durable only after the next fdatasync."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, end)
    finally:
        os.close(fd)


def read_some(fd: int, at: int, count: int) -> bytes:
    """Return up to *count* bytes from offset *at*; zeros stand for blocks that the disk cannot read."""
    try:
        return os.pread(fd, count, at)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    stops = [*range((at // _BLOCK + 1) * _BLOCK, at + count, _BLOCK), at + count]
    if len(stops) == 1:
        return bytes(count)
    return b"".join(
        read_some(fd, start, stop - start) for start, stop in zip([at, *stops], stops, strict=False)
    )


def keep_damaged(path: Path, at: int, end: int) -> bool:
    """Copy the bytes *at* to *end* of *path* into ``damaged/``; False when that copy stood there already.

    Raises OSError when there is no room for it.
    """
    folder = path.parent / "damaged"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"{path.stem}-{at}.bin"
    if target.exists():
        return False
    with path.open("rb") as source:
        data = read_some(source.fileno(), at, end - at)
    fd = create(target, data)
    os.close(fd)
    return True


class Lock:
    """The right to write to a folder; the kernel gives it back when the process ends."""

    def __init__(self, folder: Path) -> None:
        """Take it; raise ConfigError when another process has it."""
        self._fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise FolderInUse(
                f"journal.dir: {folder} is in use by another gateway process (pid {pid}); stop it, or give "
                "this one a folder of its own"
            ) from None
        # Why suppressed: a full disk must not keep the journal shut, whose backlog may be what fills it.
        with suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._fd)
