"""How a consumer on RabbitMQ is lost without its connection, or gets more than it can hold: it comes back."""

import asyncio
import contextlib
import random

import pytest
from aiormq.abc import ChannelFrame

from gateway.broker.rabbitmq import consume
from gateway.broker.rabbitmq.frames import publish_frames
from gateway.errors import Unavailable
from gateway.event import Event
from gateway.topology import Topology
from tests.rabbitmq_world import admin_channel, event, until, value

SINKS = {"one": ("#",)}
MEGABYTE = 1_048_576


async def publish(broker, *events):
    async with broker.publisher() as publisher:
        await (await publisher.send(events))


async def numbers_reach(sink, expected, deadline_s=30):
    async def are_there():
        return {one["data"]["n"] for one in sink.events} == set(expected)

    await until(are_there, "all events at the sink", deadline_s)


async def is_drained(broker):
    """Return once nothing is ready and nothing comes back to the queue when the worker has gone."""

    async def is_empty():
        return (await broker.depth("one")).ready == 0

    await until(is_empty, "an empty queue")


async def take_for_ever(consumer):
    """Take without settling."""
    while True:
        await asyncio.wait_for(consumer.take(1000, 0.5), 10)


@pytest.fixture
def impatient(monkeypatch):
    """A consumer that doubts soon."""
    monkeypatch.setattr(consume, "IDLE_S", 0.3)
    monkeypatch.setattr(consume, "SURE_S", 0.3)


@contextlib.asynccontextmanager
async def environment(rabbitmq, **values):
    """Values of RabbitMQ's own settings, in force for channels that are opened from now on."""
    before = {}
    for name, wanted in values.items():
        before[name] = (
            await asyncio.to_thread(
                rabbitmq.ctl, "eval", f"{{ok, V}} = application:get_env(rabbit, {name}), V."
            )
        ).strip()
        await asyncio.to_thread(rabbitmq.ctl, "eval", f"application:set_env(rabbit, {name}, {wanted}).")
    try:
        yield
    finally:
        for name, wanted in before.items():
            await asyncio.to_thread(rabbitmq.ctl, "eval", f"application:set_env(rabbit, {name}, {wanted}).")


async def test_a_consumer_that_the_broker_has_forgotten_is_noticed(make, impatient):
    """Connected, nothing unsettled, events ready and none comes: said, so that the worker takes a new one."""
    broker = make(SINKS)
    async with broker.consumer("one", 10) as consumer:
        [tag] = consumer._channel.consumers
        await consumer._channel.basic_cancel(tag)
        await publish(broker, event(1))
        with pytest.raises(Unavailable) as caught:
            await asyncio.wait_for(consumer.take(10, 0), 10)

    assert caught.value.reason == "forgotten"
    assert "1 stand ready in im.sink.one" in caught.value.detail


async def test_an_idle_queue_and_a_full_hand_are_no_cause_for_doubt(make, impatient, monkeypatch):
    """Nothing ready, or something unsettled: the consumer is left alone."""
    broker = make(SINKS)
    async with broker.consumer("one", 1) as consumer:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consumer.take(1, 0), 1.5)
        await publish(broker, event(1), event(2))
        [first] = await asyncio.wait_for(consumer.take(1, 0), 10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consumer.take(1, 0), 1.5)
        await consumer.ack([first])
        [second] = await asyncio.wait_for(consumer.take(1, 0), 10)

    assert [one.message_id for one in (first, second)] == [event(1).id, event(2).id]


async def test_a_worker_comes_back_from_being_forgotten(make, work, impatient, caplog):
    """By itself, and it says why."""
    broker = make(SINKS)
    sink, _ = work(broker)
    await publish(broker, event(0))
    await numbers_reach(sink, [0])
    [channel] = [one for one in (await broker._consume_link.get()).channels.values() if one and one.consumers]
    await channel.basic_cancel(next(iter(channel.consumers)))
    await publish(broker, *(event(number) for number in range(1, 10)))

    await numbers_reach(sink, range(10))
    assert [one for one in caplog.messages if "gets no events (forgotten" in one]


async def test_a_worker_survives_the_deletion_of_its_queue(make, work, amqp_url, caplog):
    """Cancelled by the broker; declared again, consumed again."""
    broker = make(SINKS)
    sink, _ = work(broker)
    await publish(broker, event(0))
    await numbers_reach(sink, [0])
    async with admin_channel(amqp_url) as channel:
        await channel.queue_delete("im.sink.one")

    async def is_said():
        return any("gets no events (cancelled" in one for one in caplog.messages)

    await until(is_said, "the cancel")
    await publish(broker, event(1))
    await numbers_reach(sink, [0, 1])


async def test_a_worker_survives_the_acknowledgement_timeout(make, work, rabbitmq, caplog):
    """RabbitMQ closes the channel of who holds events too long; they come again, and the log says what to change."""
    async with environment(rabbitmq, consumer_timeout=1000, channel_tick_interval=300):
        broker = make(SINKS)
        sink, metrics = work(broker, batch_max_events=2)
        sink.may_write.clear()
        await publish(broker, *(event(number) for number in range(6)))

        async def is_held():
            return value(metrics.sink_unacked, sink="one") >= 1

        await until(is_held, "events in hand")
        [channel] = [
            one for one in (await broker._consume_link.get()).channels.values() if one and one.consumers
        ]
        await asyncio.wait([channel.closing], timeout=30)
        assert channel.is_closed
        sink.may_write.set()

        await numbers_reach(sink, range(6))
        await is_drained(broker)
    assert [one for one in caplog.messages if "held_too_long" in one and "consumer_timeout" in one]


async def test_large_events_go_back_and_come_a_few_at_a_time(make):
    """max_prefetch_mb holds whatever the number of events that a worker asks for."""
    broker = make(SINKS, max_prefetch_mb=4)
    events = [Event(b"x" * MEGABYTE, event(number).attributes) for number in range(20)]
    await publish(broker, *events)
    async with broker.consumer("one", 1000) as consumer:
        with pytest.raises(Unavailable) as caught:
            await take_for_ever(consumer)
        assert consumer._unsettled.bytes == 0
    found = []
    async with broker.consumer("one", 1000) as consumer:
        while len(found) < len(events):
            deliveries = await asyncio.wait_for(consumer.take(1000, 60), 10)
            assert sum(len(one.body) for one in deliveries) <= 4 * MEGABYTE
            found += [one.message_id for one in deliveries]
            await consumer.ack(deliveries)

    assert caught.value.reason == "too_large"
    assert found == [one.id for one in events]


async def test_one_event_larger_than_the_bound_comes_alone(make):
    """There is no smaller number of events than one."""
    broker = make(SINKS, max_prefetch_mb=1)
    await publish(broker, *(Event(b"x" * 2 * MEGABYTE, event(number).attributes) for number in range(3)))
    found, tries = [], 0
    while len(found) < 3:
        tries += 1
        assert tries < 10
        with contextlib.suppress(Unavailable):
            async with broker.consumer("one", 1000) as consumer:
                while len(found) < 3:
                    deliveries = await asyncio.wait_for(consumer.take(1000, 0), 10)
                    await consumer.ack(deliveries)
                    found += [one.message_id for one in deliveries]

    assert found == [event(number).id for number in range(3)]


async def test_acks_in_any_order_settle_exactly_what_they_name(make):
    """Lanes end when they end: what is acknowledged by ranges and one by one is gone, the rest comes again."""
    chance = random.Random(3)
    broker = make(SINKS)
    await publish(broker, *(event(number) for number in range(300)))
    async with broker.consumer("one", 300) as consumer:
        taken = []
        while len(taken) < 300:
            taken += await asyncio.wait_for(consumer.take(300, 0.1), 10)
        chance.shuffle(taken)
        await asyncio.gather(*(consumer.ack(taken[at : at + 9]) for at in range(0, 270, 9)))
        await publish(broker, *(event(number) for number in range(300, 570)))
        more = []
        while len(more) < 270:  # the broker sends as many as it took acks for
            more += await asyncio.wait_for(consumer.take(300, 0.1), 10)
        assert len(consumer._unsettled) == 300
    async with broker.consumer("one", 600) as consumer:
        left = []
        while len(left) < 300:
            left += await asyncio.wait_for(consumer.take(300, 0.1), 10)
        await consumer.ack(left)

    expected = sorted([one.message_id for one in taken[270:]] + [one.message_id for one in more])
    assert [one.message_id for one in left] == expected


async def test_lanes_settle_everything(make, work):
    """Several lanes on one channel: all is written, and nothing stands in the queue when the worker has gone."""
    broker = make(SINKS)
    sink, metrics = work(broker, lanes=4, batch_max_events=7)
    events = [event(number) for number in range(1000)]
    keyed = [
        Event(one.body, {**one.attributes, "partitionkey": f"group/{at % 13}"})
        for at, one in enumerate(events)
    ]
    await publish(broker, *keyed)
    await numbers_reach(sink, range(1000))

    async def is_settled():
        return value(metrics.sink_unacked, sink="one") == 0

    await until(is_settled, "all settled")
    await is_drained(broker)
    assert len(sink.events) == 1000


async def test_bindings_of_older_patterns_bring_nothing_to_the_sink(make, work, caplog):
    """AMQP keeps them. What they bring is acknowledged; what was sent to the sink alone is written all the same."""
    wide, narrow = {"one": ("#",)}, {"one": ("im.group.#",)}
    await publish(make(wide), event(0))
    broker = make(narrow)
    sink, metrics = work(broker, takes=Topology.of("im.events", narrow).sink("one").takes)
    await publish(broker, event(1, "im.user.offline"), event(2))
    async with broker.publisher("one") as publisher:
        await (await publisher.send([event(3, "im.user.offline")]))
    await numbers_reach(sink, [0, 2, 3])

    async def is_counted():
        return value(metrics.sink_skipped, sink="one") == 1

    await until(is_counted, "the one passed over")
    await is_drained(broker)
    assert len([one for one in caplog.messages if "none of its patterns matches" in one]) == 1


async def test_a_message_whose_properties_cannot_be_read_stops_nobody(make, work, amqp_url):
    """RabbitMQ takes ids that are no UTF-8 from any program, and delivers them again and again."""
    broker = make(SINKS)
    sink, _ = work(broker)
    await publish(broker, event(0))
    await numbers_reach(sink, [0])
    async with admin_channel(amqp_url) as channel:
        under = await channel.get_underlay_channel()
        frames = publish_frames(
            under.number, 1000, "im.events", "im.zzz", event(1).body, {"partitionkey": "k"}, "zzz"
        )
        payload = frames.replace(b"zzz", b"z\xffz")
        await under.write_queue.put(ChannelFrame(payload=payload, should_close=False))
        await numbers_reach(sink, [0, 1])
    await publish(broker, event(2))

    await numbers_reach(sink, [0, 1, 2])
    await is_drained(broker)
    assert [one["data"]["n"] for one in sink.events] == [0, 1, 2]


async def test_a_delayed_retry_survives_a_restart_of_the_broker(make, rabbitmq):
    """Nobody has to remember it: it comes again by itself, with attempt and history."""
    broker = make(SINKS)
    await publish(broker, event(1))
    async with broker.consumer("one", 10) as consumer:
        [delivery] = await asyncio.wait_for(consumer.take(1, 0), 10)
        await consumer.retry(delivery, "busy")
    await broker.close()
    await asyncio.to_thread(rabbitmq.stop)
    await asyncio.to_thread(rabbitmq.start)
    async with make(SINKS).consumer("one", 10) as consumer:
        [again] = await asyncio.wait_for(consumer.take(1, 0), 30)
        await consumer.ack([again])

    assert (again.message_id, again.attempt) == (event(1).id, 2)
    assert str(again.headers["history"]).endswith(" one busy")


async def test_lanes_keep_each_order_when_their_connection_is_lost(make, work, rabbitmq):
    """All lanes give back; what comes again comes in order, in front of what no lane had yet."""
    broker = make(SINKS)
    sink, _ = work(broker, lanes=4, batch_max_events=5)
    keyed = [
        Event(event(number).body, {**event(number).attributes, "partitionkey": f"group/{number % 7}"})
        for number in range(600)
    ]
    for at in range(0, 600, 100):
        await publish(broker, *keyed[at : at + 100])
        if at in (100, 300):
            await asyncio.to_thread(rabbitmq.ctl, "close_all_connections", "test")
    await numbers_reach(sink, range(600))

    arrived = list(dict.fromkeys(one["data"]["n"] for one in sink.events))
    for key in range(7):
        assert [number for number in arrived if number % 7 == key] == list(range(key, 600, 7))
