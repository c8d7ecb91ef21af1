"""The wiring: how the tasks of a process end."""

import asyncio

from gateway import run
from gateway.config import Config


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again(monkeypatch):
    """A driver may turn our cancellation into an error of its own; the stop does not wait for ever."""
    monkeypatch.setattr(run, "_END_S", 0.01)
    gateway = run.Gateway(Config(apps={"14": {}}), serves=False, works=True)
    begun = asyncio.Event()

    async def deaf():
        try:
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    gateway._start("deaf", deaf())
    await begun.wait()

    await asyncio.wait_for(gateway._end_tasks(), 10)
    assert gateway._tasks["deaf"].done()
