"""The end of a file of lines: written whole or not at all, and mended after a crash."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from gateway.errors import Unavailable
from gateway.event import parse_json

_BLOCK_BYTES = 64 * 1024
_log = logging.getLogger(__name__)


def write_all_or_nothing(fd: int, lines: bytes, size_bytes: int, *, is_synced: bool) -> None:
    """Append *lines* to the file of *size_bytes*, or take back what was written, raising OSError."""
    try:
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(fd, rest) :]
        if is_synced:
            os.fsync(fd)
    except OSError:
        with suppress(OSError):  # Why: what is left now is cut, or written a second time, after the next open
            if os.fstat(fd).st_size > size_bytes:
                os.ftruncate(fd, size_bytes)
        raise


def make_last_line_whole(fd: int, path: Path, sink: str) -> None:
    """Cut what a crash left of a line in *fd*; its event was not acknowledged and comes again.

    Raises Unavailable("foreign_file") when it ends in something else, and OSError.
    """
    size_bytes = os.fstat(fd).st_size
    tail = _after_last_newline(fd, size_bytes)
    if not tail:
        return
    if _is_json(tail):  # Why: only the line break is missing, so nothing needs to go
        write_all_or_nothing(fd, b"\n", size_bytes, is_synced=True)
        return
    if tail[:1] not in (b"{", b"\0"):  # a file system may leave zeros where a block was not written
        raise Unavailable(
            "foreign_file",
            f"{path} does not end in a line of events; move it away, or name another file.",
        )
    os.ftruncate(fd, size_bytes - len(tail))
    os.fsync(fd)
    _log.warning(
        "Sink %s: cut %d bytes off %s, a line torn by a crash; its event was not acked and comes again.",
        sink,
        len(tail),
        path,
    )


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
