"""Reads the file of a jsonl sink and those put aside, plain or compressed: each line once."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_CLOSED = re.compile(r"\.\d{8}T\d{6}Z(?:-\d+)?(?:\.gz)?")


@dataclass(slots=True)
class _Place:
    """Where reading stopped; a plain file and what it was compressed to share one."""

    first: bytes
    """The first line: an inode that is free again is given to the next file."""
    read_bytes: int = 0


class LineFiles:
    """Keeps where it stopped reading."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        # Why by device and inode: a rename changes neither.
        self._places: dict[tuple[int, int], _Place] = {}
        # Why by the first line: compressing makes another file of the same lines.
        self._by_first: dict[bytes, _Place] = {}
        self._whole: set[str] = set()
        """Compressed files that are read to the end; they never grow."""

    def read(self, take: Callable[[bytes], None]) -> None:
        """Call *take* with each whole line that was not read before. Raises OSError."""
        for path in self._files():
            # Why passed over: it is there under another name, and the next look finds it.
            with suppress(FileNotFoundError):
                self._lines(path, take)

    def _files(self) -> Iterator[Path]:
        # Why this one first: rotated a moment later it is found again under its new name, the other way it
        # could be missed.
        if self._path.exists():
            yield self._path
        if self._path.parent.exists():
            for path in sorted(self._path.parent.iterdir()):
                name = path.name
                if name.startswith(self._path.name) and _CLOSED.fullmatch(name[len(self._path.name) :]):
                    yield path

    def _lines(self, path: Path, take: Callable[[bytes], None]) -> None:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            key = (status.st_dev, status.st_ino)
            if path.suffix != ".gz":
                self._read(key, file, take)
            elif path.name not in self._whole:
                # Why passed over: somebody else is compressing it; the plain file is still there.
                with suppress(EOFError, gzip.BadGzipFile, zlib.error), gzip.open(file) as packed:
                    self._read(key, packed, take)
                    self._whole.add(path.name)

    def _read(
        self, key: tuple[int, int], file: BinaryIO | gzip.GzipFile, take: Callable[[bytes], None]
    ) -> None:
        first = file.readline()
        if not first.endswith(b"\n"):
            return
        place = self._places.get(key)
        if place is None or place.first != first:
            is_packed = isinstance(file, gzip.GzipFile)
            place = (self._by_first.get(first) if is_packed else None) or _Place(first)
            self._places[key] = self._by_first[first] = place
        file.seek(place.read_bytes)
        for line in file:
            if line.endswith(b"\n"):  # else it is being written
                place.read_bytes += len(line)
                take(line)
