"""Faults of the journal's disk, for real processes: one that fails as told, a small file system, damaged files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct

LAUNCHER = Path(__file__).with_name("faulty_disk.py")
# Why our own: a test that finds records with the code that it tests would not see that both are wrong.
_SEGMENT_HEADER_BYTES = 64
_RECORD = Struct(">4sIQII")


class MayNotMount(Exception):
    """This user or this container has no right to mount."""


class FaultyDisk:
    """The orders to one gateway process that was started with ``launcher``; they hold at once."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.launcher = (sys.executable, str(LAUNCHER), str(folder))

    def hold_syncs(self) -> None:
        """Let every fdatasync of a segment wait."""
        (self._folder / "hold-sync").touch()

    @property
    def is_holding(self) -> bool:
        """Something was written whose fdatasync waits."""
        return (self._folder / "held").exists()

    def fail_syncs(self, code: str) -> None:
        """Let fdatasync fail with the errno *code*, ``EIO`` say."""
        (self._folder / "fail-sync").write_text(code)

    def fail_writes(self, code: str) -> None:
        (self._folder / "fail-write").write_text(code)

    def limit(self, count: int) -> None:
        """Let writes fail as a quota of *count* bytes for the journal's folder does."""
        (self._folder / "quota").write_text(str(count))

    def mend(self) -> None:
        for name in ("hold-sync", "fail-sync", "fail-write", "quota", "held"):
            (self._folder / name).unlink(missing_ok=True)

    def lose_unsynced(self, journal: Path) -> int:
        """Take from the segments what no fdatasync covered, as a power cut may; return how many bytes.

        The process has to be dead. Simplified: the kernel may also keep any part of it.
        """
        synced: dict[str, int] = {}
        log = self._folder / "synced"
        for line in log.read_text().splitlines() if log.exists() else []:
            name, size = line.split()
            synced[name] = int(size)
        lost = 0
        for path in segments(journal):
            size = path.stat().st_size
            keep = min(size, synced.get(path.name, 0))
            os.truncate(path, keep)
            lost += size - keep
        return lost


@contextmanager
def small_filesystem(folder: Path, mb: int, kind: str) -> Iterator[Path]:
    """Mount a file system of *mb* MiB, ``tmpfs`` or ``ext4``; raise MayNotMount where that is not permitted."""
    folder.mkdir(parents=True)
    if kind == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", f"size={mb}m", "tmpfs", str(folder)]
    else:
        image = folder.with_suffix(".img")
        image.write_bytes(b"")
        os.truncate(image, mb * 1024 * 1024)
        # Why without a reserve: it is root's, and the tests may run as root.
        _run(["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", str(image)])
        mount = ["mount", "-o", "loop", str(image), str(folder)]
    _run(mount)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _run(words: list[str]) -> None:
    try:
        done = subprocess.run(words, capture_output=True, check=False, text=True)
    except FileNotFoundError:
        raise MayNotMount(f"{words[0]} is not installed") from None
    if done.returncode:
        raise MayNotMount(f"{words[0]}: {done.stderr.strip()}")


def segments(journal: Path) -> list[Path]:
    return sorted(journal.glob("*.seg"))


def tear_tail(journal: Path) -> int:
    """Append the first half of the last record once more, as a crash in the middle of a write does."""
    last = segments(journal)[-1]
    at, size, _ = list(_records(last))[-1]
    half = last.read_bytes()[at : at + size // 2]
    with last.open("ab") as file:
        file.write(half)
    return len(half)


def damage_record(journal: Path, position: int) -> tuple[Path, int]:
    """Flip one bit in the middle of the record at *position*; return its file and offset."""
    for path in segments(journal):
        for at, size, found in _records(path):
            if found == position:
                raw = bytearray(path.read_bytes())
                raw[at + size // 2] ^= 1
                path.write_bytes(raw)
                return path, at
    raise AssertionError(f"no record at position {position}")


def _records(path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield offset, bytes and position of each record of an undamaged segment."""
    raw = path.read_bytes()
    at = _SEGMENT_HEADER_BYTES
    while at < len(raw):
        _, length, position, _, _ = _RECORD.unpack_from(raw, at)
        yield at, _RECORD.size + length, position
        at += _RECORD.size + length
