"""One queue that takes nothing: named, nothing lost, and no flood of copies for the queues that are well."""

import asyncio
import contextlib
from collections import Counter
from urllib.parse import urlsplit

from tests.rabbitmq_world import callback, manage, numbers, taken, until, value

SINKS = {"one": ("#",), "two": ("#",), "other": ("im.unknown.#",)}


@contextlib.contextmanager
def policy(rabbitmq, amqp_url, queue):
    """An operator's policy that makes *queue* refuse as soon as one event stands in it."""
    vhost = urlsplit(amqp_url).path[1:]
    rule = {"pattern": f"^{queue}$", "definition": {"max-length": 1, "overflow": "reject-publish"}}
    manage(rabbitmq, "PUT", f"/api/policies/{vhost}/full", rule)
    try:
        yield
    finally:
        manage(rabbitmq, "DELETE", f"/api/policies/{vhost}/full")


@contextlib.asynccontextmanager
async def silent(rabbitmq, amqp_url, queue):
    """A quorum queue that answers nobody, as one without most of its nodes does."""
    process = f"{{'{urlsplit(amqp_url).path[1:]}_{queue}', node()}}"
    await asyncio.to_thread(rabbitmq.ctl, "eval", f"sys:suspend({process}).")
    try:
        yield
    finally:
        await asyncio.to_thread(rabbitmq.ctl, "eval", f"sys:resume({process}).")


async def send_until(journal, condition, what):
    async def is_met():
        await journal.append(callback(journal.head))
        await asyncio.sleep(0.05)
        return condition()

    return await until(is_met, what, 60)


def refuses(broker):
    return {sink: value(broker._metrics.sink_refuses, sink=sink) for sink in SINKS}


async def copies(broker, sink):
    return Counter(numbers(await taken(broker, sink, (await broker.depth(sink)).ready)))


async def test_a_policy_that_makes_one_queue_refuse(make, rabbitmq, forward, amqp_url, caplog):
    """Probed with one event, that queue alone once it is known; named in log and metric, until it takes events again."""
    caplog.set_level("INFO", "gateway")
    broker = make(SINKS)
    journal, metrics = await forward(broker)
    await journal.append(callback(0))
    await asyncio.wait_for(journal.confirmed(1), 10)
    with policy(rabbitmq, amqp_url, "im.sink.two"):
        await send_until(journal, lambda: refuses(broker)["two"] == 1, "who refuses")
        before = (await broker.depth("one")).ready
        probes = value(metrics.publish_failures)
        await send_until(journal, lambda: value(metrics.publish_failures) >= probes + 5, "more probes")
        during = (await broker.depth("one")).ready
        stored = journal.head
        assert journal.cursor < stored
        assert refuses(broker) == {"one": 0, "two": 1, "other": 0}
    await asyncio.wait_for(journal.confirmed(stored), 30)

    assert during == before, "probes reach the queue that refuses, and nobody else"
    for sink in ("one", "two"):
        found = await copies(broker, sink)
        assert set(found) == set(range(stored)), sink
    assert refuses(broker) == {"one": 0, "two": 0, "other": 0}
    said = [one for one in caplog.messages if "im.sink.two" in one]
    assert [one for one in said if "takes no events" in one and "reject-publish" in one]
    assert said[-1] == "Queue im.sink.two takes events again"
    assert not [one for one in caplog.messages if "im.sink.one" in one or "im.sink.other" in one]


async def test_a_queue_that_never_confirms_is_named_too(make, rabbitmq, forward, amqp_url, caplog):
    """As when most of its nodes are down: a deadline, then probes of that queue alone."""
    broker = make(SINKS, confirm_timeout_s=1)
    journal, _ = await forward(broker)
    await journal.append(callback(0))
    await asyncio.wait_for(journal.confirmed(1), 10)
    async with silent(rabbitmq, amqp_url, "im.sink.two"):
        await send_until(journal, lambda: refuses(broker)["two"] == 1, "who is silent")
        stored = journal.head
    await asyncio.wait_for(journal.confirmed(stored), 60)

    one, two = await copies(broker, "one"), await copies(broker, "two")
    assert set(one) == set(two) == set(range(stored))
    assert max(one.values()) <= 4, (
        "one of the batch, one of the first probe of both, one when all is well again"
    )
    assert any("im.sink.two" in one and "lost most of its nodes" in one for one in caplog.messages)


async def test_without_the_right_to_try_one_queue_all_that_may_be_it_are_named(
    make, rabbitmq, forward, amqp_url, caplog
):
    """Least rights: write to im.events only. Nothing is lost, and probing goes on with one event for all."""
    vhost = urlsplit(amqp_url).path[1:]
    async with make(SINKS).publisher():
        pass
    manage(rabbitmq, "PUT", "/api/users/least", {"password": "least", "tags": ""})
    rights = {"configure": "^$", "write": r"^im\.events$", "read": "^$"}
    manage(rabbitmq, "PUT", f"/api/permissions/{vhost}/least", rights)
    broker = make(SINKS, url=amqp_url.replace("guest:guest", "least:least"), declare="check")
    journal, metrics = await forward(broker)
    await journal.append(callback(0))
    await asyncio.wait_for(journal.confirmed(1), 10)
    with policy(rabbitmq, amqp_url, "im.sink.two"):
        await send_until(journal, lambda: "One of these queues" in caplog.text, "the suspects")
        await send_until(journal, lambda: value(metrics.publish_failures, reason="nacked") >= 3, "probes")
        stored = journal.head
    await asyncio.wait_for(journal.confirmed(stored), 30)

    line = next(one for one in caplog.messages if "One of these queues" in one)
    assert "im.sink.one, im.sink.two" in line
    admin = make(SINKS)
    for sink in ("one", "two"):
        assert set(await copies(admin, sink)) == set(range(stored)), sink


async def test_a_single_suspect_is_known_at_its_first_refusal(make, rabbitmq, forward, amqp_url):
    """With one taker nobody else can be it; the other sinks get no copy at all."""
    broker = make({"one": ("im.user.#",), "two": ("im.group.#",)})
    journal, _ = await forward(broker)
    await journal.append(callback(0))
    await asyncio.wait_for(journal.confirmed(1), 10)
    with policy(rabbitmq, amqp_url, "im.sink.two"):
        await send_until(journal, lambda: value(broker._metrics.sink_refuses, sink="two") == 1, "who refuses")
        stored = journal.head
    await asyncio.wait_for(journal.confirmed(stored), 30)

    assert (await broker.depth("one")).ready == 0
    assert set(await copies(broker, "two")) == set(range(stored))
