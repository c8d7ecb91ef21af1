"""Parked events over the admin port: the same work as the commands', and who may ask for it."""

import asyncio
import json
import logging
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.admin import ACTION_HEADER, Admin, Health
from gateway.broker import Broker
from gateway.broker.embedded import Embedded
from gateway.broker.rabbitmq import RabbitMQ
from gateway.config import Broker as BrokerConfig
from gateway.config import JsonlSink, SqliteSink
from gateway.dead.api import DeadApi
from gateway.event import Event
from gateway.metrics import Metrics
from gateway.topology import Topology
from tests.gateway_process import Gateway

EXIT = "im.group.member.exited"
ACT = {ACTION_HEADER: "1"}
SINKS = {
    "crm": SqliteSink(kind="sqlite", path=Path("x.db")),
    "log": JsonlSink(kind="jsonl", path=Path("x.jsonl")),
}
TOPOLOGY = Topology.of("im.events", {"crm": ("#",), "log": ("#",)})


@pytest.fixture(params=["embedded", "rabbitmq"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Broker]:
    found: Broker
    if request.param == "embedded":
        found = Embedded(tmp_path / "broker.db", TOPOLOGY, Metrics())
    else:
        found = RabbitMQ(BrokerConfig(url=request.getfixturevalue("amqp_url")), TOPOLOGY, Metrics())
    yield found
    await found.close()


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Broker]:
    found = Embedded(tmp_path / "broker.db", TOPOLOGY, Metrics())
    yield found
    await found.close()


async def serve(aiohttp_client, broker: Broker, token: str = "", *, is_local: bool = True):
    admin = Admin(token, Health, Metrics(), DeadApi(broker, SINKS).routes(), is_local=is_local)
    return await aiohttp_client(admin.application())


@pytest.fixture
async def client(aiohttp_client, broker: Broker):
    return await serve(aiohttp_client, broker)


@pytest.fixture
async def plain(aiohttp_client, embedded: Broker):
    return await serve(aiohttp_client, embedded)


def event(number: int, type_: str = EXIT, group: str = "group/@TGS#1") -> Event:
    attributes = {
        "id": f"{number:032x}", "source": "/tencent-im/14", "type": type_, "appid": "14", "partitionkey": group,
    }  # fmt: skip
    text = json.dumps({**attributes, "data": {"n": number}}, separators=(",", ":"))
    return Event(text.encode(), attributes)


async def park(broker: Broker, *events: Event, sink: str = "crm", reason: str = "refused") -> None:
    async with broker.publisher(sink) as publisher:
        await (await publisher.send(events))
    async with broker.consumer(sink, 100) as consumer:
        left = len(events)
        while left:
            for delivery in await consumer.take(left, 0.1):
                await consumer.park(delivery, reason)
                left -= 1


async def taken(broker: Broker, count: int, sink: str = "crm") -> list[bytes]:
    found: list[bytes] = []
    async with asyncio.timeout(30), broker.consumer(sink, 100) as consumer:
        while len(found) < count:
            page = await consumer.take(10, 0.1)
            await consumer.ack(page)
            found += [one.body for one in page]
    return found


async def ids(client: Any, **query: str) -> list[int]:
    answer = await client.get("/api/sinks/crm/dead", params=query)
    assert answer.status == 200, await answer.text()
    return [int(one["id"], 16) for one in (await answer.json())["events"]]


async def test_list_and_show(client, broker: Broker) -> None:
    """Lists never hold content; one event does, exactly; both leave everything where it is."""
    await park(broker, event(1), event(2, "im.x"))
    await park(broker, event(3), reason="key_blocked")
    listed = await (await client.get("/api/sinks/crm/dead")).json()
    shown = await client.get(f"/api/sinks/crm/dead/{1:032x}")
    [one] = (await shown.json())["events"]

    assert (listed["sink"], listed["parked"], len(listed["events"])) == ("crm", 3, 3)
    assert listed["events"][2]["reason"] == "key_blocked"
    assert "event" not in listed["events"][0]
    assert event(1).body in await shown.read()
    assert one["history"][0].endswith(" crm refused")
    assert await ids(client, type="im.x") == [2]
    assert await ids(client, limit="2") == [1, 2]
    assert await ids(client, until="2020-01-01T00:00:00Z") == []
    assert await ids(client) == [1, 2, 3]


async def test_replay_and_purge(client, broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """So many at a time, or all; each action leaves a line in the log that tells who did what."""
    caplog.set_level(logging.INFO, "gateway.dead.api")
    await park(broker, *(event(number) for number in range(6)))
    dry = await client.post("/api/sinks/crm/dead/replay", json={"all": True, "dry_run": True}, headers=ACT)
    some = await client.post("/api/sinks/crm/dead/replay", json={"type": EXIT, "limit": 2}, headers=ACT)
    bodies = await taken(broker, 2)
    count = await client.post("/api/sinks/crm/dead/purge", json={"id": f"{3:032x}"}, headers=ACT)
    gone = await client.post("/api/sinks/crm/dead/purge", json={"id": f"{3:032x}", "yes": True}, headers=ACT)

    assert await dry.json() == {
        "sink": "crm", "dry_run": True, "events": 6, "matched": 6, "types": {EXIT: 6}, "reasons": {"refused": 6},
    }  # fmt: skip
    assert ((await some.json())["events"], (await some.json())["matched"]) == (2, 6)
    assert bodies == [event(0).body, event(1).body]
    assert [(await one.json())["dry_run"] for one in (count, gone)] == [True, False]
    assert (await gone.json())["events"] == 1
    assert await ids(client) == [2, 4, 5]
    audits = [one.message for one in caplog.records if one.message.startswith("Audit")]
    assert [one.split(" of parked events of sink crm over the admin port by 127.0.0.1: ") for one in audits] == [
        ["Audit: replay", f'2 events, chosen by {{"type": "{EXIT}"}}'],
        ["Audit: purge", f'1 events, chosen by {{"id": "{3:032x}"}}'],
    ]  # fmt: skip


async def test_an_edited_event(plain, embedded: Broker) -> None:
    """As text, so that no number is rounded; it must be the same event still, unless told."""
    await park(embedded, event(1), event(2))
    path, asked = "/api/sinks/crm/dead/replay", {"id": f"{1:032x}"}
    text = event(1).body.decode().replace('"n":1', '"n": 12345678901234567890123')
    other = await plain.post(path, json={**asked, "event": event(5).body.decode()}, headers=ACT)
    broken = await plain.post(path, json={**asked, "event": "{"}, headers=ACT)
    absent = await plain.post(path, json={"id": "x", "event": text}, headers=ACT)
    nameless = await plain.post(path, json={"all": True, "event": text}, headers=ACT)
    done = await plain.post(path, json={**asked, "event": text}, headers=ACT)

    assert [one.status for one in (other, broken, absent, nameless, done)] == [400, 400, 404, 400, 200]
    assert (await other.json())["error"] == "not_this_event"
    assert await taken(embedded, 1) == [text.replace(" ", "").encode()]
    assert await ids(plain) == [2]


async def test_a_sink_that_writes_again_needs_a_yes(plain, embedded: Broker) -> None:
    """As on the command line."""
    await park(embedded, event(1), sink="log")
    path = "/api/sinks/log/dead/replay"
    without = await plain.post(path, json={"all": True}, headers=ACT)
    with_yes = await plain.post(path, json={"all": True, "yes": True}, headers=ACT)

    assert (without.status, (await without.json())["error"]) == (400, "needs_yes")
    assert with_yes.status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("GET", "/api/sinks/nobody/dead", None, 404, "no_such_sink"),
        ("GET", "/api/sinks/crm/dead?kind=x", None, 400, "bad_request"),
        ("GET", "/api/sinks/crm/dead?limit=0", None, 400, "bad_request"),
        ("GET", "/api/sinks/crm/dead?since=yesterday", None, 400, "bad_request"),
        ("GET", "/api/sinks/crm/dead/none", None, 404, "not_parked"),
        ("GET", "/api/nothing", None, 404, "not_found"),
        ("DELETE", "/api/sinks/crm/dead", None, 405, "method_not_allowed"),
        ("POST", "/api/sinks/crm/dead/purge", "{", 400, "bad_request"),
        ("POST", "/api/sinks/crm/dead/purge", "[]", 400, "bad_request"),
        ("POST", "/api/sinks/crm/dead/purge", '{"yes":true}', 400, "nothing_chosen"),
        ("POST", "/api/sinks/crm/dead/replay", "{}", 400, "nothing_chosen"),
        ("POST", "/api/sinks/crm/dead/replay", '{"all":true,"rate":0}', 400, "bad_request"),
        ("POST", "/api/sinks/nobody/dead/replay", '{"all":true}', 404, "no_such_sink"),
    ],
)
async def test_what_is_wrong_is_said_in_json(
    plain, method: str, path: str, body: str | None, status: int, error: str
) -> None:
    """A token for machines, a sentence for people."""
    answer = await plain.request(method, path, data=body, headers=ACT)
    said = await answer.json()

    assert (answer.status, said["error"]) == (status, error)
    assert said["detail"]


async def test_another_command_is_at_work(client, broker: Broker) -> None:
    """409, and who it is where that is known."""
    await park(broker, event(1))
    async with broker.dead("crm", "somebody"):
        answer = await client.get("/api/sinks/crm/dead")

    assert (answer.status, (await answer.json())["error"]) == (409, "in_use")
    assert "somebody" in (await answer.json())["detail"]
    assert await ids(client) == [1]


async def test_a_broker_that_is_away(aiohttp_client) -> None:
    """503, with the reason."""
    broker = RabbitMQ(BrokerConfig(url="amqp://guest:secret@127.0.0.1:1/"), TOPOLOGY, Metrics())
    client = await serve(aiohttp_client, broker)
    answer = await client.get("/api/sinks/crm/dead")
    text = await answer.text()
    await broker.close()

    assert (answer.status, json.loads(text)["error"]) == (503, "refused")
    assert "secret" not in text


async def test_a_form_of_a_foreign_page_changes_nothing(plain, embedded: Broker) -> None:
    """A browser sends forms and simple requests anywhere, but this header only where the site allows it."""
    await park(embedded, event(1))
    for path in ("replay", "purge"):
        answer = await plain.post(
            f"/api/sinks/crm/dead/{path}",
            data=b'{"all":true,"yes":true}',
            headers={"Content-Type": "text/plain"},
        )

        assert (answer.status, (await answer.json())["error"]) == (403, "no_action_header")
    preflight = await plain.options("/api/sinks/crm/dead/purge", headers={"Origin": "http://evil.example"})
    assert preflight.status == 403
    assert not any(name.startswith("Access-Control") for name in preflight.headers)
    assert await ids(plain) == [1]


@pytest.mark.parametrize(
    ("host", "is_let_in"),
    [
        ("localhost:8081", True), ("127.0.0.1", True), ("127.9.9.9:1", True), ("[::1]:8081", True),
        ("evil.example", False), ("evil.example:8081", False), ("localhost.evil.example", False),
        ("10.0.0.1:8081", False), ("[", False), ("", False),
    ],
)  # fmt: skip
async def test_on_loopback_only_names_of_this_machine(
    aiohttp_client, embedded: Broker, host: str, is_let_in: bool
) -> None:
    """A page may give its own name the address 127.0.0.1 (DNS rebinding); the browser sends that name."""
    local = await serve(aiohttp_client, embedded)
    remote = await serve(aiohttp_client, embedded, "s3cret", is_local=False)
    answers = [
        await local.get("/api/sinks/crm/dead", headers={"Host": host}),
        await remote.get("/api/sinks/crm/dead", headers={"Host": host, "Authorization": "Bearer s3cret"}),
    ]
    metrics = await local.get("/metrics", headers={"Host": host})

    assert [one.status for one in answers] == [200 if is_let_in else 403, 200]
    assert metrics.status == 200


async def test_the_token_is_asked_for(aiohttp_client, embedded: Broker) -> None:
    """Of everything under /api/, what is not there too."""
    client = await serve(aiohttp_client, embedded, "s3cret")
    for path in ("/api/sinks/crm/dead", "/api/nothing"):
        without = await client.get(path)
        wrong = await client.get(path, headers={"Authorization": "Bearer wrong"})

        assert (without.status, wrong.status) == (401, 401)
        assert (await without.json())["error"] == "no_token"
        assert without.headers["WWW-Authenticate"] == "Bearer"
    right = await client.get("/api/sinks/crm/dead", headers={"Authorization": "Bearer s3cret"})
    assert right.status == 200


def test_in_a_running_gateway(tmp_path: Path) -> None:
    """`run` and `work` have it, beside the worker that consumes the sink; `serve` does not."""
    gateway = Gateway(tmp_path)
    try:
        gateway.start("run")
        status, body = gateway.get("/api/sinks/exits/dead")
        request = urllib.request.Request(
            f"http://127.0.0.1:{gateway.admin_port}/api/sinks/exits/dead/replay",
            data=b'{"all":true}', headers=ACT,
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=10) as answer:
            replayed = json.loads(answer.read())
        said = gateway.command("dead", "list")
        gateway.stop(gateway.processes[0])
        gateway.start("serve")
        serving, _ = gateway.get("/api/sinks/exits/dead")
    finally:
        gateway.close()

    assert (status, json.loads(body)["events"]) == (200, [])
    assert replayed["events"] == 0
    assert "exits: 0 parked" in said
    assert serving == 404


async def test_what_people_wrote_is_hidden_where_it_is_to_be(aiohttp_client, embedded):
    """console.show_content off: an event that is opened has its ids and no text; one that is no JSON, nothing."""
    attributes = {"id": "t1", "source": "/tencent-im/14", "type": "im.group.message.sent", "appid": "14"}
    data = {"from": "jared", "message": {"elements": [{"content": {"text": "see you"}}]}}
    spoken = Event(json.dumps({**attributes, "data": data}).encode(), attributes)
    broken = Event(b"see you", {**attributes, "id": "t2"})
    await park(embedded, spoken, broken)
    api = DeadApi(embedded, SINKS, shows_content=False)
    client = await aiohttp_client(Admin("", Health, Metrics(), api.routes()).application())
    shown = await (await client.get("/api/sinks/crm/dead/t1")).json()
    whole = await (await client.get("/api/sinks/crm/dead/t2")).json()

    assert shown["events"][0]["event"]["data"] == {"from": "jared", "message": {"elements": "(hidden)"}}
    assert whole["events"][0]["body"] == "(hidden: 7 characters)"
