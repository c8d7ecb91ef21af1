"""Partitions of a sink: shared between workers, in order per key, everything arriving, whoever joins or goes."""

import asyncio
import contextlib
import json
import logging
import signal
from urllib.parse import urlsplit

import aio_pika
import pytest

from gateway import build
from gateway.broker.rabbitmq.balance import fair_share, surplus
from gateway.broker.rabbitmq.earlier import PATIENCE_S, Earlier
from gateway.broker.rabbitmq.partitions import Part
from gateway.config import Config
from gateway.errors import ConfigError, Unavailable
from gateway.event import Event
from tests.gateway_process import GATEWAY, Gateway
from tests.rabbitmq_world import admin_channel, callback, manage, numbers, taken, until

KEYS = 40
ONE = {"one": ("#",)}


def keyed(number, keys=KEYS):
    """The *number*-th event, of one of *keys* conversations."""
    attributes = {
        "id": f"{number:032x}",
        "source": "/s",
        "type": "im.group.member.exited",
        "appid": "14",
        "partitionkey": f"group/{number % keys}",
    }
    return Event(json.dumps({**attributes, "data": {"n": number}}).encode(), attributes)


async def send(broker, first, count):
    async with broker.publisher() as publisher:
        await (await publisher.send([keyed(number) for number in range(first, first + count)]))


class Reader:
    """A worker in miniature: takes, notes and settles; what it noted it has settled, or will again."""

    def __init__(self, broker, noted, prefetch=50):
        self.broker, self.noted, self.prefetch = broker, noted, prefetch
        self.keys = set()
        self.count = 0
        self._task = None

    def start(self):
        self._task = asyncio.create_task(self._run())
        return self

    async def _run(self):
        while True:  # as a worker does: declaring at the same moment as others may fail (3.10)
            with contextlib.suppress(Unavailable):
                await self._read()
            await asyncio.sleep(0.1)

    async def _read(self):
        async with self.broker.consumer("one", self.prefetch) as self.consumer:
            while True:
                deliveries = await self.consumer.take(20, 0.01)
                for one in deliveries:
                    number = json.loads(one.body)["data"]["n"]
                    self.noted.append(number)
                    self.keys.add(one.key)
                self.count += len(deliveries)
                await asyncio.sleep(0.002)  # as a sink would take its time
                await self.consumer.ack(deliveries)

    @property
    def active(self):
        return sum(part.consumer is not None and part.consumer.is_active for part in self.consumer._own)

    async def stop(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def first_arrivals_are_in_order(noted, keys=KEYS):
    """Copies may follow; the first arrivals of each conversation come as they were sent."""
    seen, last = set(), {}
    for number in noted:
        if number in seen:
            continue
        seen.add(number)
        if last.get(number % keys, -1) > number:
            return False
        last[number % keys] = number
    return True


@pytest.fixture
async def team(make):
    """Return a function that starts a reader on a broker of its own; all end with the test."""
    async with contextlib.AsyncExitStack() as stack:
        noted = []

        def join(partitions=4, **settings):
            reader = Reader(make(ONE, partitions={"one": partitions}, **settings), noted).start()
            stack.push_async_callback(reader.stop)
            return reader

        join.noted = noted
        yield join


@contextlib.asynccontextmanager
async def stream(broker, per_step=20):
    """Publish for ever; yields a function that ends it and returns how many were sent."""
    state = {"count": 0, "on": True}

    async def run():
        while state["on"]:
            # Why: a deleted partition may cost the connection (3.10); as the forwarder, go on with the same.
            with contextlib.suppress(Unavailable):
                await publish()
            await asyncio.sleep(0.05)

    async def publish():
        async with broker.publisher() as publisher:
            while state["on"]:
                first = state["count"]
                await (await publisher.send([keyed(n) for n in range(first, first + per_step)]))
                state["count"] += per_step
                await asyncio.sleep(0.01)

    task = asyncio.create_task(run())
    # Why wait: RabbitMQ 3.10 may leave a partition without any key that two bind at the same moment.
    await until(lambda: begun(state), "a first confirm")

    async def end():
        state["on"] = False
        await task
        return state["count"]

    try:
        yield end
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_fair_share_leaves_no_partition_out():
    """So many each that all are taken, whatever the numbers."""
    for partitions in range(1, 65):
        for workers in range(70):
            share = fair_share(partitions, workers)

            assert share * max(workers, 1) >= partitions
            assert (share - 1) * max(workers, 1) < partitions


def test_what_is_handed_over_first_is_what_holds_least():
    """Nobody waits longer than need be for what is in hand."""
    assert surplus([(0, 5), (1, 0), (2, 3)], partitions=4, workers=2) == [1]
    assert surplus([(0, 5), (1, 0)], partitions=4, workers=2) == []
    assert surplus([(0, 5), (1, 0), (2, 3), (3, 1)], partitions=4, workers=9) == [1, 3, 2]


async def test_events_of_all_partitions_arrive_in_order_of_their_keys(make, team):
    """With one worker: it reads them all."""
    broker = make(ONE, partitions={"one": 4})
    await send(broker, 0, 1000)
    reader = team()

    async def all_here():
        return reader.count >= 1000

    await until(all_here, "all")

    assert sorted(team.noted) == list(range(1000))
    assert first_arrivals_are_in_order(team.noted)
    assert (await broker.depth("one")).ready == 0


async def test_who_looks_into_partitions_that_are_read_is_told_so(make, team):
    """Single active consumer admits nobody else, so waiting would be in vain."""
    broker = make(ONE, partitions={"one": 4})
    await send(broker, 0, 20)
    found = await broker.peek("one", 100)
    reader = team()
    await until(lambda: arrived(team.noted, 20), "all")
    with pytest.raises(Unavailable) as refused:
        await broker.peek("one", 100)
    await reader.stop()

    assert len(found) == 20
    assert refused.value.reason == "in_use"


async def test_workers_that_join_get_their_share_and_those_that_leave_are_replaced(make, team):
    """1, 2, 4 and 1 workers: everything arrives, in order per key, and nobody is left out."""
    async with stream(make(ONE, partitions={"one": 4})) as end:
        first = team()
        await until(lambda: shared(first, most=4), "one has all")
        second = team()
        await until(lambda: shared(first, second, most=2), "two have two each")
        third, fourth = team(), team()
        await until(lambda: shared(first, second, third, fourth, most=1), "four have one each")
        await until(lambda: worked(first, second, third, fourth), "each gets events")
        for one in (first, second, third):
            await one.stop()
        await until(lambda: shared(fourth, most=4), "the last has all")
        sent = await end()
        await until(lambda: arrived(team.noted, sent), "all")

    assert first_arrivals_are_in_order(team.noted)


async def begun(state):
    return state["count"] > 0


async def worked(*readers):
    return all(one.keys for one in readers)


async def shared(*readers, most):
    return all(hasattr(one, "consumer") and one.active == most for one in readers)


async def arrived(noted, sent):
    return set(noted) == set(range(sent))


async def drained(broker):
    depth = await broker.depth("one")
    return (depth.ready, depth.retry) == (0, 0)


async def test_a_partition_that_refuses_is_named_and_the_other_sink_gets_no_copies(
    make, forward, rabbitmq, amqp_url, caplog
):
    """Only the partition of that key refuses; what goes to it alone shows that, without copies for others."""
    broker = make({"one": ("#",), "two": ("#",)}, partitions={"one": 4})
    journal, _ = await forward(broker)
    await journal.append(callback(1))
    await asyncio.wait_for(journal.confirmed(1), 20)
    vhost = urlsplit(amqp_url).path[1:]
    full = {"max-length": 1, "overflow": "reject-publish"}
    await asyncio.to_thread(rabbitmq.policy, vhost, "full", r"^im\.sink\.one\.p4\.", full)
    for number in range(2, 12):
        await journal.append(callback(number))
    await until(lambda: said(caplog, "Queue im.sink.one.p4.* takes no events"), "it is named")
    await asyncio.to_thread(manage, rabbitmq, "DELETE", f"/api/policies/{vhost}/full")
    await asyncio.wait_for(journal.confirmed(11), 60)

    came = numbers(await taken(broker, "one", (await broker.depth("one")).ready))
    assert list(dict.fromkeys(came)) == list(range(1, 12))
    assert (await broker.depth("two")).ready <= 22  # one copy, when the search begins


async def said(caplog, text):
    return text in caplog.text


async def test_an_event_without_the_header_is_not_lost(make, team, amqp_url):
    """Somebody may publish to the sink's exchange without it: all such events go to one partition."""
    broker = make(ONE, partitions={"one": 4})
    await send(broker, 0, 1)
    async with admin_channel(amqp_url) as channel:
        exchange = await channel.get_exchange("im.sink.one", ensure=False)
        for number in range(1, 50):
            await exchange.publish(aio_pika.Message(keyed(number).body), "x")
    team()

    await until(lambda: arrived(team.noted, 50), "all")


async def test_retried_parked_and_replayed_events_come_to_the_partition_of_their_key(make, amqp_url):
    """They all come by the sink's exchange, and keep the header."""
    broker = make(ONE, partitions={"one": 4})
    await send(broker, 0, 8)
    async with asyncio.timeout(60), broker.consumer("one", 400) as consumer:
        first = await gather(consumer, 8)
        for at, delivery in enumerate(first):
            await (consumer.retry if at % 2 else consumer.park)(delivery, "odd")
        again = await gather(consumer, 4)
        await consumer.ack(again)
        async with broker.dead("one", "a test") as dead:
            await dead.replay(await dead.page(10))
        parked = await gather(consumer, 4)
        await consumer.ack(parked)
        async with broker.publisher("one") as publisher:
            await (await publisher.send([keyed(number) for number in range(8)]))
        replayed = await gather(consumer, 8)

    places = {one.key: one.tag % 4 for one in first}
    assert {one.attempt for one in again} == {2}
    assert len({one.message_id for one in again + parked}) == 8
    assert all(places[one.key] == one.tag % 4 for one in again + parked + replayed)


async def gather(consumer, count):
    found = []
    while len(found) < count:
        found += await consumer.take(count - len(found), 0.05)
    return found


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 8), (4, 1)])
async def test_another_number_of_partitions_is_a_new_generation_that_is_read_after_the_old(
    make, team, caplog, before, after
):
    """Two workers, a backlog in the old queues, more in the new ones: all arrive, in order per key."""
    caplog.set_level(logging.INFO)
    old = make(ONE, partitions={"one": before})
    await send(old, 0, 2000)
    await old.close()
    new = make(ONE, partitions={"one": after})
    await send(new, 2000, 1000)
    assert (await new.depth("one")).ready == 3000
    team(after)
    if after > 1:
        team(after)  # several workers of one queue without partitions keep no order
    await until(lambda: arrived(team.noted, 3000), "all", 60)

    assert first_arrivals_are_in_order(team.noted)
    assert sorted(team.noted) == list(range(3000))
    assert "2000 events of its earlier partitions come first" in caplog.text
    await until(lambda: drained(new), "nothing is left")


async def test_old_queues_may_be_deleted_while_workers_run(make, work, amqp_url):
    """A worker that has emptied them goes on without them."""
    old = make(ONE, partitions={"one": 4})
    await send(old, 0, 100)
    await old.close()
    broker = make(ONE, partitions={"one": 2})
    await send(broker, 100, 100)
    sink, _ = work(broker)

    async def has(count):
        return {one["id"] for one in sink.events} == {f"{number:032x}" for number in range(count)}

    await until(lambda: has(200), "all")
    async with admin_channel(amqp_url) as channel:
        for number in range(4):
            await channel.queue_delete(f"im.sink.one.p4.{number}")
        await channel.exchange_delete("im.sink.one.p4")
    await send(broker, 200, 100)
    await until(lambda: has(300), "new ones")
    await asyncio.sleep(1.5)  # a look, which misses the queues
    await send(broker, 300, 100)
    await until(lambda: has(400), "later ones")

    assert (await broker.depth("one")).ready == 0


async def test_who_still_has_the_old_number_goes_on_with_the_old_queues(make, team):
    """A worker that is restarted after the receiver neither takes events away from the new queues, nor doubles."""
    was = make(ONE, partitions={"one": 4})
    await send(was, 0, 500)
    await was.close()
    old = team(4)
    await until(lambda: arrived(team.noted, 500), "the old ones")
    new = make(ONE, partitions={"one": 8})
    await send(new, 500, 500)
    await asyncio.sleep(2.5)  # a look and more of the old worker's keeper
    await send(new, 1000, 500)
    assert (await new.depth("one")).ready == 1000
    await old.stop()
    team(8)
    await until(lambda: arrived(team.noted, 1500), "all")

    assert sorted(team.noted[:500]) == list(range(500))
    assert sorted(team.noted) == list(range(1500))
    assert first_arrivals_are_in_order(team.noted)


async def test_deleted_partitions_come_back(make, team, amqp_url, caplog):
    """A queue, the queue of the workers, the exchange that spreads: all are declared again, and are read."""
    broker = make(ONE, partitions={"one": 4})
    async with stream(broker) as end:
        for what in ("queue im.sink.one.p4.2", "queue im.sink.one.workers", "exchange im.sink.one.p4"):
            kind, name = what.split(" ")
            await until(lambda key=(kind, name): stands(broker, key), "it was seen")
            async with admin_channel(amqp_url) as channel:
                await (channel.queue_delete if kind == "queue" else channel.exchange_delete)(name)
            await until(lambda what=what: said(caplog, f"Somebody deleted {what} "), "it is noticed")
            await until(lambda key=(kind, name): stands(broker, key), "it is declared again")
        reader = team()
        await until(lambda: shared(reader, most=4), "all are read again")
        sent = await end()
    await until(lambda: drained(broker), "nothing is left")
    await broker.rescue()
    await until(lambda: drained(broker), "nothing is left")

    # What stood in the deleted queue is gone with it, and nothing else.
    assert len(set(range(sent)) - set(team.noted)) < 500


async def stands(broker, key):
    return key in broker._keeper._seen and not broker._keeper._gone


def test_the_embedded_broker_has_no_partitions(tmp_path):
    """Its sinks have one consuming process each, so the configuration says so."""
    sinks = {"one": {"kind": "jsonl", "path": tmp_path / "x", "partitions": 2}}
    with pytest.raises(ConfigError) as refused:
        build.check(Config.model_validate({"apps": {"1": {}}, "sinks": sinks}))

    assert "sinks.one.partitions: the embedded broker" in str(refused.value)


def earlier_of(clock, *names):
    parts = [Part(name, is_single=name != "im.sink.one") for name in names]
    return Earlier("one", parts, lambda: clock[0]), parts


def test_earlier_queues_are_done_when_they_stay_empty_and_nobody_reads_them():
    """Twice: what was routed just before may be on its way."""
    earlier, [part] = earlier_of([0.0], "im.sink.one.p4.0")

    earlier.decide({part.queue: (5, 0)})
    assert (part.is_wanted, earlier.is_done) == (True, False)
    earlier.decide({part.queue: (0, 1)})
    assert (part.is_wanted, earlier.is_done) == (False, False)
    earlier.decide({part.queue: (0, 0)})
    assert not earlier.is_done
    earlier.decide({part.queue: (0, 0)})
    assert earlier.is_done
    earlier.decide({part.queue: (1, 0)})
    assert (part.is_wanted, earlier.is_done) == (True, True)


def test_a_queue_without_single_active_consumer_is_read_by_one_worker_alone():
    """Two would keep no order."""
    earlier, [part] = earlier_of([0.0], "im.sink.one")

    earlier.decide({part.queue: (5, 1)})
    assert not part.is_wanted
    earlier.decide({part.queue: (5, 0)})
    assert part.is_wanted


def test_a_forgotten_worker_holds_nothing_up_for_ever(caplog):
    """As long as it makes its queues smaller it is waited for; then the present ones are read too."""
    clock = [0.0]
    earlier, [part] = earlier_of(clock, "im.sink.one")
    for ready in (9, 8, 7):
        earlier.decide({part.queue: (ready, 1)})
        clock[0] += PATIENCE_S
    earlier.decide({part.queue: (7, 1)})
    assert not earlier.is_done
    clock[0] += 1
    earlier.decide({part.queue: (7, 1)})

    assert earlier.is_done
    assert "another worker has read its earlier partitions" in caplog.text


SINK = """
import os

class Lines:
    async def open(self):
        self.file = os.open("lines", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def write(self, events):
        for event in events:
            os.write(self.file, b"%d\\n" % event.data["n"])
"""


async def test_workers_that_are_killed_lose_nothing_and_break_no_order(make, tmp_path, amqp_url):
    """Three processes, killed and started again one after the other, under a stream of events."""
    (tmp_path / "shared_lines.py").write_text(SINK)
    sink = {
        "kind": "python",
        "target": "shared_lines:Lines",
        "partitions": 6,
        "concurrency": 2,
        "batch_max_events": 60,
    }
    gateway = Gateway(tmp_path, broker={"url": amqp_url}, sinks={"one": sink})

    def start():
        launcher = ("env", "GATEWAY__ADMIN__WORKER_PORT=0", GATEWAY)
        return gateway.start("work", wait=False, launcher=launcher)

    def written():
        path = tmp_path / "lines"
        return [int(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []

    broker = make(ONE, partitions={"one": 6})
    try:
        async with stream(broker) as end:
            processes = [start() for _ in range(3)]
            for round_ in range(6):
                before = len(written())
                await until(lambda before=before: grown(written, before), "events are written", 60)
                await asyncio.sleep(1.0)
                gateway.stop(processes.pop(0), signal.SIGKILL if round_ % 3 else signal.SIGTERM)
                processes.append(start())
            sent = await end()
            await until(lambda: arrived(written(), sent), "all", 60)
        noted = written()
    finally:
        gateway.close()

    assert first_arrivals_are_in_order(noted), "order"
    assert len(noted) < 1.5 * sent


async def grown(written, before):
    return len(written()) > before + 200


async def test_keys_stay_where_they_are_when_rabbitmq_is_started_again(make, rabbitmq, amqp_url):
    """RabbitMQ 3.10 spreads them anew by itself; with a backlog, order would be gone."""
    broker = make(ONE, partitions={"one": 4})
    await send(broker, 0, 200)
    await asyncio.to_thread(rabbitmq.stop)
    await asyncio.to_thread(rabbitmq.start)
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(Unavailable):
                await send(broker, 200, 200)
                break
            await asyncio.sleep(0.2)

    where = {}
    async with asyncio.timeout(60), broker.consumer("one", 4000) as consumer:
        for delivery in await gather(consumer, 400):
            where.setdefault(delivery.key, set()).add(delivery.tag % 4)
    assert len(where) == KEYS
    assert all(len(places) == 1 for places in where.values())


async def test_without_the_plug_in_its_absence_is_said_and_nothing_else_suffers(
    make, rabbitmq, amqp_url, tmp_path
):
    """Declaring would close the whole connection; so another one asks, and words say what to do."""
    await asyncio.to_thread(rabbitmq.only_plugins, "rabbitmq_prometheus")
    try:
        broker = make(ONE, partitions={"one": 4})
        connection = await broker._publish_link.get()
        with pytest.raises(Unavailable) as refused:
            async with broker.publisher():
                pass
        with pytest.raises(Unavailable) as checked:
            await broker.check()
        assert connection.is_opened
        gateway = Gateway(tmp_path, broker={"url": amqp_url}, sinks={"one": {
            "kind": "jsonl", "path": "x", "partitions": 4}})  # fmt: skip
        said = await asyncio.to_thread(gateway.command, "check", "--connect", expect=1)
        await send(make(ONE), 0, 1)  # without partitions all goes on
    finally:
        await asyncio.to_thread(rabbitmq.only_plugins)

    for fault in (refused, checked):
        assert fault.value.reason == "no_plugin"
        assert "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange" in fault.value.detail
    assert "sinks.one.partitions: RabbitMQ spreads events" in said
