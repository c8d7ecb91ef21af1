"""Memory of this process: what is freed goes back to the system, and cycles are looked for at leisure."""

from __future__ import annotations

import gc
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # Source: mallopt(3), malloc.h
_MMAP_BYTES = 128 * 1024
_TRIM_BYTES = 1024 * 1024
# Bound: so many objects that only a cycle keeps alive; the way of a callback makes none.
_NEW_OBJECTS, _YOUNG, _MIDDLE = 10_000, 50, 100


def give_back_what_is_freed() -> bool:
    """Fix glibc's two thresholds for this process; False where the C library has no such thing (musl, macOS).

    Blocks of 128 KiB and more are mapped one by one and go back when freed; at most 1 MiB stays free at the
    end of each arena. Left alone, glibc raises both with the largest block freed so far, to 32 and 64 MiB.
    """
    # Why any of these is fine: without it the process only holds more memory.
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES) and mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES))
    return False


def look_for_cycles_at_leisure() -> None:
    """Let Python look for cycles every 10,000 new objects instead of 700, and never at what is there."""
    # Why: with hundreds of callbacks under way it finds nothing, and takes a tenth of the processor.
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _YOUNG, _MIDDLE)
