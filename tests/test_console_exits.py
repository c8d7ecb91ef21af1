"""Who left, over HTTP: choice, counts a day, the file for spreadsheets, and what is said when nothing can be read."""

import csv
import io

import pytest

from gateway import leavers
from gateway.admin import Admin, Health
from gateway.config import Config
from gateway.console import Exits
from gateway.event import iso_time
from gateway.metrics import Metrics
from gateway.sinks.sqlite import Sqlite
from tests.sink_events import exit_event

FORMULA_LIKE = ['=HYPERLINK("http://x")', "\n=1+1", "\uff1d1+1"]


def exit_at(number: int, time: str, **data):
    return exit_event(str(number), time=time, **{"group_id": "@TGS#1", **data})


@pytest.fixture
def config(tmp_path):
    return Config.model_validate({"sinks": {"exits": {"kind": "sqlite", "path": str(tmp_path / "x.db")}}})


@pytest.fixture
def written(config):
    async def write(*events):
        sink = Sqlite(config.sinks["exits"], "exits")
        await sink.open()
        assert await sink.write(list(events)) == {}
        await sink.close()

    return write


@pytest.fixture
async def client(aiohttp_client, config):
    admin = Admin("", Health, Metrics(), Exits(leavers.readers(config)).routes())
    return await aiohttp_client(admin.application())


async def test_who_left_newest_first_with_counts_a_day(client, written):
    """Each member is a row; days are of UTC."""
    await written(
        exit_at(1, "2026-01-30T23:59:59.999Z", members=["jared", "tommy"]),
        exit_at(2, "2026-01-31T00:00:00.000Z", members=["anna"], group_id="@TGS#2", operator="anna"),
    )
    told = await (await client.get("/api/exits")).json()
    mine = await (await client.get("/api/exits", params={"group": "@TGS#1", "member": "tommy"})).json()

    assert told["exits"][0]["member"] == "anna"
    assert told["days"] == {"2026-01-30": 2, "2026-01-31": 1}
    assert (told["counted"], told["is_cut"]) == (3, False)
    assert [(one["group"], one["member"], one["operator"]) for one in mine["exits"]] == [
        ("@TGS#1", "tommy", "leckie")
    ]


async def test_since_and_until_are_a_half_open_range(client, written):
    """From a day on, and before another."""
    await written(*(exit_at(day, f"2026-01-0{day}T12:00:00Z", members=["m"]) for day in (1, 2, 3)))
    told = await (await client.get("/api/exits?since=2026-01-02&until=2026-01-03")).json()

    assert list(told["days"]) == ["2026-01-02"]


async def test_a_long_list_is_cut_and_says_so(client, written):
    """The page shows 200 rows and counts 10,000; more are named as not counted."""
    members = [f"m{number}" for number in range(2001)]
    await written(*(exit_at(day, f"2026-01-0{day}T12:00:00Z", members=members) for day in range(1, 6)))
    told = await (await client.get("/api/exits")).json()

    assert (len(told["exits"]), told["counted"], told["is_cut"]) == (200, 10_000, True)


async def test_the_file_is_csv_that_a_spreadsheet_does_not_run(client, written):
    """What begins like a formula has an apostrophe before it; quotes, commas and other scripts are kept."""
    await written(exit_at(1, iso_time(1_700_000_000_000), members=[*FORMULA_LIKE, 'a,"b"', "王"]))
    answer = await client.get("/api/exits.csv")
    body = await answer.read()
    rows = list(csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline="")))

    assert answer.headers["Content-Disposition"] == 'attachment; filename="member-exits.csv"'
    assert {row["member"] for row in rows} == {*(f"'{one}" for one in FORMULA_LIKE), 'a,"b"', "王"}
    assert {row["group"] for row in rows} == {"'@TGS#1"}
    assert rows[0]["time_utc"] == "2023-11-14T22:13:20.000Z"


async def test_a_table_that_is_not_there_yet_is_said_in_words(client):
    """Before the first exit: no fault, a sentence."""
    told = await (await client.get("/api/exits")).json()

    assert told["exits"] == []
    assert told["note"].startswith("No worker has written to")


async def test_a_database_that_can_not_be_read_is_said_in_words(client, config):
    """A fault has its reason, and what the database says."""
    config.sinks["exits"].path.write_bytes(b"no database" * 100)
    answer = await client.get("/api/exits")

    assert answer.status == 503
    assert "x.db" in (await answer.json())["detail"]


async def test_without_a_database_the_page_is_told_so(aiohttp_client):
    """No sink keeps the table: an empty list of sinks, and no file."""
    client = await aiohttp_client(Admin("", Health, Metrics(), Exits({}).routes()).application())

    assert (await (await client.get("/api/exits")).json())["sinks"] == []
    assert (await client.get("/api/exits.csv")).status == 404


@pytest.mark.parametrize(
    ("query", "status"),
    [("since=yesterday", 400), ("what=1", 400), ("sink=none", 404), ("since=1969-01-01", 400)],
)
async def test_what_can_not_be_meant_is_refused(client, query, status):
    """A slip is named, not passed over."""
    assert (await client.get(f"/api/exits?{query}")).status == status
