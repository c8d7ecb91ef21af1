"""What the sinks on local disk share: a thread of their own, private files, and errors in our words."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from gateway.errors import Unavailable

Result = TypeVar("Result")
_REASONS = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EFBIG: "disk_full",
    errno.EACCES: "no_rights",
    errno.EPERM: "no_rights",
    errno.EROFS: "no_rights",
}


class OwnThread:
    """One thread that runs what it is given, one after the other, off the event loop.

    A call that is cancelled runs on to its end in the thread, and the next one waits behind it; so what the
    functions share needs no lock.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._executor: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what *work* returned; the thread starts with the first call."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def end(self, last_work: Callable[[], None]) -> None:
        """Run *last_work* and let the thread end; nothing happens when it never started."""
        if self._executor is None:
            return
        await self.run(last_work)
        self._executor.shutdown(wait=False)  # Why not wait: it is idle, and waiting would block the loop
        self._executor = None


def make_folder(folder: Path) -> None:
    """Create *folder* with its parents, durably. Raises OSError."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* durable: files created, renamed or removed there. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_private(path: Path, flags: int) -> int:
    """Return a descriptor of the file *path*, created for its owner alone if missing. Raises OSError."""
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)


def unavailable(error: OSError, path: Path) -> Unavailable:
    """Return *error* as Unavailable: ``disk_full``, ``no_rights`` or ``io_error``."""
    reason = _REASONS.get(error.errno or 0, "io_error")
    return Unavailable(reason, f"{path}: {error.strerror or type(error).__name__}")
