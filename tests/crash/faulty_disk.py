"""Runs the gateway's command line on a disk that fails as told: ``faulty_disk.py FOLDER serve``; see disk.py.

What runs is the installed gateway; only ``os.pwrite`` and ``os.fdatasync`` of the journal's files are wrapped.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from typing import Any

orders = Path()
_pwrite, _fdatasync = os.pwrite, os.fdatasync


def _order(name: str) -> str:
    try:
        return (orders / name).read_text()
    except FileNotFoundError:
        return ""


def _fail(name: str) -> None:
    if code := _order(name):
        number = getattr(errno, code)
        raise OSError(number, os.strerror(number))


def pwrite(fd: int, data: Any, at: int) -> int:
    path = Path(os.readlink(f"/proc/self/fd/{fd}"))
    if path.suffix == ".seg" or path.name == "probe":
        _fail("fail-write")
        if quota := _order("quota"):
            files = sum(one.stat().st_size for one in path.parent.iterdir() if one.is_file())
            if files + len(data) > int(quota):
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    return _pwrite(fd, data, at)


def fdatasync(fd: int) -> None:
    path = Path(os.readlink(f"/proc/self/fd/{fd}"))
    if path.suffix != ".seg":
        _fdatasync(fd)
        return
    size = os.fstat(fd).st_size
    while (orders / "hold-sync").exists():
        (orders / "held").write_text(str(size))
        time.sleep(0.002)
    _fail("fail-sync")
    _fdatasync(fd)
    with (orders / "synced").open("a") as log:
        log.write(f"{path.name} {size}\n")


if __name__ == "__main__":
    orders = Path(sys.argv[1])
    os.pwrite, os.fdatasync = pwrite, fdatasync
    sys.argv = ["gateway", *sys.argv[2:]]
    from gateway.__main__ import main

    main()
