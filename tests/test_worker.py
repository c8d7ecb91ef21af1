"""The worker against a real broker (embedded) and a sink that fails as told."""

import asyncio
import contextlib
import json
import logging
import threading
import weakref

import pytest

from gateway import worker as stage
from gateway.broker import Delivery
from gateway.broker.embedded import Embedded
from gateway.config import JsonlSink
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.metrics import Metrics
from gateway.topology import Topology
from gateway.worker import Worker
from tests.rabbitmq_world import event, value

TOPOLOGY = Topology.of("im.events", {"one": ("#",)})


class Scripted:
    """A sink that does with each write what its script says next, and remembers what stayed."""

    def __init__(self, *script):
        self.script = list(script)
        self.written = []
        self.sizes = []
        self.opened = 0
        self.closed = 0
        self.wrote = asyncio.Event()

    async def open(self):
        self.opened += 1

    async def write(self, events):
        step = self.script.pop(0) if self.script else {}
        if callable(step):
            step = await step()
        if isinstance(step, BaseException):
            raise step
        self.sizes.append(len(events))
        failures = {at: why for at, why in step.items() if at < len(events)}
        self.written += [event.data["n"] for at, event in enumerate(events) if at not in failures]
        self.wrote.set()
        return failures

    async def close(self):
        self.closed += 1


@pytest.fixture
async def world(tmp_path):
    """Return (broker, start): start(sink, **settings) runs a worker on the sink and returns it with its metrics."""
    async with contextlib.AsyncExitStack() as stack:
        broker = Embedded(tmp_path / "broker.db", TOPOLOGY, Metrics())
        stack.push_async_callback(broker.close)

        def start(sink, **settings):
            metrics = Metrics()
            config = JsonlSink(kind="jsonl", path=tmp_path / "x", **{"batch_max_wait_ms": 0, **settings})
            worker = Worker("one", config, sink, broker, metrics)
            task = asyncio.create_task(worker.run())

            async def stop():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            stack.push_async_callback(stop)
            return worker, metrics, stop

        yield broker, start


def sized(number, size_bytes):
    """Return an event of about *size_bytes*."""
    small = event(number)
    return Event(json.dumps({**json.loads(small.body), "extra": "x" * size_bytes}).encode(), small.attributes)


async def publish(broker, *events):
    async with broker.publisher() as publisher:
        await (await publisher.send(events))


async def until(condition, deadline_s=10):
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.01)


async def settled(broker):
    async with asyncio.timeout(10):
        while True:
            depth = await broker.depth("one")
            if not depth.ready and not depth.unacked:
                return depth
            await asyncio.sleep(0.01)


async def test_events_are_written_in_order_and_acknowledged(world):
    """The plain way: batches, order, nothing left, all counted."""
    broker, start = world
    await publish(broker, *(event(n) for n in range(100)))
    sink = Scripted()
    _, metrics, _ = start(sink, batch_max_events=7)

    await until(lambda: len(sink.written) == 100)
    await settled(broker)
    assert sink.written == list(range(100))
    assert value(metrics.sink_written, sink="one") == 100
    assert value(metrics.sink_available, sink="one") == 1


async def test_nothing_is_acknowledged_before_the_write_returns(world):
    """A worker that dies in the middle of a write leaves its events to the next one."""
    broker, start = world
    await publish(broker, event(1), event(2))
    stuck = asyncio.Event()

    async def hang():
        stuck.set()
        await asyncio.Event().wait()

    _, _, stop = start(Scripted(hang))
    await asyncio.wait_for(stuck.wait(), 10)
    await stop()
    sink = Scripted()
    start(sink)

    await until(lambda: sink.written == [1, 2])


async def test_poison_is_parked_with_its_reason_and_the_others_go_on(world, caplog):
    """One bad event holds nobody up; it stands in the dead queue with reason and time."""
    broker, start = world
    await publish(broker, *(event(n) for n in range(5)))
    sink = Scripted({2: Poison("too_odd", "a sentence")})
    _, metrics, _ = start(sink)
    await until(lambda: sink.written == [0, 1, 3, 4])
    depth = await settled(broker)
    [dead] = await broker.peek("one", 10, dead=True)

    assert depth.dead == 1
    assert json.loads(dead.body)["data"]["n"] == 2
    assert dead.headers["reason"] == "too_odd"
    assert abs(int(dead.headers["parked_ms"]) / 1000 - __import__("time").time()) < 60
    assert value(metrics.sink_parked, sink="one", reason="too_odd") == 1
    assert event(2).id in caplog.text


async def test_what_is_no_event_is_parked(world, caplog):
    """A stranger's message in our queue is parked, and its text stays out of the log."""
    broker, start = world
    stranger = Event(b"STRANGER", {**event(1).attributes, "id": "STRANGER\x1b"})
    await publish(broker, stranger, event(2))
    sink = Scripted()
    start(sink)
    await until(lambda: sink.written == [2])
    await settled(broker)
    [dead] = await broker.peek("one", 10, dead=True)

    assert dead.body == b"STRANGER"
    assert dead.headers["reason"] == "not_an_event"
    assert "STRANGER" not in caplog.text


async def test_an_event_for_later_comes_again_with_the_next_attempt(world):
    """A failure of one event goes to the delayed retry and does not block those behind it."""
    broker, start = world
    await publish(broker, *(event(n) for n in range(3)))
    sink = Scripted({1: Unavailable("busy_row")})
    _, metrics, _ = start(sink)
    await until(lambda: sink.written == [0, 2])
    depth = await settled(broker)

    assert depth.retry == 1
    assert value(metrics.sink_retried, sink="one", reason="busy_row") == 1


@pytest.mark.parametrize("fault", [Unavailable("away", "down"), TimeoutError(), RuntimeError("a bug")])
async def test_a_sink_that_is_away_is_waited_for_in_place(world, caplog, fault):
    """Nothing is parked, lost or reordered; the change of state is said once, with the consequence."""
    caplog.set_level(logging.INFO)
    broker, start = world
    await publish(broker, *(event(n) for n in range(4)))
    sink = Scripted(fault, fault)
    _, metrics, _ = start(sink)

    await until(lambda: sink.written == [0, 1, 2, 3])
    assert (await settled(broker)).dead == 0
    told = [record.getMessage() for record in caplog.records if "takes nothing" in record.getMessage()]
    assert len(told) == 1
    assert "its events wait" in told[0]
    assert any("takes events again" in record.getMessage() for record in caplog.records)
    assert sink.opened >= 2
    assert value(metrics.sink_available, sink="one") == 1


async def test_a_write_that_hangs_is_given_up(world):
    """write_timeout_s bounds it; the events come again."""
    broker, start = world
    await publish(broker, event(1))

    async def hang():
        await asyncio.Event().wait()

    sink = Scripted(hang)
    start(sink, write_timeout_s=0.1)

    await until(lambda: sink.written == [1])


async def test_what_is_held_and_for_how_long_is_shown(world):
    """A sink that hangs is seen by the age of what its worker holds, long before its queue grows."""
    broker, start = world
    await publish(broker, event(1), event(2))
    writing, gate = asyncio.Event(), asyncio.Event()

    async def slow():
        writing.set()
        await gate.wait()
        return {}

    _, metrics, _ = start(Scripted(slow))
    await writing.wait()
    await asyncio.sleep(0.05)

    assert value(metrics.sink_unacked, sink="one") == 2
    assert value(metrics.sink_oldest, sink="one") >= 0.05
    gate.set()
    await settled(broker)
    await until(lambda: value(metrics.sink_unacked, sink="one") == 0)
    assert value(metrics.sink_oldest, sink="one") == 0


async def test_opening_again_that_hangs_is_given_up(world):
    """A sink that was away and hangs when it is opened again holds nothing for ever."""
    broker, start = world
    await publish(broker, event(1))
    sink = Scripted(Unavailable("away", "down"))
    opens = []

    async def hangs_once():
        opens.append(1)
        if len(opens) == 2:
            await asyncio.Event().wait()

    sink.open = hangs_once
    start(sink, write_timeout_s=0.1)

    await until(lambda: sink.written == [1])
    assert len(opens) >= 3


async def test_held_too_long_the_events_go_back_in_order(world, caplog):
    """After hold_max_s the channel is closed, so that another worker may try; then it begins again."""
    broker, start = world
    await publish(broker, *(event(n) for n in range(3)))
    sink = Scripted(*[Unavailable("away")] * 4)
    start(sink, hold_max_s=0.3, batch_max_events=2)

    await until(lambda: sink.written == [0, 1, 2], 30)
    assert "go back to the queue" in caplog.text
    assert (await settled(broker)).dead == 0


async def test_a_sink_that_does_not_open_takes_nothing_from_the_queue(world):
    """Absent at start: the worker stays up and the events stay where they are."""
    broker, start = world
    await publish(broker, event(1))
    sink = Scripted()
    opens = []

    async def closed():
        opens.append(1)
        if len(opens) < 3:
            raise Unavailable("unreachable", "nobody there")

    sink.open = closed
    worker, _, _ = start(sink)
    await until(lambda: opens)
    assert not worker.is_consuming
    assert (await broker.depth("one")).ready == 1

    await until(lambda: sink.written == [1])
    assert worker.is_consuming


async def test_the_sink_is_closed_at_the_end(world):
    """Whoever stops the worker gets everything back."""
    _, start = world
    sink = Scripted()
    worker, _, stop = start(sink)
    await until(lambda: worker.is_consuming)
    await stop()

    assert sink.closed == 1


async def test_large_events_are_read_away_from_the_loop(world, monkeypatch):
    """In one process with a receiver its answers would wait for them."""
    broker, start = world
    threads = []

    def note(deliveries):
        threads.append(threading.current_thread() is threading.main_thread())
        return parse(deliveries)

    parse = stage._parse
    monkeypatch.setattr(stage, "_parse", note)
    await publish(broker, event(0), sized(1, 70_000))
    sink = Scripted()
    start(sink, batch_max_events=1)

    await until(lambda: len(sink.written) == 2)
    assert threads == [True, False]


async def test_large_events_are_written_a_few_at_a_time(world):
    """Parsed they may take fifty times the room: not all of a batch stand in memory at once; small ones may."""
    broker, start = world
    sizes = [300_000, 300_000, 600_000, 2_000_000, 100, 100, 100]
    await publish(broker, *(sized(n, size) for n, size in enumerate(sizes)))
    sink = Scripted()
    _, metrics, _ = start(sink)
    await settled(broker)

    assert sink.written == list(range(7))
    assert sink.sizes == [2, 1, 1, 3]
    assert value(metrics.sink_written, sink="one") == 7


async def test_what_is_behind_a_write_that_fails_comes_again_in_order(world):
    """Also within one batch that is written in parts."""
    broker, start = world
    await publish(broker, *(sized(n, 600_000) for n in range(4)))
    sink = Scripted({}, *[Unavailable("away")] * 4)
    start(sink, hold_max_s=0.3)

    await until(lambda: sink.written == [0, 1, 2, 3], 30)
    await settled(broker)


class Watched(Delivery):
    """One that tells when it is gone: a class with slots can't be referred to weakly."""


async def test_nothing_of_a_batch_is_kept_while_the_next_is_awaited(tmp_path):
    """A batch may be tens of megabytes, and the next one may come tomorrow."""
    waits, taken = asyncio.Event(), []

    class Once:
        """A broker with one delivery."""

        @contextlib.asynccontextmanager
        async def consumer(self, sink, prefetch):
            yield self

        async def take(self, max_events, max_wait_s):
            if taken:
                waits.set()
                await asyncio.Event().wait()
            one = Watched(event(1).body, 1, 1, event(1).id, event(1).type, "k", {})
            taken.append(weakref.ref(one))
            return [one]

        async def ack(self, deliveries):
            pass

    sink = Scripted()
    worker = Worker("one", JsonlSink(kind="jsonl", path=tmp_path / "x"), sink, Once(), Metrics())
    task = asyncio.create_task(worker.run())
    await asyncio.wait_for(waits.wait(), 10)

    assert sink.written == [1]
    assert taken[0]() is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
