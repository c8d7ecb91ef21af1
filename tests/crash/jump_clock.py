"""Runs the gateway's command line by another time of day: ``jump_clock.py FILE serve``.

FILE has an offset in seconds, and is read at every look at the clock. Monotonic clocks go on, as they do when
an administrator or a time service sets a machine's clock.

Why not libfaketime: 0.9.10, the one of Debian 12, gives Python 3.11 and newer wrong deadlines (its
clock_nanosleep fails with EINVAL, waits with a timeout hang), also with monotonic clocks excluded.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def arm(file: Path) -> None:
    real_ns = time.time_ns

    def time_ns() -> int:
        return real_ns() + int(file.read_text()) * 1_000_000_000

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


if __name__ == "__main__":
    arm(Path(sys.argv[1]))
    sys.argv = ["gateway", *sys.argv[2:]]
    from gateway.__main__ import main

    main()
