"""What an operator does to users, rights, connections and alarms while we run: said clearly, recovered from, nothing lost."""

import asyncio
from collections import Counter
from urllib.parse import urlsplit

import pytest

from tests.rabbitmq_world import callback, manage, numbers, taken, until, value

ALL = {"configure": ".*", "write": ".*", "read": ".*"}
SINKS = {"one": ("#",)}


class User:
    """A login of its own for one test, with rights that can be changed."""

    def __init__(self, rabbitmq, amqp_url):
        self._rabbitmq = rabbitmq
        self._vhost = urlsplit(amqp_url).path[1:]
        self.name = f"user-{self._vhost}"
        self.url = amqp_url.replace("guest:guest", f"{self.name}:secret")
        self.create()

    def create(self, **rights):
        manage(self._rabbitmq, "PUT", f"/api/users/{self.name}", {"password": "secret", "tags": ""})
        self.may(**rights)

    def may(self, **rights):
        manage(self._rabbitmq, "PUT", f"/api/permissions/{self._vhost}/{self.name}", {**ALL, **rights})

    def delete(self):
        manage(self._rabbitmq, "DELETE", f"/api/users/{self.name}")


@pytest.fixture
def user(rabbitmq, amqp_url):
    user = User(rabbitmq, amqp_url)
    yield user
    user.delete()


@pytest.fixture
async def running(make, forward, work, user):
    """A forwarder and a worker that log in as *user*; returns send(count) and all_there()."""
    broker = make(SINKS, url=user.url)
    journal, metrics = await forward(broker)
    sink, worker_metrics = work(broker)

    async def send(count):
        for number in range(journal.head, journal.head + count):
            await journal.append(callback(number))

    async def all_there(deadline_s=30):
        async def are():
            return set(numbers(sink.events)) == set(range(journal.head))

        await until(are, "all events at the sink", deadline_s)
        await asyncio.wait_for(journal.confirmed(journal.head), deadline_s)

    send.all_there, send.broker, send.journal, send.metrics, send.sink = (
        all_there,
        broker,
        journal,
        metrics,
        sink,
    )
    send.worker_metrics = worker_metrics
    await send(5)
    await all_there()
    return send


async def said(caplog, *words):
    async def is_said():
        return any(all(word in one for word in words) for one in caplog.messages)

    await until(is_said, f"a line with {words}")


@pytest.mark.parametrize("right", ["configure", "write", "read"])
async def test_a_right_that_is_taken_away_and_given_back(running, rabbitmq, user, caplog, right):
    """RabbitMQ looks at rights when a channel is used first: said from then on, all there when they are back."""
    user.may(**{right: "^$"})
    await asyncio.to_thread(rabbitmq.close_connections)
    await running(5)
    await said(caplog, "The broker takes no events", "no_rights", "refused for user")
    await said(caplog, "Sink one gets no events", "no_rights")
    user.may()

    await running.all_there()


async def test_least_rights_taken_away_and_given_back(make, forward, work, rabbitmq, user, caplog):
    """Who declares nothing learns it at the publish itself: the broker closes the channel."""
    async with make(SINKS).publisher():
        pass
    user.may(configure="^$", write=r"^im\.events$", read="^$")
    broker = make(SINKS, url=user.url, declare="check")
    journal, metrics = await forward(broker)
    await journal.append(callback(0))
    await asyncio.wait_for(journal.confirmed(1), 20)
    user.may(configure="^$", write="^$", read="^$")
    await asyncio.to_thread(rabbitmq.close_connections)
    for number in range(1, 6):
        await journal.append(callback(number))
    await said(caplog, "The broker takes no events", "no_rights", "im.events")
    user.may(configure="^$", write=r"^im\.events$", read="^$")
    await asyncio.wait_for(journal.confirmed(6), 20)

    assert value(metrics.publish_failures, reason="no_rights") >= 1
    assert value(metrics.publish_failures, reason="rejected") == 0, "the content has no part in it"
    assert set(numbers(await taken(make(SINKS), "one", 6))) == set(range(6))


async def test_a_user_that_is_deleted_and_made_again(running, user, caplog):
    """RabbitMQ closes its connections; until it is back the log says that the login is refused."""
    user.delete()
    await running(5)
    await said(caplog, "The broker takes no events", "bad_credentials")
    await said(caplog, "Sink one gets no events", "bad_credentials")
    user.create()

    await running.all_there()


async def test_all_connections_closed_again_and_again(running, rabbitmq):
    """Under load, publisher and worker alike: taken up again in order, nothing lost."""
    for _ in range(3):
        await running(30)
        await asyncio.to_thread(rabbitmq.close_connections)
        await running(30)

    await running.all_there()
    found = numbers(running.sink.events)
    assert list(dict.fromkeys(found)) == sorted(set(found)), "first arrivals keep their order"


@pytest.mark.parametrize("alarm", ["memory", "disk"])
async def test_an_alarm_of_ten_seconds_makes_no_copies_and_holds_up_no_worker(
    make, forward, work, rabbitmq, alarm, caplog
):
    """No deadline runs while the broker does not read, and acknowledgements have a connection of their own."""
    caplog.set_level("INFO", "gateway")
    broker = make(SINKS, confirm_timeout_s=2, heartbeat_s=2)
    journal, metrics = await forward(broker)
    for number in range(100):
        await journal.append(callback(number))
    await asyncio.wait_for(journal.confirmed(100), 20)
    on, off = {
        "memory": (("set_vm_memory_high_watermark", "0.00000001"), ("set_vm_memory_high_watermark", "0.4")),
        "disk": (("set_disk_free_limit", "1000000000000000"), ("set_disk_free_limit", "10MB")),
    }[alarm]
    try:
        await asyncio.to_thread(rabbitmq.ctl, *on)
        for number in range(100, 150):
            await journal.append(callback(number))

        async def is_told():
            return value(broker._metrics.broker_blocked) == 1

        await until(is_told, "the alarm")
        sink, worker_metrics = work(broker, batch_max_events=10)

        async def is_worked_off():
            return value(worker_metrics.sink_written, sink="one") >= 100

        await until(is_worked_off, "the worker's acknowledgements while the alarm lasts", 8)
        ready = (await broker.depth("one")).ready
        await asyncio.sleep(10)
        assert journal.cursor < 150
    finally:
        await asyncio.to_thread(rabbitmq.ctl, *off)
    await asyncio.wait_for(journal.confirmed(150), 30)

    async def are_there():
        return set(numbers(sink.events)) == set(range(150))

    await until(are_there, "everything")
    assert ready == 0, "acknowledged, not taken only"
    assert max(Counter(numbers(sink.events)).values()) == 1
    assert value(metrics.publish_failures) == 0
    await said(caplog, "RabbitMQ reads publishes again")
