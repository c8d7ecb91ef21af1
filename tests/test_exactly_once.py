"""Once in effect: workers killed again and again, events published twice, some retried, some parked."""

import asyncio
import json
import time

import asyncpg
import pytest

from gateway.broker.rabbitmq import RabbitMQ
from gateway.config import Broker
from gateway.event import Event
from gateway.metrics import Metrics
from gateway.topology import Topology
from tests.gateway_process import Gateway, eventually

COUNT, LIVES = 600, 6
SINK = '''
"""The postgres sink, which fails each tenth event once, and never takes another tenth."""

import asyncpg

from gateway.config import PostgresSink
from gateway.sinks import Poison, Unavailable
from gateway.sinks.postgres import Postgres


class Flaky:
    def __init__(self, dsn):
        self.dsn = dsn
        self.sink = Postgres(PostgresSink(kind="postgres", dsn=dsn), "crm")

    async def open(self):
        await self.sink.open()
        self.notes = await asyncpg.connect(self.dsn)
        try:
            await self.notes.execute("CREATE TABLE IF NOT EXISTS failed_once (n int PRIMARY KEY)")
        except asyncpg.UniqueViolationError:
            pass  # another lane creates it at the same moment

    async def write(self, events):
        failures = {at: Poison("odd") for at, one in enumerate(events) if one.data["n"] % 10 == 7}
        for at, one in enumerate(events):
            if one.data["n"] % 10 == 3:
                done = await self.notes.execute(
                    "INSERT INTO failed_once VALUES ($1) ON CONFLICT DO NOTHING", one.data["n"]
                )
                if done == "INSERT 0 1":
                    failures[at] = Unavailable("busy_row")
        good = [one for at, one in enumerate(events) if at not in failures]
        assert not await self.sink.write(good)
        return failures

    async def close(self):
        await self.sink.close()
'''


def make_event(number: int) -> Event:
    attributes = {
        "specversion": "1.0", "id": f"{number:032x}", "source": "/tencent-im/14", "type": "im.group.created",
        "appid": "14", "partitionkey": f"group/{number % 30}", "time": "2026-01-31T08:00:00.000Z",
        "recordedtime": "2026-01-31T08:00:00.000Z", "position": f"j.{number}.0",
    }  # fmt: skip
    return Event(json.dumps({**attributes, "data": {"n": number}}).encode(), attributes)


@pytest.mark.timeout(240)  # seven processes take long to start on a busy machine
def test_lanes_retries_and_parking_survive_kills(tmp_path, amqp_url, pg_dsn):
    """The table has each event once that can be written, the dead queue has the others, and nothing is left."""
    gateway = Gateway(
        tmp_path / "gateway",
        apps={"14": {}},
        broker={"url": amqp_url},
        sinks={
            "crm": {
                "kind": "python", "target": "flaky:Flaky", "options": {"dsn": pg_dsn}, "concurrency": 4,
                "batch_max_events": 5, "batch_max_wait_ms": 0, "park_limit_consecutive": 0, "park_limit_ratio": 1,
            },
        },
    )  # fmt: skip
    (gateway.folder / "flaky.py").write_text(SINK)
    events = [make_event(number) for number in range(COUNT)]
    try:
        for life in range(LIVES):
            some = events[life::LIVES]
            asyncio.run(publish(amqp_url, some + some[::2]))
            worker = gateway.start("work", wait=False)
            eventually(lambda: is_writing(gateway) or worker.poll() is not None, "events")  # noqa: B023
            assert worker.poll() is None, gateway.logs()
            time.sleep(0.03 * life)
            worker.kill()
            worker.wait()
        gateway.start("work")
        eventually(lambda: asyncio.run(waiting(amqp_url)) == 0, "an empty queue, and no retries", 60)
        eventually(lambda: gateway.metrics(gateway.worker_port)[UNACKED] == 0, "all settled")
        rows, failed = asyncio.run(written(pg_dsn))
        dead = asyncio.run(parked(amqp_url))
    finally:
        gateway.close()

    assert sorted(rows) == [number for number in range(COUNT) if number % 10 != 7]
    assert dead == {number for number in range(COUNT) if number % 10 == 7}
    assert sorted(failed) == [number for number in range(COUNT) if number % 10 == 3]


UNACKED = "gateway_sink_unacked_events{sink=crm}"


def is_writing(gateway):
    try:
        return gateway.metrics(gateway.worker_port).get("gateway_sink_written_total{sink=crm}", 0) > 0
    except OSError:
        return False


def broker_of(url):
    return RabbitMQ(Broker(url=url), Topology.of("im.events", {"crm": ("#",)}), Metrics())


async def publish(url, events):
    broker = broker_of(url)
    async with broker.publisher() as publisher:
        await (await publisher.send(events))
    await broker.close()


async def waiting(url):
    broker = broker_of(url)
    depth = await broker.depth("crm")
    await broker.close()
    return depth.ready + depth.retry


async def parked(url):
    broker = broker_of(url)
    found = {int(one.message_id, 16) for one in await broker.peek("crm", 10 * COUNT, dead=True)}
    await broker.close()
    return found


async def written(dsn):
    """Return the numbers of the rows, and of the events that have failed once."""
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT event->'data'->>'n' AS n FROM im_events")
    failed = await connection.fetch("SELECT n FROM failed_once")
    await connection.close()
    return [int(row["n"]) for row in rows], [row["n"] for row in failed]
