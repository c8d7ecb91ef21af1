"""What somebody deletes of our exchanges, queues and bindings while we run: noticed, named, mended, nothing lost."""

import asyncio
import json
import re
import time
from urllib.parse import urlsplit

import pytest

from gateway.broker.rabbitmq.deleted import Seen, Span, say_back
from gateway.broker.rabbitmq.keeper import Keeper
from gateway.config import Broker as BrokerConfig
from gateway.event import iso_time
from gateway.metrics import Metrics
from gateway.topology import Topology
from tests.rabbitmq_world import admin_channel, callback, event, manage, numbers, taken, until, value

HOUR_AGO_MS = time.time_ns() // 1_000_000 - 3_600_000
TWO = {"one": ("#",), "two": ("#",)}
REPLAY = re.compile(r"gateway journal replay --sink (\S+) --since (\S+) --until (\S+)")


@pytest.fixture
async def running(make, forward, rabbitmq, amqp_url):
    """A forwarder with two sinks, one event through, and a watch that can ask the management API."""
    broker = make(TWO, management_url=rabbitmq.management_url)
    journal, metrics = await forward(broker)

    async def send(count=1):
        for _ in range(count):
            await journal.append(old_callback(journal.head))
        await asyncio.wait_for(journal.confirmed(journal.head), 20)

    send.broker, send.journal, send.metrics = broker, journal, metrics
    send.deleted = lambda **labels: value(broker._metrics.topology_deleted, **labels)
    await send()
    await until(looked_at(broker, 2), "two looks at everything")
    return send


def old_callback(number):
    """Received an hour ago and a second after the one before: a forwarder that has fallen behind sends such."""
    return callback(number)._replace(received_ms=HOUR_AGO_MS + number * 1000)


def looked_at(broker, times):
    """Return a condition: so many looks have been finished from now on."""
    seen = broker._keeper._seen
    before = []

    async def is_done():
        at_ms = seen["exchange", "im.events"][0].at_ms
        if not before or before[-1] != at_ms:
            before.append(at_ms)
        return len(before) > times

    return is_done


async def delete(amqp_url, what, name):
    async with admin_channel(amqp_url) as channel:
        if what == "exchange":
            await channel.exchange_delete(name)
        elif what == "queue":
            await channel.queue_delete(name)
        else:
            exchange = await channel.get_exchange(name, ensure=False)
            await exchange.unbind("im.events", routing_key="#")


async def stands(amqp_url, rabbitmq):
    """Return the names of exchanges, queues and bindings of the events exchange that stand."""
    vhost = urlsplit(amqp_url).path[1:]
    found = {
        one["name"]
        for kind in ("queues", "exchanges")
        for one in json.loads(manage(rabbitmq, "GET", f"/api/{kind}/{vhost}"))
    }
    return found | {
        (one["source"], one["destination"])
        for one in json.loads(manage(rabbitmq, "GET", f"/api/bindings/{vhost}"))
    }


def replayed(journal, line):
    """Return the numbers of what the replay command in *line* covers."""
    _, since, until_ = REPLAY.search(line).groups()
    return [
        one.position - 1
        for one in journal.read(0, 10_000, 10**9)
        if since <= iso_time(one.callback.received_ms) < until_
    ]


@pytest.mark.parametrize("what", ["exchange", "binding"])
async def test_what_a_sink_missed_silently_is_named_with_the_command_that_brings_it_back(
    running, amqp_url, rabbitmq, caplog, what
):
    """Another sink takes the event, so nothing is returned and nothing unrouted: only looking can notice."""
    began_s = time.monotonic()
    await delete(amqp_url, what, "im.sink.two")
    await running(5)

    async def is_noticed():
        return running.deleted(kind=what) == 1 and any("--sink two" in one for one in caplog.messages)

    await until(is_noticed, "the deletion", 10)
    noticed_s = time.monotonic() - began_s
    await running(1)

    assert noticed_s < 3, "about a second, on a machine that has the time"
    assert {("im.events", "im.sink.two"), ("im.sink.two", "im.sink.two")} <= await stands(amqp_url, rabbitmq)
    missed = set(range(7)) - set(numbers(await taken(running.broker, "two", 2)))
    assert missed
    [line] = [one for one in caplog.messages if "--sink two" in one]
    assert missed <= set(replayed(running.journal, line))
    assert 0 not in replayed(running.journal, line)
    assert not [one for one in caplog.messages if "--sink one" in one]
    [named] = [one for one in caplog.messages if "Somebody deleted" in one]
    assert f"{what} im.sink.two" in named


async def test_a_deleted_queue_is_noticed_and_what_came_meanwhile_is_not_lost(
    running, amqp_url, rabbitmq, caplog
):
    """What stood in it is the operator's deletion; what came since stands in im.unrouted until it is back."""
    await delete(amqp_url, "queue", "im.sink.two")
    await running(5)

    async def is_noticed():
        return any("--sink two" in one for one in caplog.messages)

    await until(is_noticed, "the deletion", 10)
    await running(1)

    kept = numbers(await taken(running.broker, "two", 1))
    unrouted = await running.broker.unrouted()
    assert set(range(1, 7)) - set(kept) <= set(range(1, 6))
    assert unrouted == 6 - len(kept)
    [line] = [one for one in caplog.messages if "--sink two" in one]
    assert set(range(1, 7)) - set(kept) <= set(replayed(running.journal, line))
    assert "unrouted queue" in line
    [named] = [one for one in caplog.messages if "Somebody deleted" in one]
    assert "queue im.sink.two (about 1 events stood in it)" in named
    assert running.deleted(kind="queue") == 1


@pytest.mark.parametrize("what", ["exchange", "queue"])
async def test_the_unrouted_queue_comes_back(running, amqp_url, rabbitmq, what):
    """It belongs to no sink; without it nobody could delete another queue without a loss."""
    await delete(amqp_url, what, "im.unrouted")

    async def is_noticed():
        return running.deleted(kind=what) == 1

    await until(is_noticed, "the deletion", 10)

    async def is_bound():
        return ("im.unrouted", "im.unrouted") in await stands(amqp_url, rabbitmq)

    await until(is_bound, "its return", 10)


async def test_a_worker_that_loses_its_queue_says_so_too(make, work, amqp_url, caplog):
    """Who only works learns it from the cancel, faster than any look, and declares it again."""
    broker = make({"one": ("#",)})
    await broker.apply()
    sink, _ = work(broker)
    async with make({"one": ("#",)}, declare="check").publisher() as publisher:
        await (await publisher.send([event(1)]))

        async def has(count):
            return len(sink.events) == count

        await until(lambda: has(1), "the first event")
        since = iso_time(time.time_ns() // 1_000_000)
        await until(looked_at(broker, 3), "looks")
        await delete(amqp_url, "queue", "im.sink.one")

        async def is_noticed():
            return any("--sink one" in one for one in caplog.messages)

        await until(is_noticed, "the deletion", 10)
        await (await publisher.send([event(2)]))
        await until(lambda: has(2), "the second event")

    assert value(broker._metrics.topology_deleted, kind="queue") == 1
    [line] = [one for one in caplog.messages if "--sink one" in one]
    assert REPLAY.search(line)[2] > since, "a look ago, not when the worker began"


async def test_the_events_exchange_comes_back_with_all_its_bindings(running, amqp_url, rabbitmq):
    """Nobody publishes into it while it is bound by half: everything reaches both sinks, or is refused and sent again."""
    for _ in range(3):
        await delete(amqp_url, "exchange", "im.events")
        deadline_s = time.monotonic() + 1.5
        while time.monotonic() < deadline_s:
            await running(1)
            await asyncio.sleep(0.01)
    count = running.journal.head

    for sink in ("one", "two"):
        ready = (await running.broker.depth(sink)).ready
        assert set(numbers(await taken(running.broker, sink, ready))) == set(range(count))


async def test_a_worker_that_mends_a_sinks_exchange_mends_all_of_it(make, amqp_url):
    """It may be the first to see that: bound to the events and to no queue, it would send them to the unrouted."""
    feeding, working = make(TWO), make(TWO)
    async with feeding.publisher() as publisher, working.consumer("two", 10):
        await delete(amqp_url, "exchange", "im.sink.one")
        await working._keeper.apply(working._consume_link)
        await (await publisher.send([event(number) for number in range(5)]))

    assert (await feeding.depth("one")).ready == 5
    assert await feeding.unrouted() == 0


async def test_an_idle_forwarder_does_not_publish_into_half_a_topology(running, amqp_url):
    """Its channel has not noticed; the watch holds it until all bindings stand."""
    await delete(amqp_url, "exchange", "im.events")

    async def is_back():
        return running.deleted(kind="exchange") == 1

    await until(is_back, "noticing", 10)
    await running(10)

    for sink in ("one", "two"):
        assert set(numbers(await taken(running.broker, sink, 11))) == set(range(11))


async def test_nothing_sent_meanwhile_is_said(running, amqp_url, caplog):
    """No alarm about a loss that did not happen."""
    await delete(amqp_url, "binding", "im.sink.two")

    async def is_said():
        return any("nothing was sent meanwhile" in one for one in caplog.messages)

    await until(is_said, "that nothing is missing", 10)
    assert not [one for one in caplog.messages if "journal replay" in one]


async def test_without_management_a_binding_is_back_within_a_second(make, forward, amqp_url, caplog):
    """Nobody notices then, and the log says so once, at the start."""
    caplog.set_level("INFO", "gateway")
    broker = make(TWO, management_url="http://127.0.0.1:1")
    journal, _ = await forward(broker)
    await journal.append(old_callback(0))
    await asyncio.wait_for(journal.confirmed(1), 20)
    await delete(amqp_url, "binding", "im.sink.two")

    async def is_bound():
        await journal.append(old_callback(journal.head))
        await asyncio.wait_for(journal.confirmed(journal.head), 20)
        return (await broker.depth("two")).ready > 1

    await until(is_bound, "the binding", 10)
    assert len([one for one in caplog.messages if "Nobody can tell" in one]) == 1


async def test_who_only_checks_says_what_an_administrator_has_to_do(
    make, forward, rabbitmq, amqp_url, caplog
):
    """It may not declare; the span ends when somebody has."""
    admin = make(TWO)
    await admin.apply()
    broker = make(TWO, declare="check", management_url=rabbitmq.management_url)
    journal, _ = await forward(broker)
    await journal.append(old_callback(0))
    await asyncio.wait_for(journal.confirmed(1), 20)
    await until(looked_at(broker, 2), "two looks")
    await delete(amqp_url, "exchange", "im.sink.two")

    async def is_said():
        return any("let an administrator run: gateway topology apply" in one for one in caplog.messages)

    await until(is_said, "the deletion", 10)
    for number in range(1, 4):
        await journal.append(old_callback(number))
    await asyncio.wait_for(journal.confirmed(4), 20)
    await admin.apply()

    async def is_back():
        return any("--sink two" in one for one in caplog.messages)

    await until(is_back, "the command", 10)
    line = next(one for one in caplog.messages if "--sink two" in one)
    assert {1, 2, 3} <= set(replayed(journal, line))


async def test_a_virtual_host_deleted_and_made_again(running, make, amqp_url, rabbitmq, caplog):
    """Said clearly while it is away; declared afresh when it is back; what was not confirmed is sent."""
    vhost = urlsplit(amqp_url).path[1:]
    await asyncio.sleep(rabbitmq.settles_in_s)
    await asyncio.to_thread(rabbitmq.delete_vhost, amqp_url)
    for number in range(1, 6):
        await running.journal.append(old_callback(number))

    async def is_said():
        return any("no_vhost" in one for one in caplog.messages)

    await until(is_said, "the fault")
    manage(rabbitmq, "PUT", f"/api/vhosts/{vhost}")
    manage(
        rabbitmq, "PUT", f"/api/permissions/{vhost}/guest", {"configure": ".*", "write": ".*", "read": ".*"}
    )
    await asyncio.wait_for(running.journal.confirmed(6), 30)

    for sink in ("one", "two"):
        assert set(numbers(await taken(running.broker, sink, 5))) >= set(range(1, 6))
    assert any("Somebody deleted" in one and "exchange im.events" in one for one in caplog.messages)


def test_what_a_look_found_is_worth_nothing_against_newer_knowledge(caplog):
    """Several may be under way: a slow one neither reports again what was mended, nor takes for back what is gone."""
    keeper = Keeper(BrokerConfig(url="amqp://x"), Topology.of("im.events", TWO), Metrics())
    key = ("exchange", "im.sink.two")
    now_ms = time.time_ns() // 1_000_000
    keeper._note({key: 0}, now_ms - 1000)
    keeper._note({key: None}, now_ms - 1000)
    assert not caplog.messages, "seen after this look had begun"
    keeper._note({key: None}, now_ms + 1000)
    assert len(caplog.messages) == 1
    keeper._note({key: 0}, now_ms - 1000)
    assert len(caplog.messages) == 1, "seen before it was found missing"
    keeper._note({key: 0}, now_ms + 1000)
    assert "--sink two" in caplog.messages[1]


def test_a_span_reaches_back_to_what_was_under_way_when_the_last_good_look_began():
    """A forwarder with a backlog publishes what was received long ago: the time of the deletion says nothing."""
    span = Span()
    span.add("2026-01-01T00:00:05Z")
    span.turn("2026-01-01T00:00:03Z")
    span.add("2026-01-01T00:00:09Z")
    assert span.oldest == "2026-01-01T00:00:03Z"
    span.turn("")
    span.add("2026-01-01T00:00:11Z")
    assert span.oldest == "2026-01-01T00:00:03Z"
    span.turn("")
    assert span.oldest == "2026-01-01T00:00:11Z"
    span.turn("")
    assert span.oldest == ""


def test_who_does_not_publish_names_the_time_of_the_last_look(caplog):
    """It can't know what was under way."""
    sink = Topology.of("im.events", TWO).sink("two")
    say_back([Seen("queue", "im.sink.two", sink, 1_700_000_000_000)], None)

    assert "--sink two --since 2023-11-14T22:13:20.000Z" in caplog.messages[0]
