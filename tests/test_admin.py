"""The admin port: who may see what."""

import asyncio
import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import admin as admin_module
from gateway.admin import Admin, Health
from gateway.metrics import Metrics


@pytest.fixture
def health():
    return Health()


@pytest.fixture
async def open_client(aiohttp_client, health):
    return await aiohttp_client(Admin("", lambda: health, Metrics()).application())


@pytest.fixture
async def guarded_client(aiohttp_client, health):
    return await aiohttp_client(Admin("s3cret", lambda: health, Metrics()).application())


async def test_livez_is_for_everybody(guarded_client):
    """A probe needs no secret."""
    assert (await guarded_client.get("/livez")).status == 200


async def test_ready_and_why_not(open_client, health):
    """Causes make it unready; notes do not."""
    health.notes.append("the broker is away")
    well = await open_client.get("/readyz")
    health.causes.append("the journal is full")
    ill = await open_client.get("/readyz")

    assert (well.status, (await well.json())["notes"]) == (200, ["the broker is away"])
    assert (ill.status, (await ill.json())["causes"]) == (503, ["the journal is full"])


async def test_without_the_token_only_a_status(guarded_client, health):
    """Strangers learn whether, not why; and no metrics."""
    health.causes.append("the journal is full")
    ready = await guarded_client.get("/readyz")
    wrong = await guarded_client.get("/metrics", headers={"Authorization": "Bearer wrong"})
    right = await guarded_client.get("/readyz", headers={"Authorization": "Bearer s3cret"})

    assert (ready.status, await ready.text()) == (503, "not ready\n")
    assert wrong.status == 401
    assert json.loads(await right.text())["causes"] == ["the journal is full"]


async def test_every_metric_is_read_by_a_prometheus_parser(open_client):
    """Names, types and help as the format wants them; labels only from closed sets."""
    page = await open_client.get("/metrics")
    families = list(text_string_to_metric_families(await page.text()))

    assert page.headers["Content-Type"].startswith("text/plain")
    assert len(families) > 30
    assert all(
        family.name.startswith(("gateway_", "process_")) and family.documentation for family in families
    )
    labels = {name for family in families for sample in family.samples for name in sample.labels}
    assert labels <= {"reason", "app", "sink", "role", "stored", "kind", "version", "le"}


async def test_strangers_make_nobody_count(aiohttp_client):
    """What brings the figures up to date takes time from callbacks, so only who may see them has it done."""
    asked = []

    async def refresh():
        asked.append(1)

    admin = Admin("s3cret", Health, Metrics(), refresh=refresh)
    client = await aiohttp_client(admin.application())
    for path in ("/metrics", "/api/me", "/readyz", "/livez", "/nowhere"):
        await client.get(path)
    await client.post("/api/login", json={"token": "wrong"}, headers={"X-Gateway-Action": "1"})
    by_strangers = len(asked)
    mine = {"Authorization": "Bearer s3cret"}
    for path in ("/metrics", "/api/me"):
        assert (await client.get(path, headers=mine)).status == 200

    assert (by_strangers, len(asked)) == (0, 2)


async def test_a_login_that_never_ends_is_ended(guarded_client, monkeypatch):
    """It would hold one of 64 connections; with all of them held, probes would take the process for dead."""
    monkeypatch.setattr(admin_module, "_BODY_S", 0.01)
    is_over = asyncio.Event()

    async def body():
        yield b'{"token":'
        await is_over.wait()

    async with asyncio.timeout(10):
        answer = await guarded_client.post("/api/login", data=body(), headers={"X-Gateway-Action": "1"})
    is_over.set()

    assert (answer.status, (await answer.json())["error"]) == (408, "slow_body")
