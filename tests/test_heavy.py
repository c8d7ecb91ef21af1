"""Large JSON is read away from the loop, few bodies a stage at a time, and no stage waits for another."""

import asyncio
import threading

import pytest

from gateway.heavy import HEAVY_BYTES, Heavy


async def test_what_is_small_is_read_at_once():
    """A hop to a thread would cost more than it saves."""
    assert await Heavy("one").run(HEAVY_BYTES, threading.get_ident) == threading.get_ident()


async def test_what_is_large_leaves_the_loop_free():
    """Whoever waits for an answer gets it meanwhile."""
    is_free = threading.Event()
    reading = asyncio.create_task(Heavy("one").run(HEAVY_BYTES + 1, is_free.wait, 10))
    asyncio.get_running_loop().call_soon(is_free.set)

    assert await reading


@pytest.mark.parametrize("threads", [1, 2])
async def test_a_stage_reads_on_so_many_threads(threads):
    """However many bodies come at once, no more of them hold the interpreter."""
    heavy, go = Heavy("one", threads), threading.Event()

    def read():
        assert go.wait(10)
        return threading.get_ident()

    readings = [asyncio.create_task(heavy.run(HEAVY_BYTES + 1, read)) for _ in range(8)]
    await asyncio.sleep(0)
    go.set()

    assert 1 <= len(set(await asyncio.gather(*readings))) <= threads


async def test_a_stage_does_not_wait_for_another():
    """One sink's batch holds up neither another sink's nor an answer."""
    is_read = threading.Event()
    stuck = asyncio.create_task(Heavy("one").run(HEAVY_BYTES + 1, is_read.wait, 10))
    await asyncio.sleep(0)
    await Heavy("other").run(HEAVY_BYTES + 1, is_read.set)

    assert await stuck


async def test_what_goes_wrong_on_the_thread_is_raised_here():
    """A refusal is one wherever it was found."""
    with pytest.raises(ValueError, match="no number"):
        await Heavy("one").run(HEAVY_BYTES + 1, int, "no number")
