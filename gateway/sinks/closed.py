"""The files that a jsonl sink has put aside: compressed, and the oldest removed, on a thread of their own.

At every moment each line stands in a plain file, or in a whole ``.gz`` beside it; what a crash leaves half
done is done again.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import threading
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.config import JsonlSink
from gateway.sinks.local import open_private, sync_folder

_log = logging.getLogger(__name__)
_NAME = re.compile(r"(?P<base>\.(?P<time>\d{8}T\d{6}Z)(?:-(?P<number>\d+))?)(?:\.gz(?:\.part)?)?")
_TIME = "%Y%m%dT%H%M%SZ"
_CHUNK_BYTES = 1024 * 1024


class ClosedFiles:
    """The files ``<path>.<UTC time>`` of one sink. ``look_after`` and ``stop`` are for one thread."""

    def __init__(self, config: JsonlSink, sink: str) -> None:
        """Take the name *sink* for the log."""
        self._config = config
        self._path = config.path.absolute()
        self._sink = sink
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._is_wanted = False
        self._must_stop = threading.Event()
        self._told = ""

    def free_name(self) -> Path:
        """Return the name for a file that is put aside now; ``-1``, … tells those of one second apart."""
        stem = f"{self._path.name}.{datetime.now(UTC):{_TIME}}"
        taken = {name.name for name in self._bases()}
        name, number = stem, 0
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        return self._path.with_name(name)

    def look_after(self) -> None:
        """Compress and remove what is due, in the background."""
        with self._lock:
            self._is_wanted = True
            if self._thread is None:
                self._must_stop.clear()
                self._thread = threading.Thread(target=self._run, name=f"closed-{self._sink}", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Return once nothing is under way; what is not finished begins anew next time."""
        self._must_stop.set()
        self.wait()

    def wait(self) -> None:
        """Return once everything that is due is done."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._is_wanted or self._must_stop.is_set():
                    self._thread = None
                    return
                self._is_wanted = False
            try:
                self._look()
                self._told = ""
            except (OSError, zlib.error) as error:
                self._tell(error)

    def _look(self) -> None:
        bases = list(self._bases())
        for at, base in enumerate(bases):
            if self._must_stop.is_set():
                return
            if self._is_due(base, len(bases) - at):
                self._remove(base)
            else:
                self._put_right(base)

    def _bases(self) -> Iterator[Path]:
        """Yield the names of the plain files, whether they or their ``.gz`` stand there, the oldest first."""
        found: dict[tuple[str, int], Path] = {}
        if self._path.parent.is_dir():
            for path in self._path.parent.iterdir():
                match = _NAME.fullmatch(path.name.removeprefix(self._path.name))
                if match is not None and path.name.startswith(self._path.name):
                    key = (match["time"], int(match["number"] or 0))
                    found[key] = path.with_name(self._path.name + match["base"])
        for key in sorted(found):
            yield found[key]

    def _is_due(self, base: Path, place: int) -> bool:
        """Say whether *base*, the *place*-th newest, is to be removed."""
        if self._config.keep_files and place > self._config.keep_files:
            return True
        match = _NAME.fullmatch(base.name.removeprefix(self._path.name))
        assert match is not None
        try:
            put_aside = datetime.strptime(match["time"], _TIME).replace(tzinfo=UTC)
        except ValueError:  # no time, though it has the digits of one
            return False
        keep = timedelta(days=self._config.keep_d)
        return bool(keep) and datetime.now(UTC) - put_aside > keep

    def _remove(self, base: Path) -> None:
        for path in (base, _gz(base), _part(base)):
            path.unlink(missing_ok=True)
        _log.info("Sink %s: removed %s, as keep_files and keep_d say.", self._sink, base.name)

    def _put_right(self, base: Path) -> None:
        """Leave one of the plain file and its ``.gz``: both stand there when a crash came in between."""
        _part(base).unlink(missing_ok=True)
        if not base.exists():
            return
        if _gz(base).exists():
            # Why read: who compresses by hand may be at it, or was interrupted.
            size_bytes = self._size_of(_gz(base))
            if size_bytes != base.stat().st_size:
                if not self._must_stop.is_set():
                    self._tell_half(base)
                return
        elif not self._config.gzip or not self._compress(base):
            return
        base.unlink()
        sync_folder(base.parent)

    def _compress(self, base: Path) -> bool:
        """Make the ``.gz`` of *base*, durably; False when it was stopped, or *base* has grown meanwhile."""
        part, read_bytes = _part(base), 0
        try:
            with open(open_private(part, os.O_WRONLY | os.O_TRUNC), "wb") as raw, base.open("rb") as plain:
                # Why level 6: the next ones take twice the time for a hundredth less.
                with gzip.GzipFile(base.name, "wb", 6, raw) as packed:
                    while chunk := plain.read(_CHUNK_BYTES):
                        if self._must_stop.is_set():
                            return False
                        packed.write(chunk)
                        read_bytes += len(chunk)
                status = os.fstat(plain.fileno())
                if status.st_size != read_bytes:
                    return False
                raw.flush()
                os.fsync(raw.fileno())
                os.utime(raw.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
            os.rename(part, _gz(base))
            sync_folder(base.parent)
            return True
        finally:
            part.unlink(missing_ok=True)

    def _size_of(self, gz: Path) -> int:
        """Return how much *gz* holds, -1 where it is not whole; the format has a checksum."""
        size_bytes = 0
        try:
            with gzip.open(gz) as packed:
                while chunk := packed.read(_CHUNK_BYTES):
                    if self._must_stop.is_set():
                        return -1
                    size_bytes += len(chunk)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            return -1
        return size_bytes

    def _tell(self, error: Exception) -> None:
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        if why != self._told:
            self._told = why
            _log.warning(
                "Sink %s: files put aside can't be compressed or removed (%s); they stay, and are tried again"
                " with the next one.",
                self._sink,
                why,
            )

    def _tell_half(self, base: Path) -> None:
        _log.warning(
            "Sink %s: %s is not whole, so %s stays beside it; delete the first if nobody is writing it.",
            self._sink,
            _gz(base).name,
            base.name,
        )


def _gz(base: Path) -> Path:
    return base.with_name(f"{base.name}.gz")


def _part(base: Path) -> Path:
    return base.with_name(f"{base.name}.gz.part")
