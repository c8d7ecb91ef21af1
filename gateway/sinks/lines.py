"""A file of whole lines with one writer: locked, mended after a crash, put aside when it is large or old.

Everything here blocks; the jsonl sink calls it on one thread.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.config import JsonlSink
from gateway.errors import Unavailable
from gateway.event import one_line
from gateway.sinks.closed import ClosedFiles
from gateway.sinks.last_line import make_last_line_whole, write_all_or_nothing
from gateway.sinks.local import make_folder, open_private, sync_folder, unavailable

_MB = 1024 * 1024
SYNC_S = 1.0
"""fsync interval: for at most so long a line stands in the file and not on the disk."""
_log = logging.getLogger(__name__)


class LineFile:
    """``config.path``; full ones are kept beside it as ``<path>.<UTC time>``."""

    def __init__(self, config: JsonlSink, sink: str, now_s: Callable[[], float] = time.time) -> None:
        """Take the name *sink* for logs."""
        self._config = config
        self._path = config.path.absolute()
        self._lock_path = self._path.with_name(f"{self._path.name}.lock")
        self._sink = sink
        self._now_s = now_s
        self._fd: int | None = None
        self._lock_fd: int | None = None
        self._began_s = 0.0
        """When the first line of the file was written, Unix time."""
        self._unsynced_since_s: float | None = None
        """With fsync: interval, how long a line has waited for it (monotonic)."""
        self.closed = ClosedFiles(config, sink)

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
        most_bytes = self._config.rotate_mb * _MB
        with self._closed_after_failure():
            fd = self._ensure_open()
            size_bytes = os.fstat(fd).st_size
            if size_bytes and ((most_bytes and size_bytes + len(lines) > most_bytes) or self._is_old()):
                fd, size_bytes = self._rotate(fd), 0
            if not size_bytes:
                self._note_begin(fd, self._now_s())
            write_all_or_nothing(fd, lines, size_bytes, is_synced=self._config.fsync == "always")
            if self._config.fsync == "interval" and self._unsynced_since_s is None:
                self._unsynced_since_s = time.monotonic()

    def chores(self) -> float | None:
        """Do what is due without a new line (fsync, rotation); return in how many seconds more will be.

        None: nothing before the next line. Raises Unavailable; then the file is closed.
        """
        if self._fd is None:
            return None
        with self._closed_after_failure():
            if self._unsynced_since_s is not None and time.monotonic() - self._unsynced_since_s >= SYNC_S:
                self._sync(self._fd)
            fd = self._ensure_open()
            size_bytes = os.fstat(fd).st_size
            if size_bytes and self._is_old():
                self._rotate(fd)
                size_bytes = 0
        waits_s = []
        if self._unsynced_since_s is not None:
            waits_s.append(self._unsynced_since_s + SYNC_S - time.monotonic())
        if size_bytes and self._config.rotate_h:
            waits_s.append(self._began_s + self._config.rotate_h * 3600 - self._now_s())
        return max(0.0, min(waits_s)) if waits_s else None

    def close(self) -> None:
        """Close the file and free the lock; safe to call again."""
        self.closed.stop()
        if self._fd is not None and self._unsynced_since_s is not None:
            with suppress(OSError):  # it is said, and there is nothing more to be done
                self._sync(self._fd)
        self._unsynced_since_s = None
        for fd in (self._fd, self._lock_fd):
            if fd is not None:
                with suppress(OSError):  # Why: the descriptor is free even so
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
        make_last_line_whole(fd, self._path, self._sink)
        self._find_begin(fd)
        self.closed.look_after()
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
        if self._unsynced_since_s is not None:
            self._sync(full_fd)
        aside = self.closed.free_name()
        os.rename(self._path, aside)
        self._fd = None
        os.close(full_fd)
        _log.info("Sink %s: %s is kept as %s.", self._sink, self._path, aside.name)
        fd = self._open_file()
        self.closed.look_after()
        return fd

    def _sync(self, fd: int) -> None:
        try:
            os.fsync(fd)
        except OSError:
            _log.error(
                "Sink %s: fsync of %s failed; lines of the last second are acknowledged and may be lost, as"
                " fsync: interval allows.",
                self._sink,
                self._path,
            )
            raise
        finally:
            self._unsynced_since_s = None

    def _is_old(self) -> bool:
        age_s = self._now_s() - self._began_s
        return bool(self._config.rotate_h) and age_s >= self._config.rotate_h * 3600

    def _note_begin(self, fd: int, began_s: float) -> None:
        """Remember when the file begins, over restarts too: no file system tells it."""
        self._began_s = began_s
        assert self._lock_fd is not None
        text = f"{os.fstat(fd).st_ino} {began_s:.0f}\n".encode()
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, text, 0)

    def _find_begin(self, fd: int) -> None:
        status = os.fstat(fd)
        assert self._lock_fd is not None
        inode, _, began = os.pread(self._lock_fd, 100, 0).decode("ascii", "replace").partition(" ")
        if inode == str(status.st_ino) and began.strip().isdigit():
            self._began_s = min(float(began), self._now_s())
        elif status.st_size:
            self._note_begin(fd, min(status.st_mtime, self._now_s()))


def _is_at(fd: int, path: Path) -> bool:
    """Say whether the open file *fd* still stands at *path*."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
