"""The jsonl sink: one event a line in a file, exactly as it travelled, with one fsync per batch.

It owns the file, its rotation and the lock beside it. Nothing here touches the event loop but ``Jsonl``.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from gateway.config import JsonlSink
from gateway.errors import Unavailable
from gateway.event import Event, one_line, parse_json
from gateway.sinks import Failures
from gateway.sinks.local import OwnThread, make_folder, open_private, sync_folder, unavailable

_MB = 1024 * 1024
_BLOCK_BYTES = 64 * 1024
_log = logging.getLogger(__name__)


class Jsonl:
    """A file of events, ``config.path``; full ones are kept beside it as ``<path>.<UTC time>``."""

    def __init__(self, config: JsonlSink, name: str) -> None:
        self._file = LineFile(config.path, config.rotate_mb * _MB, name)
        self._thread = OwnThread(f"sink-{name}")

    async def open(self) -> None:
        """Take the lock, open the file and put right what a crash left at its end. Raises Unavailable."""
        await self._thread.run(self._file.open)

    async def write(self, events: Sequence[Event]) -> Failures:
        """Append *events*, in order; all or none is durable. Raises Unavailable."""
        await self._thread.run(lambda: self._file.append([event.body for event in events]))
        return {}

    async def close(self) -> None:
        """Close the file and free the lock."""
        await self._thread.end(self._file.close)


class LineFile:
    """A file that holds whole lines only, and has one writer. Blocks; use it on one thread."""

    def __init__(self, path: Path, rotate_bytes: int, sink: str) -> None:
        """Take *rotate_bytes*, above which the file is put aside (0: never), and the name *sink* for logs."""
        self._path = path.absolute()
        self._lock_path = self._path.with_name(f"{path.name}.lock")
        self._rotate_bytes = rotate_bytes
        self._sink = sink
        self._fd: int | None = None
        self._lock_fd: int | None = None

    def open(self) -> None:
        """Lock and open the file, its last line made whole; nothing to do when it is open.

        Raises Unavailable: ``locked``, ``foreign_file``, ``disk_full``, ``no_rights`` or ``io_error``.
        """
        with self._closed_after_failure():
            self._ensure_open()

    def append(self, bodies: Sequence[bytes]) -> None:
        """Write one line for each of *bodies*, durably. Raises Unavailable; then the file is closed."""
        if self._fd is None:
            raise Unavailable("not_open", f"{self._path} is not open.")
        if not bodies:
            return
        lines = b"".join(one_line(body) + b"\n" for body in bodies)
        with self._closed_after_failure():
            fd = self._ensure_open()
            size_bytes = os.fstat(fd).st_size
            if self._rotate_bytes and size_bytes and size_bytes + len(lines) > self._rotate_bytes:
                fd, size_bytes = self._rotate(fd), 0
            _write_all_or_nothing(fd, lines, size_bytes)

    def close(self) -> None:
        """Close the file and free the lock; safe to call again."""
        for fd in (self._fd, self._lock_fd):
            if fd is not None:
                with suppress(OSError):  # Why: the descriptor is free even so, and lines were synced before
                    os.close(fd)
        self._fd = self._lock_fd = None

    @contextmanager
    def _closed_after_failure(self) -> Iterator[None]:
        # Why closed: after a failed fsync the kernel may hold pages as clean that never reached the disk.
        try:
            yield
        except OSError as error:
            self.close()
            raise unavailable(error, self._path) from error
        except Unavailable:
            self.close()
            raise

    def _ensure_open(self) -> int:
        if self._fd is not None and self._lock_fd is not None:
            if _is_at(self._fd, self._path) and _is_at(self._lock_fd, self._lock_path):
                return self._fd
            _log.info("Sink %s: %s was moved or deleted; going on in a new file.", self._sink, self._path)
            self.close()
        make_folder(self._path.parent)
        self._lock()
        fd = self._open_file()
        self._make_last_line_whole(fd)
        return fd

    def _lock(self) -> None:
        # Why a file of its own: a lock on the data would move away with it at rotation.
        self._lock_fd = open_private(self._lock_path, os.O_RDWR)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unavailable(
                "locked",
                f"{self._path} is written by another process, which holds {self._lock_path.name}; stop"
                " that one, or give this sink a file of its own.",
            ) from error

    def _open_file(self) -> int:
        # Why O_NONBLOCK: opening a named pipe would wait for ever; regular files ignore it.
        self._fd = open_private(self._path, os.O_RDWR | os.O_APPEND | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise Unavailable("foreign_file", f"{self._path} is not a regular file; name another one.")
        sync_folder(self._path.parent)
        return self._fd

    def _rotate(self, full_fd: int) -> int:
        """Put the full file aside and return the descriptor of a new one."""
        aside = _free_name(self._path)
        os.rename(self._path, aside)
        self._fd = None
        os.close(full_fd)
        _log.info("Sink %s: %s is full and kept as %s.", self._sink, self._path, aside.name)
        return self._open_file()

    def _make_last_line_whole(self, fd: int) -> None:
        """Cut what a crash left of a line; its event was not acknowledged and comes again."""
        size_bytes = os.fstat(fd).st_size
        tail = _after_last_newline(fd, size_bytes)
        if not tail:
            return
        if _is_json(tail):  # Why: only the line break is missing, so nothing needs to go
            _write_all_or_nothing(fd, b"\n", size_bytes)
            return
        if tail[:1] not in (b"{", b"\0"):  # a file system may leave zeros where a block was not written
            raise Unavailable(
                "foreign_file",
                f"{self._path} does not end in a line of events; move it away, or name another file.",
            )
        os.ftruncate(fd, size_bytes - len(tail))
        os.fsync(fd)
        _log.warning(
            "Sink %s: cut %d bytes off %s, a line torn by a crash; its event was not acked and comes again.",
            self._sink,
            len(tail),
            self._path,
        )


def _write_all_or_nothing(fd: int, lines: bytes, size_bytes: int) -> None:
    """Append *lines* to the file of *size_bytes*, durably, or take back what was written, raising OSError."""
    try:
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    except OSError:
        with suppress(OSError):  # Why: what is left now is cut, or written a second time, after the next open
            if os.fstat(fd).st_size > size_bytes:
                os.ftruncate(fd, size_bytes)
        raise


def _after_last_newline(fd: int, size_bytes: int) -> bytes:
    """Return the bytes behind the last line break: empty when the file ends in whole lines."""
    tail = b""
    at = size_bytes
    while at > 0:
        start = max(0, at - _BLOCK_BYTES)
        block = os.pread(fd, at - start, start)
        newline = block.rfind(b"\n")
        if newline >= 0:
            return block[newline + 1 :] + tail
        tail = block + tail
        at = start
    return tail


def _is_json(text: bytes) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


def _is_at(fd: int, path: Path) -> bool:
    """Say whether the open file *fd* still stands at *path*."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _free_name(path: Path) -> Path:
    """Return ``<path>.<UTC time>``, with ``-1``, ``-2``, … where that name is taken."""
    stem = f"{path.name}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    name, number = path.with_name(stem), 0
    while name.exists():
        number += 1
        name = path.with_name(f"{stem}-{number}")
    return name
