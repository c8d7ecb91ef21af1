"""The journal over the admin port: where it stands, dry runs, replays, and what may not be done."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.admin import ACTION_HEADER, Admin, Health
from gateway.broker import Broker
from gateway.broker.embedded import Embedded
from gateway.callback import Callback
from gateway.config import Journal as JournalConfig
from gateway.config import JsonlSink, SqliteSink
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.replay.api import JournalApi
from gateway.topology import Topology

ACT = {ACTION_HEADER: "1"}
COUNT = 10
TOPOLOGY = Topology.of("im.events", {"crm": ("im.group.#",), "log": ("#",)})
SINKS = {
    "crm": SqliteSink(kind="sqlite", path=Path("x.db")),
    "log": JsonlSink(kind="jsonl", path=Path("x.jsonl")),
}


def callback(number: int) -> Callback:
    command = "Group.CallbackAfterMemberExit" if number % 2 else "State.StateChange"
    body = b'{"CallbackCommand":"%b","GroupId":"@TGS#%d","EventTime":"%d"}' % (
        command.encode(), number, 1_670_574_414_000 + number,
    )  # fmt: skip
    return Callback("14", f"SdkAppid=14&CallbackCommand={command}", body, "", 1_700_000_000_000, True, 1, 10)


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A journal with ten callbacks, eight of them confirmed."""
    limits = JournalConfig(dir=tmp_path / "journal", min_free_mb=0)
    journal = Journal.open(limits, Metrics())
    await asyncio.gather(*(journal.append(callback(number)) for number in range(1, COUNT + 1)))
    journal.confirm(8)
    await journal.close()
    return limits.dir


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    found = Embedded(tmp_path / "broker.db", TOPOLOGY, Metrics())
    yield found
    await found.close()


@pytest.fixture
async def client(aiohttp_client, folder: Path, broker: Broker, tmp_path: Path):
    api = JournalApi(
        [folder], TOPOLOGY, {}, SINKS, lambda: Embedded(tmp_path / "broker.db", TOPOLOGY, Metrics())
    )
    running = asyncio.create_task(api.run())
    yield await aiohttp_client(Admin("", Health, Metrics(), api.routes()).application())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def post(client, status: int = 200, **body):
    answer = await client.post("/api/journal/replay", json=body, headers=ACT)
    assert answer.status == status, await answer.text()
    return await answer.json()


async def ended(client):
    """Return the replay once it is not under way any more."""
    while True:
        job = (await (await client.get("/api/journal/replay")).json())["replay"]
        if job["state"] != "running":
            return job


async def test_where_the_journal_stands(client):
    """Positions, sizes, and what each sink's effect is."""
    told = await (await client.get("/api/journal")).json()

    assert {name: told["journals"][0][name] for name in ("first", "head", "cursor")} == {
        "first": 1, "head": 10, "cursor": 8,
    }  # fmt: skip
    assert told["sinks"] == {"crm": "once", "log": "at_least_once"}


async def test_a_journal_that_can_not_be_read_is_said(aiohttp_client, tmp_path):
    """A sentence instead of figures."""
    api = JournalApi([tmp_path], TOPOLOGY, {}, SINKS, lambda: None)
    client = await aiohttp_client(Admin("", Health, Metrics(), api.routes()).application())
    told = await (await client.get("/api/journal")).json()

    assert "holds no journal" in told["journals"][0]["fault"]


async def test_a_dry_run_counts_and_publishes_nothing(client, broker):
    """What would go where; waiting callbacks are left out."""
    await post(client, first=1, dry_run=True)
    job = await ended(client)

    assert (job["state"], job["callbacks"], job["events"], job["last"]) == ("done", 8, 8, 8)
    assert job["sinks"] == {"log": 8, "crm": 4}
    assert (await broker.depth("log")).ready == 0


async def test_a_replay_to_one_sink(client, broker, caplog):
    """Only that sink gets it, only what its patterns match, and the log says who, what and how many."""
    caplog.set_level(logging.INFO)
    await post(client, first=2, last=7, sink="crm")
    job = await ended(client)

    assert (job["state"], job["events"], job["done"]) == ("done", 3, 7)
    assert ((await broker.depth("crm")).ready, (await broker.depth("log")).ready) == (3, 0)
    [line] = [one.message for one in caplog.records if one.message.startswith("Audit")]
    assert "done, 3 events, confirmed up to position 7" in line
    assert '"sink": "crm"' in line


async def test_all_sinks_need_a_yes_where_one_would_write_again(client, broker):
    """The sinks are named; with yes it is done."""
    refused = await post(client, 400, first=1)
    await post(client, first=1, yes=True)
    await ended(client)

    assert refused["error"] == "needs_yes"
    assert "log" in refused["detail"]
    assert (await broker.depth("log")).ready == 8


@pytest.mark.parametrize(
    ("body", "events"),
    [
        ({"command": "State.*"}, 4),
        ({"app": "15"}, 0),
        ({"since": "2023-11-14T22:13:20Z"}, 8),
        ({"since": "2023-11-14T22:13:21Z"}, 0),
        ({"until": "2023-11-14T22:13:20Z"}, 0),
        ({"first": 9}, 0),
    ],
)
async def test_what_is_meant(client, body, events):
    """By command, app and time of receipt; nothing that waits."""
    await post(client, dry_run=True, **body)

    assert (await ended(client))["events"] == events


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({}, 400, "nothing_chosen"),
        ({"dry_run": True}, 400, "nothing_chosen"),
        ({"first": 0}, 400, "bad_request"),
        ({"since": "soon"}, 400, "bad_request"),
        ({"frist": 1}, 400, "bad_request"),
        ({"first": 1, "sink": "none"}, 404, "no_such_sink"),
        ({"first": 1, "process": 2, "yes": True}, 404, "no_such_journal"),
    ],
)
async def test_what_can_not_be_done_is_refused(client, body, status, error):
    """With a token and a sentence, and nothing is begun."""
    told = await post(client, status, **body)

    assert told["error"] == error
    assert (await (await client.get("/api/journal/replay")).json())["replay"] is None


async def test_one_at_a_time_and_it_can_be_stopped(client, broker, caplog):
    """A second one is told so; a stopped one says how far it came."""
    caplog.set_level(logging.INFO)
    await post(client, first=1, sink="crm", rate=0.1)
    busy = await post(client, 409, first=1, dry_run=True)
    while (await client.post("/api/journal/replay/stop", headers=ACT)).status != 200:
        await asyncio.sleep(0)
    job = await ended(client)
    idle = await client.post("/api/journal/replay/stop", headers=ACT)
    await post(client, first=1, dry_run=True)

    assert busy["error"] == "in_use"
    assert job["state"] == "stopped"
    assert job["done"] < 8
    assert idle.status == 409
    assert any("stopped, " in one.message for one in caplog.records)
    assert (await ended(client))["state"] == "done"
