"""What the tests of RabbitMQ's faults share: events, a forwarder, and looking at what stands where."""

import asyncio
import contextlib
import json
import os
import signal
import urllib.request
from base64 import b64encode
from urllib.parse import urlsplit

import aio_pika
import pytest

from gateway.broker.rabbitmq import RabbitMQ
from gateway.callback import Callback
from gateway.config import Broker as BrokerConfig
from gateway.config import Journal as JournalConfig
from gateway.config import JsonlSink
from gateway.event import Event
from gateway.forwarder import Forwarder
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.topology import Topology
from gateway.worker import Worker

SINKS = {"one": ("#",), "two": ("im.group.#",)}


def event(number, event_type="im.group.member.exited"):
    attributes = {
        "id": f"{number:032x}",
        "source": "/s",
        "type": event_type,
        "appid": "14",
        "partitionkey": "k",
    }
    return Event(json.dumps({**attributes, "data": {"n": number}}).encode(), attributes)


def body(number, **fields):
    return json.dumps(
        {"GroupId": "g", "ExitType": "Quit", "EventTime": 1_670_574_414_123 + number, **fields}
    ).encode()


def callback(number, **fields):
    query = "SdkAppid=14&CallbackCommand=Group.CallbackAfterMemberExit"
    return Callback("14", query, body(number, **fields), "127.0.0.1", 1_700_000_000_000, False, 1, 10)


def value(metric, **labels):
    return sum(
        one.value
        for found in metric.collect()
        for one in found.samples
        if not one.name.endswith("_created") and labels.items() <= one.labels.items()
    )


@pytest.fixture
async def make(amqp_url):
    """Return a function that makes a broker on this test's virtual host; all are closed at the end."""
    async with contextlib.AsyncExitStack() as stack:

        def build(sinks=SINKS, partitions=None, **settings):
            broker = RabbitMQ(
                BrokerConfig(
                    url=settings.pop("url", amqp_url), reconnect_min_s=0.05, reconnect_max_s=0.3, **settings
                ),
                Topology.of("im.events", sinks, partitions),
                Metrics(),
            )
            stack.push_async_callback(broker.close)
            return broker

        yield build


@pytest.fixture
async def forward(tmp_path, make):
    """Return a function that starts a forwarder from a fresh journal to a broker."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(broker=None, **settings):
            metrics = Metrics()
            journal = Journal.open(JournalConfig(dir=tmp_path / "journal", min_free_mb=0), metrics)
            stack.push_async_callback(journal.close)
            config = BrokerConfig(url="amqp://x", reconnect_min_s=0.02, reconnect_max_s=0.2, **settings)
            forwarder = Forwarder(journal, broker or make(), config, metrics)
            task = asyncio.create_task(forwarder.run())

            async def stop():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            stack.push_async_callback(stop)
            return journal, metrics

        yield begin


class Collector:
    """A sink that remembers what it was given; it takes nothing while ``may_write`` is not set."""

    effect = "at_least_once"

    def __init__(self):
        self.events = []
        self.may_write = asyncio.Event()
        self.may_write.set()

    async def open(self):
        """Nothing to open."""

    async def write(self, events):
        await self.may_write.wait()
        self.events += [one.attributes for one in events]
        return {}

    async def close(self):
        """Nothing to close."""


@pytest.fixture
async def work(tmp_path):
    """Return a function that starts a worker for a sink of a broker; it returns (Collector, Metrics)."""
    async with contextlib.AsyncExitStack() as stack:

        def start(broker, name="one", lanes=1, takes=None, **settings):
            sink, metrics = Collector(), Metrics()
            config = JsonlSink(kind="jsonl", path=tmp_path / "x", **{"batch_max_wait_ms": 0, **settings})
            task = asyncio.create_task(Worker(name, config, [sink] * lanes, broker, metrics, takes).run())

            async def stop():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            stack.push_async_callback(stop)
            return sink, metrics

        yield start


@contextlib.asynccontextmanager
async def admin_channel(url):
    connection = await aio_pika.connect(url)
    async with connection, connection.channel() as channel:
        yield channel


async def until(ask, what, deadline_s=30):
    async with asyncio.timeout(deadline_s):
        while not await ask():
            await asyncio.sleep(0.02)
    return what


async def taken(broker, sink, count):
    """Take and settle *count* events of *sink*; return their ids in order."""
    found = []
    async with asyncio.timeout(30), broker.consumer(sink, 1000) as consumer:
        while len(found) < count:
            deliveries = await consumer.take(1000, 0.05)
            found += [json.loads(one.body) for one in deliveries]
            await consumer.ack(deliveries)
    return found


def numbers(events):
    return [one["data"]["raw"]["EventTime"] - 1_670_574_414_123 for one in events]


def manage(rabbitmq, method, path, content=None):
    parts = urlsplit(rabbitmq.management_url)
    request = urllib.request.Request(
        f"http://{parts.hostname}:{parts.port}{path}", method=method,
        data=None if content is None else json.dumps(content).encode(),
        headers={"Authorization": "Basic " + b64encode(b"guest:guest").decode(), "Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


@contextlib.contextmanager
def frozen(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
