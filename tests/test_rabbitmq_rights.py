"""deploy/rabbitmq/definitions.json on the real broker: each role can do its work, and nothing else."""

import asyncio
import json
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import aiormq
import pytest

from tests.gateway_process import Gateway, eventually

DEFINITIONS = Path(__file__).parent.parent / "deploy/rabbitmq/definitions.json"
ROLES = ("topology", "serve", "work", "operator")


@pytest.fixture
def urls(rabbitmq, amqp_url):
    """The URL of each role, whose rights are those of the shipped file, in a virtual host of this test's own."""
    vhost = urlsplit(amqp_url).path[1:]
    shipped = json.loads(DEFINITIONS.read_text())
    for user in shipped["users"]:
        del user["password_hash"], user["hashing_algorithm"]
        user["password"] = f"of-{user['name']}"
    for permission in shipped["permissions"]:
        permission["vhost"] = vhost
    rabbitmq.manage("POST", "/api/definitions", {**shipped, "vhosts": []})
    yield {role: amqp_url.replace("guest:guest", f"im-{role}:of-im-{role}") for role in ROLES}
    for user in shipped["users"]:
        rabbitmq.manage("DELETE", f"/api/users/{user['name']}")


@pytest.fixture
def gateway(tmp_path, urls):
    started = Gateway(
        tmp_path / "gateway", broker={"url": urls["topology"], "declare": "apply"},
        sinks={"audit": {"kind": "jsonl", "path": "var/events.jsonl"}},
    )  # fmt: skip
    yield started
    started.close()


def become(gateway, urls, role):
    """Let what starts from now on have the rights of *role*, and declare nothing."""
    gateway.change(["broker", "url"], urls[role])
    gateway.change(["broker", "declare"], "check")


def test_each_role_does_its_work(gateway, urls):
    """Declared by one, published by another, written by a third; an operator replays; nobody lacks a right."""
    gateway.command("topology", "apply")
    become(gateway, urls, "serve")
    gateway.start("serve")
    become(gateway, urls, "work")
    gateway.start("work")
    sender = gateway.sender()
    for number in range(3):
        assert sender.post(number)
    eventually(lambda: len(gateway.lines()) == 3, "three events")
    become(gateway, urls, "operator")
    gateway.command("journal", "replay", "--sink", "audit", "--since", "1h", "--yes")
    eventually(lambda: len(gateway.lines()) == 6, "the same once more")
    gateway.command("dead", "list", "--sink", "audit")

    assert "no_rights" not in gateway.logs()


def test_an_event_that_fails_is_retried_and_parked(gateway, urls):
    """A worker may write into the retry and dead queues of its sink, and an operator give back what is parked."""
    gateway.change(["sinks", "audit"], {"kind": "python", "target": "refuses:Refuses", "max_attempts": 1})
    (gateway.folder / "refuses.py").write_text(REFUSES)
    gateway.command("topology", "apply")
    become(gateway, urls, "serve")
    gateway.start("serve")
    become(gateway, urls, "work")
    gateway.start("work")
    assert gateway.sender().post(1)
    name = "gateway_sink_dead_events{sink=audit}"
    eventually(lambda: gateway.metrics(gateway.worker_port).get(name) == 1, "parked")
    become(gateway, urls, "operator")
    said = gateway.command("dead", "list", "--sink", "audit")

    assert "im.group.member.exited" in said
    assert "no_rights" not in gateway.logs()


REFUSES = """
from gateway.errors import Poison

class Refuses:
    def write(self, events):
        return {number: Poison("refused", "by a test") for number in range(len(events))}
"""


def test_no_role_does_the_work_of_another(gateway, urls):
    """Who publishes can't read, who reads can't publish, and neither declares or deletes."""
    gateway.command("topology", "apply")

    async def refused(role, act):
        async with await aio_pika.connect(urls[role]) as connection:
            channel = await connection.channel()
            with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                await act(channel)

    async def publish(channel):
        exchange = await channel.get_exchange("im.events", ensure=False)
        await exchange.publish(aio_pika.Message(b"{}"), "im.unknown.14")

    async def read(channel):
        queue = await channel.get_queue("im.sink.audit", ensure=False)
        await queue.get(fail=False)

    async def declare(channel):
        await channel.declare_queue("im.sink.mine", durable=True, arguments={"x-queue-type": "quorum"})

    async def delete(channel):
        await channel.queue_delete("im.sink.audit")

    for role, act in [
        ("serve", read), ("serve", declare), ("serve", delete),
        ("work", publish), ("work", declare), ("work", delete),
        ("operator", declare), ("operator", delete),
    ]:  # fmt: skip
        asyncio.run(refused(role, act))
