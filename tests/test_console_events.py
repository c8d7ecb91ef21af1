"""Live events over HTTP: the ring, the filters, one event, and that message text stays hidden."""

import asyncio
import json

import orjson
import pytest
from aiohttp.test_utils import make_mocked_request

from gateway.admin import Admin, Health
from gateway.console import Events
from gateway.console.stream import Streams
from gateway.metrics import Metrics
from gateway.recent import Recent
from tests.sink_events import cloud_event, exit_event

TEXT = "see you <b>there</b>"


def message(event_id: str):
    elements = [{"type": "text", "content": {"text": TEXT}}]
    raw = orjson.Fragment(
        orjson.dumps({"MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": TEXT}}]})
    )
    data = {"group_id": "@TGS#9", "from": "jared", "message": {"elements": elements}, "raw": raw}
    return cloud_event(event_id, "im.group.message.sent", data)


@pytest.fixture
def recent():
    found = Recent()
    events = [exit_event("a1"), message("b2"), exit_event("c3", group_id="@TGS#3")]
    found.note([one.body for one in events])
    return found


@pytest.fixture
def open_up(aiohttp_client):
    async def made(recent, *, shows_content=False):
        events = Events(recent, Streams(), shows_content=shows_content)
        return await aiohttp_client(Admin("", Health, Metrics(), events.routes()).application())

    return made


async def ids(client, query=""):
    return [one["id"] for one in (await (await client.get(f"/api/events{query}")).json())["events"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["c3", "b2", "a1"]),
        ("?type=im.group.member.exited", ["c3", "a1"]),
        ("?type=im.group.message.*", ["b2"]),
        ("?type=im.*.sent&subject=group/@TGS%239", ["b2"]),
        ("?subject=*TGS%233", ["c3"]),
        ("?app=1400000000", ["c3", "b2", "a1"]),
        ("?app=14", []),
        ("?type=[", []),
    ],
)
async def test_filters_by_type_app_and_subject(open_up, recent, query, expected):
    """Whole values; * and ? stand for any text."""
    assert await ids(await open_up(recent), query) == expected


async def test_brackets_are_brackets(open_up):
    """Ids of groups are of an app's own making; only * and ? mean something else than themselves."""
    recent = Recent()
    recent.note([exit_event("d4", group_id="[vip]").body, exit_event("e5", group_id="v").body])
    client = await open_up(recent)

    assert await ids(client, "?subject=group/[vip]") == ["d4"]
    assert await ids(client, "?subject=*[v?p*") == ["d4"]


async def test_readers_of_the_ring_take_turns(recent, monkeypatch):
    """Each has a copy of it, 4 MiB: many who ask at once must not have many."""
    reading, most = 0, 0

    async def in_thread(work, *given):
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await asyncio.sleep(0)  # the others come as far as they can
        reading -= 1
        return work(*given)

    monkeypatch.setattr(asyncio, "to_thread", in_thread)
    events = Events(recent, Streams(), shows_content=False)
    handlers = {route.path: route.handler for route in events.routes()}
    paths = ["/api/events", "/api/events", "/api/events/one/{id}", "/api/events/one/{id}"]
    asked = [make_mocked_request("GET", path, match_info={"id": "a1"}) for path in paths]
    answers = await asyncio.gather(*(handlers[path](one) for path, one in zip(paths, asked, strict=True)))

    assert [answer.status for answer in answers] == [200] * 4
    assert most == 1


async def test_what_can_not_be_meant_is_refused(open_up, recent):
    """A slip is named, and a pattern has a bound."""
    client = await open_up(recent)

    assert (await client.get("/api/events?tpye=x")).status == 400
    assert (await client.get("/api/events?type=" + "a" * 501)).status == 400


async def test_one_event_with_its_text_hidden(open_up, recent):
    """By default neither data nor the raw body shows what somebody wrote; the rest is there."""
    client = await open_up(recent)
    answer = await client.get("/api/events/one/b2")
    told = await answer.json()

    assert told["event"]["data"]["from"] == "jared"
    assert "there" not in await answer.text()
    assert told["shows_content"] is False


async def test_one_event_with_its_text(open_up, recent):
    """console.show_content shows the raw body as it came."""
    client = await open_up(recent, shows_content=True)
    told = await (await client.get("/api/events/one/b2")).json()

    assert told["event"]["data"]["raw"]["MsgBody"][0]["MsgContent"]["Text"] == TEXT


async def test_the_list_never_has_text(open_up, recent):
    """Only attributes, whatever is switched on."""
    client = await open_up(recent, shows_content=True)

    assert "there" not in await (await client.get("/api/events")).text()
    async with client.get("/api/events/live") as answer:
        assert b"there" not in await answer.content.readuntil(b"\n\n")


async def test_an_event_that_is_gone_is_said(open_up, recent):
    """The ring is short."""
    answer = await (await open_up(recent)).get("/api/events/one/zz")

    assert (answer.status, (await answer.json())["error"]) == (404, "not_here")


async def told_live(answer):
    lines = await answer.content.readuntil(b"\n\n")
    return json.loads(lines.split(b"data: ", 1)[1])


async def test_new_events_are_told_live(open_up, recent):
    """What comes after the page was opened, if it matches; and how many came."""
    client = await open_up(recent)
    async with client.get("/api/events/live?type=im.group.message.sent") as answer:
        first = await told_live(answer)
        recent.note([exit_event("d4").body, message("e5").body])
        second = await told_live(answer)

    assert (first["events"], first["came"]) == ([], 0)
    assert ([one["id"] for one in second["events"]], second["came"], second["missed"]) == (["e5"], 2, 0)


async def test_a_flood_is_not_parsed_and_is_said(open_up, recent):
    """At most 200 bodies a second are looked at; what a filter rules out unread does not count."""
    client = await open_up(recent)
    async with client.get("/api/events/live?type=im.group.member.exited") as answer:
        await told_live(answer)
        recent.note([exit_event(f"x{number}").body for number in range(250)])
        recent.note([message(f"y{number}").body for number in range(250)])
        told = await told_live(answer)

    assert (len(told["events"]), told["came"], told["missed"]) == (200, 500, 50)


async def test_a_process_that_publishes_nothing_says_so(open_up):
    """A worker has no ring."""
    client = await open_up(None)

    assert (await (await client.get("/api/events")).json())["publishes"] is False
    assert (await client.get("/api/events/live")).status == 404
