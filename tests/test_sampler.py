"""Gauges that need asking: what they say, and that a fault in counting costs nothing else."""

import asyncio
import logging
import time
from types import SimpleNamespace

import pytest

from gateway.broker import Depth
from gateway.errors import Unavailable
from gateway.metrics import Metrics
from gateway.sampler import Sampler
from gateway.waiting import Watch


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def run_until(sampler, condition):
    task = asyncio.create_task(sampler.run())
    try:
        await until(lambda: condition() or task.done())
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_depths_and_ages_are_sampled():
    """They say what broker and journal said last."""
    metrics = Metrics()

    def sample(name, **labels):
        return metrics.registry.get_sample_value(f"gateway_{name}", labels)

    async def depth(name):
        return Depth(ready=4, unacked=None, retry=3, dead=2)

    async def unrouted():
        return 1

    journal = SimpleNamespace(oldest_waiting_ms=time.time_ns() // 1_000_000 - 90_000)
    sampler = Sampler(SimpleNamespace(depth=depth, unrouted=unrouted), ["one"], metrics, journal)
    await run_until(
        sampler, lambda: sample("unrouted_events") == 1 and sample("journal_oldest_waiting_seconds")
    )

    assert sample("sink_waiting_events", sink="one") == 4
    assert sample("sink_retrying_events", sink="one") == 3
    assert sample("sink_dead_events", sink="one") == 2
    assert 90 <= sample("journal_oldest_waiting_seconds") < 100


@pytest.mark.parametrize("fault", [Unavailable("away"), ValueError("STRANGER"), None])
async def test_gauges_that_can_not_be_asked_end_nothing(fault, caplog):
    """Neither a fault nor a broker that never answers; the journal's age goes on, and no text is logged."""
    metrics = Metrics()
    asked = []

    async def depth(name):
        asked.append(name)
        if fault is None:
            await asyncio.Event().wait()
        raise fault

    journal = SimpleNamespace(oldest_waiting_ms=1)
    sampler = Sampler(SimpleNamespace(depth=depth), ["one"], metrics, journal)

    def age():
        return metrics.registry.get_sample_value("gateway_journal_oldest_waiting_seconds")

    await run_until(sampler, lambda: asked and age())
    assert "STRANGER" not in caplog.text


async def test_a_queue_that_is_missing_holds_up_its_own_gauges_only():
    """The others are what is needed then."""
    metrics = Metrics()

    async def depth(name):
        if name == "one":
            raise Unavailable("missing", "deleted")
        return Depth(ready=4, unacked=None, retry=0, dead=0)

    sampler = Sampler(SimpleNamespace(depth=depth), ["one", "two"], metrics)

    await run_until(
        sampler,
        lambda: metrics.registry.get_sample_value("gateway_sink_waiting_events", {"sink": "two"}) == 4,
    )


async def test_a_long_backlog_is_logged_with_its_cause(caplog):
    """Number, age and room come from the journal, the cause from whoever publishes."""
    journal = SimpleNamespace(
        oldest_waiting_ms=time.time_ns() // 1_000_000 - 7_300_000,
        waiting=412,
        waiting_bytes=206_000,
        capacity_bytes=4096 * 1_048_576,
    )
    watch = Watch(4096, 512)
    sampler = Sampler(SimpleNamespace(), [], Metrics(), journal, watch, lambda: "refused")
    with caplog.at_level(logging.WARNING):
        await run_until(sampler, lambda: "412" in caplog.text)

    assert "The broker takes no events (refused): 412 callbacks (0.2 MB) wait on disk" in caplog.text
    assert "the oldest for about 2 h" in caplog.text
