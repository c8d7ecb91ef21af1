"""The worker against a real broker (embedded) and a sink that fails as told."""

import asyncio
import contextlib
import json
import logging
import math
import random
import threading
import time
import weakref
import zlib

import pytest

from gateway import worker as stage
from gateway.broker import Delivery
from gateway.broker.embedded import Embedded
from gateway.config import JsonlSink
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.metrics import Metrics
from gateway.topology import Topology
from gateway.worker import Worker, lane
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
    """Return (broker, start): start(sink or sinks, **settings) runs a worker and returns it with its metrics."""
    async with contextlib.AsyncExitStack() as stack:
        broker = Embedded(tmp_path / "broker.db", TOPOLOGY, Metrics())
        stack.push_async_callback(broker.close)

        def start(sink, takes=None, **settings):
            metrics = Metrics()
            config = JsonlSink(kind="jsonl", path=tmp_path / "x", **{"batch_max_wait_ms": 0, **settings})
            sinks = sink if isinstance(sink, list) else [sink]
            worker = Worker("one", config, sinks, broker, metrics, takes)
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


async def test_a_stop_lets_the_write_under_way_end(world):
    """It is acknowledged, so a restart leaves no second trace of it; nothing else is begun."""
    broker, start = world
    await publish(broker, event(1), event(2))
    writing, gate = asyncio.Event(), asyncio.Event()

    async def slow():
        writing.set()
        await gate.wait()
        return {}

    sink = Scripted(slow)
    _, _, stop = start(sink, batch_max_events=1)
    await asyncio.wait_for(writing.wait(), 10)
    stopping = asyncio.create_task(stop())
    await asyncio.sleep(0.05)
    gate.set()
    await stopping

    assert sink.written == [1]
    assert (await broker.depth("one")).ready == 1


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
    assert abs(int(dead.headers["parked_ms"]) / 1000 - time.time()) < 60
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

    parse = lane._parse
    monkeypatch.setattr(lane, "_parse", note)
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


class Watched(dict):
    """Headers that tell when their delivery is gone: a tuple can't be referred to weakly."""


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
            headers = Watched()
            taken.append(weakref.ref(headers))
            return [Delivery(event(1).body, 1, 1, event(1).id, "k", headers, event(1).type)]

        async def ack(self, deliveries):
            pass

    sink = Scripted()
    worker = Worker("one", JsonlSink(kind="jsonl", path=tmp_path / "x"), [sink], Once(), Metrics())
    task = asyncio.create_task(worker.run())
    await asyncio.wait_for(waits.wait(), 10)

    assert sink.written == [1]
    assert taken[0]() is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# What fails


async def test_after_max_attempts_an_event_is_parked(world):
    """With the history of its attempts, so that nobody has to ask the log."""
    broker, start = world
    await publish(broker, event(1), event(2))
    sink = Scripted({0: Unavailable("busy_row", "locked by somebody")})
    _, metrics, _ = start(sink, max_attempts=1)
    await until(lambda: sink.written == [2])
    depth = await settled(broker)
    [dead] = await broker.peek("one", 10, dead=True)

    assert (depth.retry, depth.dead) == (0, 1)
    assert dead.headers["reason"] == "max_attempts"
    assert value(metrics.sink_parked, sink="one", reason="max_attempts") == 1


async def test_poison_that_the_sink_can_not_place_is_found_by_halving(world):
    """Raised for a whole batch: the others are written, in order, and only the bad one is parked."""
    broker, start = world
    await publish(broker, *(event(n) for n in range(9)))

    class Picky(Scripted):
        async def write(self, events):
            if any(event.data["n"] == 5 for event in events):
                raise Poison("too_odd")
            return await super().write(events)

    sink = Picky()
    start(sink)
    depth = await settled(broker)
    [dead] = await broker.peek("one", 10, dead=True)

    assert sink.written == [0, 1, 2, 3, 4, 6, 7, 8]
    assert (depth.dead, dead.headers["reason"], dead.message_id) == (1, "too_odd", event(5).id)


def caused(fault, cause):
    fault.__cause__ = cause
    return fault


@pytest.mark.parametrize("bug", [KeyError(5), caused(Unavailable("sink_error"), KeyError(5))])
async def test_a_bug_that_one_event_wakes_holds_up_nobody(world, bug):
    """Raised twice for a batch, it is halved; the event comes again later, as an attempt."""
    broker, start = world
    await publish(broker, *(event(n) for n in range(9)))

    class Buggy(Scripted):
        async def write(self, events):
            if any(event.data["n"] == 5 for event in events):
                raise bug
            return await super().write(events)

    sink = Buggy()
    _, metrics, _ = start(sink)
    depth = await settled(broker)

    assert sink.written == [0, 1, 2, 3, 4, 6, 7, 8]
    assert (depth.retry, depth.dead) == (1, 0)
    assert value(metrics.sink_retried, sink="one", reason="sink_error") == 1


@pytest.mark.parametrize(
    "fault", [ConnectionResetError(), caused(Unavailable("sink_error"), ConnectionResetError())]
)
async def test_a_lost_connection_that_the_sink_does_not_name_is_waited_for(world, fault):
    """An OSError speaks of no event, however often it comes."""
    broker, start = world
    await publish(broker, *(event(n) for n in range(4)))
    sink = Scripted(*[fault] * 4)
    start(sink)
    depth = await settled(broker)

    assert sink.written == [0, 1, 2, 3]
    assert sink.sizes == [4]
    assert (depth.retry, depth.dead) == (0, 0)


async def test_a_sink_that_can_not_be_opened_is_no_matter_of_an_event(world):
    """Whatever opening raises, and however often, nothing is retried or parked for it."""
    broker, start = world
    await publish(broker, *(event(n) for n in range(4)))
    sink, opens = Scripted(Unavailable("away")), []

    async def opened():
        opens.append(1)
        if 1 < len(opens) < 5:
            raise KeyError("a bug in open()")

    sink.open = opened
    start(sink)
    depth = await settled(broker)

    assert sink.sizes == [4]
    assert (depth.retry, depth.dead) == (0, 0)


async def test_a_reason_of_a_sink_labels_a_metric_only_as_a_token(world):
    """A sink may be anybody's code; its words would be as many series."""
    broker, start = world
    await publish(broker, event(1))
    _, metrics, _ = start(Scripted({0: Poison("Row 17 of Ann's")}))
    await settled(broker)

    assert value(metrics.sink_parked, sink="one", reason="other") == 1


# When the sink names a time


async def test_the_sink_waits_as_long_as_it_was_told(world):
    """In place where that is short; the queue is not touched, and nothing is tried before."""
    broker, start = world
    await publish(broker, event(1))
    times = []

    async def busy():
        times.append(time.monotonic())
        return Unavailable("http_429", wait_s=0.7) if len(times) == 1 else {}

    sink = Scripted(busy, busy)
    start(sink)
    await settled(broker)

    assert sink.written == [1]
    assert times[1] - times[0] >= 0.7


async def test_told_to_wait_long_the_sink_gives_its_events_back(world, caplog):
    """Nothing is held meanwhile; another worker may have them."""
    broker, start = world
    await publish(broker, event(1), event(2))
    sink = Scripted(Unavailable("http_503", wait_s=1.0))
    worker, _, _ = start(sink, hold_max_s=0.5)

    await until(lambda: "go back to the queue" in caplog.text)
    await until(lambda: not worker.is_consuming)
    assert sink.opened == 1
    assert (await broker.depth("one")).ready == 2
    await until(lambda: sink.written == [1, 2])


async def test_what_was_written_before_the_sink_named_a_time_is_acknowledged(world):
    """Named for single events, it holds only those in hand; they are tried again in place, not later."""
    broker, start = world
    await publish(broker, *(event(n) for n in range(4)))
    busy = Unavailable("http_429", wait_s=0.05)
    sink = Scripted({2: busy, 3: busy}, {1: busy})
    start(sink)
    depth = await settled(broker)

    assert sink.written == [0, 1, 2, 3]
    assert sink.sizes == [4, 2, 1]
    assert depth.retry == 0


async def test_a_sink_that_names_a_time_for_every_event_is_away(world, caplog):
    """It took nothing, whichever way it says so: one outage, told once, and held no longer than any other."""
    caplog.set_level(logging.INFO)
    broker, start = world
    await publish(broker, event(1), event(2))
    busy = Unavailable("http_429", wait_s=0.1)
    sink = Scripted(*[{0: busy, 1: busy}] * 12)
    start(sink, hold_max_s=0.6)
    await settled(broker)

    assert sink.written == [1, 2]
    assert "go back to the queue" in caplog.text
    assert len([one for one in caplog.messages if "takes nothing (http_429" in one]) == 1
    assert len([one for one in caplog.messages if "takes events again" in one]) <= 1


async def test_a_sink_that_is_gone_for_good_stops(world, caplog):
    """Loud, by metric and in readiness; its events stay in the queue, and it is not tried again."""
    broker, start = world
    await publish(broker, event(1), event(2))
    sink = Scripted(Unavailable("http_410", "the endpoint is gone", wait_s=math.inf))
    worker, metrics, _ = start(sink)

    await until(lambda: "has stopped" in worker.trouble and not worker.is_consuming)
    assert (await broker.depth("one")).ready == 2
    assert value(metrics.sink_stopped, sink="one") == 1
    assert value(metrics.sink_available, sink="one") == 0
    assert value(metrics.sink_away_since, sink="one", reason="http_410") > 0
    assert [one.levelname for one in caplog.records if "has stopped (http_410" in one.message] == ["ERROR"]
    assert sink.opened == 1


async def test_since_when_a_sink_is_away_and_why_is_a_metric(world):
    """It counts from the first failure, over all tries, and goes with the next write."""
    broker, start = world
    await publish(broker, event(1))
    gate = asyncio.Event()

    async def last():
        await gate.wait()
        return {}

    before_s = time.time()
    sink = Scripted(*[Unavailable("unreachable")] * 3, last)
    worker, metrics, _ = start(sink)
    await until(lambda: not sink.script)

    assert before_s <= value(metrics.sink_away_since, sink="one", reason="unreachable") <= time.time()
    assert "takes nothing (unreachable, for " in worker.trouble
    gate.set()
    await until(lambda: not worker.trouble and sink.written == [1])
    assert "unreachable" not in str(metrics.sink_away_since.collect())


# When too much fails


@pytest.fixture
def soon(monkeypatch):
    """Trials come soon."""
    monkeypatch.setattr(stage, "_TRIAL_MIN_S", 0.05)
    monkeypatch.setattr(stage, "_TRIAL_MAX_S", 0.1)


async def test_a_bad_release_does_not_empty_the_queue_into_the_dead_letters(world, soon, caplog):
    """At the limit nothing is parked but one event a trial; the first that is written ends it."""
    broker, start = world
    await publish(broker, *(event(n) for n in range(100)))
    is_bad = True

    class Release(Scripted):
        async def write(self, events):
            if is_bad:
                return {at: Poison("wrong_column") for at in range(len(events))}
            return await super().write(events)

    sink = Release()
    worker, metrics, _ = start(sink, park_limit_consecutive=10)
    await until(lambda: value(metrics.sink_parked, sink="one") == 13)
    assert "parking_limit" in worker.trouble
    assert value(metrics.sink_available, sink="one") == 0
    assert next(one.levelname for one in caplog.records if "would park too much" in one.message) == "ERROR"
    is_bad = False
    depth = await settled(broker)

    assert len(sink.written) + depth.dead == 100
    assert depth.dead < 25
    assert sink.written == sorted(sink.written)
    assert not worker.trouble


async def test_what_may_be_parked_is_parked_and_the_rest_of_the_batch_waits(world):
    """Good ones of the same batch are acknowledged all the same."""
    broker, start = world
    await publish(broker, *(event(n) for n in range(10)))
    sink = Scripted({at: Poison("odd") for at in range(1, 9)})
    start(sink, park_limit_consecutive=3)
    await until(lambda: sink.written)

    async def given_back():
        depth = await broker.depth("one")
        return (depth.ready, depth.dead) == (5, 3)

    async with asyncio.timeout(10):
        while not await given_back():
            await asyncio.sleep(0.01)
    assert sink.written == [0, 9]


# What no pattern matches any more


async def test_what_no_pattern_matches_any_more_is_passed_over(world, caplog):
    """Counted, said once, acknowledged; what was sent to this sink alone is written whatever its patterns."""
    broker, start = world
    await publish(broker, event(1), event(2, "im.user.offline"), event(3), event(4, "im.user.offline"))
    async with broker.publisher("one") as publisher:
        await (await publisher.send([event(5, "im.user.offline")]))
    sink = Scripted()
    _, metrics, _ = start(sink, takes=Topology.of("im.events", {"one": ("im.group.#",)}).sink("one").takes)
    await settled(broker)

    assert sink.written == [1, 3, 5]
    assert value(metrics.sink_skipped, sink="one") == 2
    assert len([one for one in caplog.records if "none of its patterns" in one.message]) == 1


# Lanes


def keyed(number, key):
    """Return an event of the conversation *key*."""
    plain = event(number)
    attributes = {**plain.attributes, "partitionkey": key}
    return Event(json.dumps({**json.loads(plain.body), "partitionkey": key}).encode(), attributes)


class Shared(Scripted):
    """One of several instances that write to the same place."""

    def __init__(self, place, write=None):
        super().__init__()
        self.place = place
        self.before = write

    async def write(self, events):
        if self.before is not None:
            await self.before(events)
        self.place += [(event.partition_key, event.data["n"]) for event in events]
        return {}


async def test_lanes_keep_the_order_of_each_key(world):
    """Several writes are under way at once; each conversation's events come in order, and all are acknowledged."""
    broker, start = world
    chance = random.Random(7)
    await publish(broker, *(keyed(n, f"group/{chance.randrange(20)}") for n in range(400)))
    place, under_way, most = [], [], 0

    async def pause(events):
        nonlocal most
        under_way.append(1)
        most = max(most, len(under_way))
        await asyncio.sleep(chance.random() / 500)
        under_way.pop()

    start([Shared(place, pause) for _ in range(4)], batch_max_events=7)
    await settled(broker)

    assert sorted(n for _, n in place) == list(range(400))
    for key in {key for key, _ in place}:
        numbers = [n for its, n in place if its == key]
        assert numbers == sorted(numbers)
    assert most > 1


async def test_a_slow_lane_holds_up_its_own_keys_only(world):
    """The others go on, and their events are acknowledged, until the slow one holds all of the prefetch."""
    broker, start = world
    place, gate, keys = [], asyncio.Event(), {}
    for number in range(100):
        keys.setdefault(zlib.crc32(b"group/%d" % number) % 2, f"group/{number}")

    async def slow(events):
        if events[0].partition_key == keys[0]:
            await gate.wait()

    start([Shared(place, slow) for _ in range(2)], batch_max_events=10)
    await publish(
        broker, *(keyed(n, keys[0]) for n in range(15)), *(keyed(n, keys[1]) for n in range(15, 60))
    )
    await until(lambda: len(place) == 45)

    assert {key for key, _ in place} == {keys[1]}

    async def only_the_slow_ones_are_held():
        depth = await broker.depth("one")
        return (depth.ready, depth.unacked) == (0, 15)

    async with asyncio.timeout(10):
        while not await only_the_slow_ones_are_held():
            await asyncio.sleep(0.01)
    gate.set()
    await settled(broker)
    assert [n for key, n in place if key == keys[0]] == list(range(15))


async def test_all_lanes_give_back_when_one_has_to(world):
    """In order: what comes again comes in front of what was not taken yet."""
    broker, start = world
    await publish(broker, *(keyed(n, f"group/{n % 5}") for n in range(60)))
    place, failures = [], [Unavailable("away")] * 4

    async def fails(events):
        if failures:
            raise failures.pop()

    start([Shared(place, fails), Shared(place), Shared(place)], batch_max_events=5, hold_max_s=0.3)
    await settled(broker)

    assert {n for _, n in place} == set(range(60))
    for key in {key for key, _ in place}:
        first_arrivals = list(dict.fromkeys(n for its, n in place if its == key))
        assert first_arrivals == sorted(first_arrivals)


async def test_a_wait_that_one_lane_was_told_holds_all(world):
    """An endpoint that says when to come again means everybody."""
    broker, start = world
    names = [f"group/{n}" for n in range(20)]
    await publish(broker, *(keyed(n, name) for n, name in enumerate(names)))
    place, begun = [], []

    async def busy(events):
        begun.append(time.monotonic())
        if len(begun) == 1:
            raise Unavailable("http_429", wait_s=0.6)

    start([Shared(place, busy) for _ in range(4)], batch_max_events=1)
    await settled(broker)

    assert len(place) == 20
    # Those under way at that moment could not know.
    assert [at for at in begun[4:] if at < begun[0] + 0.6] == []


# order: strict


class Choosy(Shared):
    """Writes event by event; those in ``bad`` fail for now."""

    def __init__(self, place, bad, why=None):
        super().__init__(place)
        self.bad = bad
        self.why = why or Unavailable("busy_row")
        self.tries = 0

    async def write(self, events):
        failures = {}
        for at, one in enumerate(events):
            if one.data["n"] in self.bad:
                failures[at] = self.why
                self.tries += 1
            else:
                self.place.append((one.partition_key, one.data["n"]))
        return failures


def of(place, key):
    return [n for its, n in place if its == key]


async def test_strict_a_conversation_waits_for_its_event_and_others_go_on(world):
    """Tried again in place, as often as it takes; nothing goes to the delayed retry, nothing overtakes."""
    broker, start = world
    await publish(broker, *(keyed(n, "ab"[n % 2]) for n in range(40)))
    place, bad = [], {4}
    sink = Choosy(place, bad)
    _, metrics, _ = start(sink, order="strict")
    await until(lambda: len(of(place, "b")) == 20)
    await until(lambda: sink.tries >= 3)

    assert of(place, "a") == [0, 2]
    assert value(metrics.sink_blocked, sink="one") == 18
    bad.clear()
    depth = await settled(broker)
    assert of(place, "a") == list(range(0, 40, 2))
    assert of(place, "b") == list(range(1, 40, 2))
    assert (depth.retry, depth.dead) == (0, 0)
    assert value(metrics.sink_blocked, sink="one") == 0


async def test_strict_what_fails_too_long_is_parked_with_what_waits_for_it(world, caplog):
    """In order, so that it can be sent again in order; the conversation's next event starts anew."""
    broker, start = world
    await publish(broker, *(keyed(n, "ab"[n % 2]) for n in range(10)))
    place = []
    _, metrics, _ = start(Choosy(place, {2}), order="strict", strict_hold_s=0.5)
    await until(lambda: value(metrics.sink_parked, sink="one", reason="key_blocked") == 4)
    await settled(broker)
    await publish(broker, keyed(10, "a"))
    await settled(broker)
    dead = await broker.peek("one", 10, dead=True)

    assert [json.loads(one.body)["data"]["n"] for one in dead] == [2, 4, 6, 8]
    assert {one.headers["reason"] for one in dead} == {"key_blocked"}
    assert of(place, "a") == [0, 10]
    assert of(place, "b") == [1, 3, 5, 7, 9]
    assert "busy_row for more than strict_hold_s" in caplog.text


async def test_strict_no_more_is_taken_while_half_of_the_prefetch_is_held(world):
    """The broker keeps the rest, in order; it comes when the conversation goes on."""
    broker, start = world
    await publish(broker, *(keyed(n, "a") for n in range(8)), *(keyed(n, "b") for n in range(8, 40)))
    place, bad = [], {0}
    sink = Choosy(place, bad)
    _, metrics, _ = start(sink, order="strict", batch_max_events=6)
    await until(lambda: sink.tries >= 4)

    assert value(metrics.sink_blocked, sink="one") == 8
    # Those that were taken, or asked for, before that.
    assert of(place, "b") == list(range(8, 8 + len(of(place, "b"))))
    assert (await broker.depth("one")).ready >= 40 - 2 * 12
    bad.clear()
    await settled(broker)
    assert of(place, "a") == list(range(8))
    assert of(place, "b") == list(range(8, 40))


async def test_strict_poison_is_parked_at_once(world):
    """It will never be written, so nothing has to wait for it."""
    broker, start = world
    await publish(broker, *(keyed(n, "a") for n in range(5)))
    place = []
    start(Choosy(place, {1}, Poison("too_odd")), order="strict")
    depth = await settled(broker)

    assert of(place, "a") == [0, 2, 3, 4]
    assert depth.dead == 1


async def test_strict_keeps_the_order_when_the_sink_is_away_too(world):
    """What was held goes back with all else, and the event is tried anew."""
    broker, start = world
    await publish(broker, *(keyed(n, "ab"[n % 2]) for n in range(20)))
    place, bad, away = [], {3}, [Unavailable("away")] * 4

    class Both(Choosy):
        async def write(self, events):
            if self.tries == 2 and away:
                raise away.pop()
            return await super().write(events)

    sink = Both(place, bad)
    start([sink], order="strict", hold_max_s=0.3)
    await until(lambda: sink.tries >= 4)
    bad.clear()
    await settled(broker)

    assert of(place, "a") == list(range(0, 20, 2))
    assert of(place, "b") == list(range(1, 20, 2))


async def test_nothing_is_held_near_the_acknowledgement_timeout(world, monkeypatch, caplog):
    """Whatever keeps the sink busy: what waits behind it goes back in time, and comes again in order."""
    monkeypatch.setattr(lane, "MOST_HELD_S", 0.2)
    broker, start = world
    await publish(broker, *(event(n) for n in range(6)))

    async def slow():
        await asyncio.sleep(0.3)
        return {}

    sink = Scripted(slow)
    start(sink, batch_max_events=3)
    # The others of its batch, one by one: 1 MiB is written at a time.
    monkeypatch.setattr("gateway.worker.queues._PART_BYTES", 1)
    await settled(broker)

    assert sink.written == list(range(6))
    assert "held too long" in caplog.text


async def test_a_sink_that_answered_long_before_is_not_said_to_have_been_away_since(world, caplog):
    """It was away at the start, then idle for hours: the next event is no news of an outage."""
    caplog.set_level(logging.INFO)
    broker, start = world
    sink, opens = Scripted(), []

    async def late():
        opens.append(1)
        if len(opens) == 1:
            raise Unavailable("away")

    sink.open = late
    worker, _, _ = start(sink)
    await until(lambda: worker.is_consuming)
    await publish(broker, event(1))
    await settled(broker)

    assert len([one for one in caplog.messages if "answers after" in one]) == 1
    assert not [one for one in caplog.messages if "takes events again" in one]
