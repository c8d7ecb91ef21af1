"""What a network does to the connections to RabbitMQ: publishing and consuming recover, and nothing is lost."""

import asyncio

import pytest

from gateway.errors import Unavailable
from gateway.event import Event
from tests.rabbitmq_world import callback, event, numbers, taken, until, value
from tests.tcp_proxy import TcpProxy

HEARTBEAT_S = 1
SILENT_S = 3 * (HEARTBEAT_S + 1)
"""After so long without a frame aiormq gives a connection up."""
SETTINGS = {"heartbeat_s": HEARTBEAT_S, "connect_timeout_s": 1, "confirm_timeout_s": 2}


@pytest.fixture
def proxy(rabbitmq):
    with TcpProxy(rabbitmq.port) as proxy:
        yield proxy


@pytest.fixture
async def flow(make, forward, work, proxy, amqp_url):
    """A forwarder and a worker, both behind the proxy, with ten events through; returns a function `send`."""
    broker = make({"one": ("#",)}, url=proxy.through(amqp_url), **SETTINGS)
    journal, metrics = await forward(broker)
    sink, _ = work(broker)

    async def send(count):
        for number in range(journal.head, journal.head + count):
            await journal.append(callback(number))

    async def all_there(deadline_s):
        async def are():
            return set(numbers(sink.events)) == set(range(journal.head))

        await until(are, "all events at the sink", deadline_s)
        await asyncio.wait_for(journal.confirmed(journal.head), deadline_s)

    send.journal, send.metrics, send.sink, send.all_there = journal, metrics, sink, all_there
    await send(10)
    await all_there(20)
    return send


@pytest.mark.parametrize("fault", ["cut", "black_hole", "half_open"])
async def test_connections_that_are_lost_are_replaced(flow, proxy, fault):
    """With an end or without one, publishing and consuming go on over new ones within the heartbeat's time."""
    getattr(proxy, fault)()
    await flow(10)

    await flow.all_there(SILENT_S + 10)


@pytest.mark.parametrize("direction", ["up", "down", "both"])
async def test_a_stalled_network_is_noticed_and_recovered_from(flow, proxy, direction):
    """Nothing gets through, in one direction or both: publishing says so; afterwards everything arrives."""
    proxy.stall(direction)
    await flow(10)

    async def is_noticed():
        return value(flow.metrics.publish_failures) >= 1

    await until(is_noticed, "the stall", SILENT_S + 10)
    proxy.flow()

    await flow.all_there(SILENT_S + 10)


async def test_a_short_stall_changes_nothing(flow, proxy):
    """Shorter than every deadline: no copies, no reconnect."""
    proxy.stall()
    await flow(10)
    await asyncio.sleep(0.5)
    proxy.flow()
    await flow.all_there(10)

    assert sorted(numbers(flow.sink.events)) == list(range(20))
    assert proxy.accepted == 2


async def test_one_kilobyte_a_second_carries_events_one_by_one(flow, proxy):
    """Slower than the confirm deadline for the batch: confirms that trickle in count as progress, no copies."""
    proxy.slow(1000)
    await flow(10)

    await flow.all_there(60)
    assert value(flow.metrics.publish_failures) == 0
    assert sorted(numbers(flow.sink.events)) == list(range(20))


async def test_a_service_that_is_away_and_comes_back(flow, proxy):
    """Refused for a while, said once, then all of it."""
    proxy.refuse()
    await flow(10)

    async def is_noticed():
        return value(flow.metrics.publish_failures, reason="refused") >= 2

    await until(is_noticed, "being refused")
    proxy.flow()

    await flow.all_there(20)


async def test_a_port_that_accepts_and_says_nothing_has_a_deadline(make, proxy, amqp_url):
    """No connection attempt waits longer than connect_timeout_s, and none is left open."""
    proxy.mute()
    broker = make(url=proxy.through(amqp_url), **SETTINGS)
    for attempt in (broker.publisher(), broker.consumer("one", 1)):
        with pytest.raises(Unavailable) as caught:
            async with asyncio.timeout(SETTINGS["connect_timeout_s"] + 2), attempt:
                pass
        assert caught.value.reason == "timeout"
    proxy.flow()

    async with broker.publisher() as publisher:
        await (await publisher.send([event(1)]))
    assert len(await taken(broker, "one", 1)) == 1


async def test_the_next_host_is_tried_when_one_says_nothing(make, proxy, amqp_url):
    """A node that hangs costs one deadline, not the service."""
    proxy.mute()
    broker = make(url=[proxy.through(amqp_url), amqp_url], **SETTINGS)

    async with asyncio.timeout(SETTINGS["connect_timeout_s"] + 5), broker.publisher() as publisher:
        await (await publisher.send([event(1)]))


async def test_a_channel_that_is_not_opened_in_time_gives_the_connection_up(make, proxy, amqp_url):
    """No queue has a part in it: the connection is dead, and the next attempt must not stand behind it."""
    broker = make(url=proxy.through(amqp_url), **{**SETTINGS, "heartbeat_s": 60})
    async with broker.publisher() as publisher:
        await (await publisher.send([event(0)]))
    proxy.black_hole()
    with pytest.raises(Unavailable) as caught:
        async with broker.publisher():
            pass

    assert caught.value.reason == "timeout"
    async with asyncio.timeout(5), broker.publisher() as publisher:
        await (await publisher.send([event(1)]))


async def test_what_a_lost_connection_had_buffered_is_not_sent_later(make, proxy, amqp_url):
    """Given up means given up: what waited in our own buffers must not arrive behind its copies."""
    broker = make({"one": ("#",)}, url=proxy.through(amqp_url), **{**SETTINGS, "heartbeat_s": 60})
    big = Event(b"x" * 1_000_000, event(1).attributes)
    async with broker.publisher() as publisher:
        await (await publisher.send([event(0)]))
        proxy.stall("up")
        sent = await publisher.send([big] * 20)
        broker._publish_link.cut(publisher._publisher._channel.connection)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(sent, 5)
    proxy.flow()
    async with broker.publisher() as publisher:
        await (await publisher.send([event(2)]))

    assert 2 <= (await broker.depth("one")).ready < 20
