"""What is freed goes back to the system, whatever was freed before; elsewhere than on glibc nothing breaks."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gateway import allocator

# In a process of its own: the settings are for life. Blocks as bad input leaves them: one large one, freed; then
# many below and some above 128 KiB. Prints how many bytes of those above are mapped, and how many stay free.
CHILD = """
import ctypes, sys
from gateway import allocator

libc = ctypes.CDLL(None)
fields = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in fields]
libc.mallinfo2.restype = Info
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

assert allocator.give_back_what_is_freed()
libc.free(libc.malloc(24 << 20))
small = [libc.malloc(100 << 10) for _ in range(80)]
mapped = libc.mallinfo2().hblkhd
large = [libc.malloc(1 << 20) for _ in range(8)]
mapped = libc.mallinfo2().hblkhd - mapped
for block in large + small[::-1]:
    libc.free(block)
print(mapped, libc.mallinfo2().fordblks)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or newer")
def test_a_large_block_that_was_freed_does_not_make_others_stay():
    """Left alone, glibc keeps blocks up to the size of the largest one freed so far, in each arena."""
    # Why different environments: their size decides where blocks lie, and one like the other shows the same.
    runs = [
        subprocess.run(
            [sys.executable, "-c", CHILD], env={**os.environ, "PADDING": "x" * 300 * number},
            capture_output=True, text=True, timeout=60, check=False,
        )
        for number in range(8)
    ]  # fmt: skip
    assert all(done.returncode == 0 for done in runs), runs
    mapped, free = zip(*(map(int, done.stdout.split()) for done in runs), strict=True)

    assert min(mapped) >= 8 << 20
    # Why the least: now and then a block of the interpreter's own stands above the freed ones and keeps them.
    assert min(free) < 3 << 20


@pytest.mark.parametrize(
    "fault", [OSError("no library"), AttributeError("no mallopt"), ImportError("no ctypes")]
)
def test_without_glibc_nothing_happens(monkeypatch, fault):
    """musl and macOS have no mallopt, some builds of Python no ctypes; the gateway runs there too."""

    def fail(name):
        raise fault

    monkeypatch.setattr(ctypes, "CDLL", fail)

    assert allocator.give_back_what_is_freed() is False


def test_what_the_c_library_refuses_is_told(monkeypatch):
    """0 is mallopt's word for an error."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=lambda what, value: 0))

    assert allocator.give_back_what_is_freed() is False
