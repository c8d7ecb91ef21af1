"""What every sink owes its worker, tried on each kind with its real place."""

import asyncio
import random
from pathlib import Path

import pytest

from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.exits import ExitsQuery
from gateway.sinks.transform import Transformed
from tests.sink_events import TIME, TIME_MS, cloud_event, exit_event
from tests.sink_places import (
    HttpPlace,
    JsonlPlace,
    MysqlPlace,
    Place,
    PostgresPlace,
    PythonPlace,
    RedisPlace,
    SqlitePlace,
)


def place_of(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    match request.param:
        case "jsonl":
            return JsonlPlace(tmp_path)
        case "sqlite":
            return SqlitePlace(tmp_path)
        case "postgres":
            return PostgresPlace(request.getfixturevalue("postgres"), request.getfixturevalue("pg_dsn"))
        case "mysql":
            return MysqlPlace(request.getfixturevalue("mariadb"), request.getfixturevalue("mysql_dsn"))
        case "http" | "http batch":
            service = request.getfixturevalue("webhook_service")
            return HttpPlace(service, batch=request.param == "http batch")
        case "redis":
            return RedisPlace(request.getfixturevalue("redis"), request.getfixturevalue("redis_url"))
        case "amqp":
            place: Place = request.getfixturevalue("amqp_place")
            return place
        case _:
            return PythonPlace(tmp_path, "PlainLines" if request.param == "python plain" else "Lines")


@pytest.fixture(
    params=[
        "jsonl",
        "sqlite",
        "postgres",
        "mysql",
        "python",
        "python plain",
        "redis",
        "amqp",
        "http",
        "http batch",
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A fresh place of each kind."""
    return place_of(request, tmp_path)


@pytest.fixture(params=["sqlite", "postgres", "mysql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A fresh place of each kind that has tables."""
    return place_of(request, tmp_path)


async def write(place: Place, *batches: list[Event]) -> list[dict[int, Poison | Unavailable]]:
    """Write *batches* with one sink and return the failures of each."""
    sink = place.sink()
    await sink.open()
    failures = [dict(await sink.write(batch)) for batch in batches]
    await sink.close()
    return failures


async def ids(place: Place) -> list[str]:
    return [event["id"] for event in await place.events()]


async def test_an_event_arrives_as_it_travelled(place: Place) -> None:
    """What stands in the sink afterwards is the event's own JSON."""
    event = exit_event("1")

    failures = await write(place, [event])

    assert failures == [{}]
    assert await place.events() == [event.attributes]


async def test_an_event_that_comes_again_at_once_changes_nothing_where_the_effect_is_once(
    place: Place,
) -> None:
    """Twice in a batch and once more in the next one leaves as many traces as the sink declares."""
    event = exit_event("1")

    await write(place, [event, event], [event])

    assert await ids(place) == ["1"] * (3 if place.config.effect == "at_least_once" else 1)


async def test_a_transformed_event_is_the_same_event(place: Place) -> None:
    """The place has the envelope with the result as data; a copy leaves as many traces as without."""
    event = exit_event("1")
    sink = Transformed(place.sink(), "{group_id: data.group_id, members: data.members[:1]}", "x")
    await sink.open()
    await sink.write([event])
    await sink.write([event, event])
    await sink.close()

    expected = {**event.attributes, "data": {"group_id": "@TGS#2J4SZEAEL", "members": ["jared"]}}
    del expected["dataschema"]
    assert await place.events() == [expected] * (3 if place.config.effect == "at_least_once" else 1)


async def test_a_full_batch_is_written_whole(place: Place) -> None:
    """Each of 500 events is there afterwards, in order where the sink keeps one."""
    batch = [exit_event(f"{number:03d}") for number in range(500)]

    await write(place, batch)

    assert await ids(place) == [event.id for event in batch]


async def test_an_empty_batch_is_nothing(place: Place) -> None:
    """No event, no trace, no failure."""
    assert await write(place, []) == [{}]


AWKWARD = {
    "NUL": rb'"a\u0000b\u0000"',
    "an escaped backslash before u0000": rb'"\\u0000 \\\u0000"',
    "emoji": '"\U0001f600\\ud83d\\ude00"'.encode(),
    "lone surrogates": rb'"\ud800 \udc00 \ud800\ud83d\ude00 \ude00\ud83d"',
    "control characters": rb'"\u001b[31m \u0007 \u007f \u202e \r\n"',
    "line breaks between tokens": b'{\r\n  "a": [\n    1\n  ]\n}',
    "64 levels": b"[" * 63 + b"]" * 63,
    "a string that looks like SQL": b'"\'); DROP TABLE im_events; --"',
}


@pytest.mark.parametrize("raw", AWKWARD.values(), ids=AWKWARD.keys())
async def test_awkward_text_is_written(place: Place, raw: bytes) -> None:
    """No text that a stranger may send stops a sink, in ``raw`` or in a name."""
    event = cloud_event("1", "im.unknown", {"raw": "?"})
    body = event.body.replace(b'"?"', raw)
    awkward = Event(body, event.attributes)

    failures = await write(
        place, [awkward, exit_event("2", group_id="g\0\x1b[31m\U0001f600", members=["\0"])]
    )

    assert failures == [{}]
    assert sorted(await ids(place)) == ["1", "2"]


async def test_a_group_id_of_1_mb_is_written(place: Place) -> None:
    """A stranger chooses the length; no index and no column limit stops the event."""
    long_id = "group " * 200_000

    failures = await write(place, [exit_event("1", group_id=long_id, members=[long_id]), exit_event("2")])

    assert failures == [{}]
    assert sorted(len(event["data"]["group_id"]) for event in await place.events()) == [14, 1_200_000]


async def test_a_batch_larger_than_a_statement_is_written(place: Place) -> None:
    """What a server takes at once is bounded; the batch is written all the same, a large event included."""
    sizes = [1_000_000] * 9 + [6_000_000]
    batch = [exit_event(str(at), raw=b'"%s"' % (b"x" * size)) for at, size in enumerate(sizes)]

    assert await write(place, batch) == [{}]
    assert [len(event["data"]["raw"]) for event in await place.events()] == sizes


async def test_a_number_beyond_all_types_costs_at_most_its_own_event(place: Place) -> None:
    """A database may refuse it; the event is named by its place and the others are written."""
    batch = [exit_event(str(number)) for number in range(7)]
    batch[3] = exit_event("huge", raw=b'{"n":1e999999}')

    (failures,) = await write(place, batch)

    assert set(failures) <= {3}
    assert sorted(await ids(place)) == sorted(
        event.id for at, event in enumerate(batch) if at not in failures
    )


async def test_exits_have_one_row_per_member(database: Place) -> None:
    """Who left, where, by whom and when stands in columns; an empty list has no row."""
    await write(database, [exit_event("1"), exit_event("2", members=[]), cloud_event("3", "im.unknown", {})])

    rows = await database.exits()

    assert [(row.event_id, row.member_no, row.member) for row in rows] == [
        ("1", 0, "jared"),
        ("1", 1, "tommy"),
    ]
    assert {(row.group_id, row.group_type, row.operator, row.exit_type) for row in rows} == {
        ("@TGS#2J4SZEAEL", "Public", "leckie", "kicked")
    }
    assert {(row.source, row.app_id, row.time_ms) for row in rows} == {
        ("/tencent-im/1400000000", "1400000000", TIME_MS)
    }


async def test_exits_that_come_again_are_not_doubled(database: Place) -> None:
    """Exits are written with their event and only with it."""
    await write(
        database, [exit_event("1"), exit_event("1")], [exit_event("1", members=["another", "one", "more"])]
    )

    assert [row.member for row in await database.exits()] == ["jared", "tommy"]


async def test_an_exit_of_a_foreign_shape_is_poison(database: Place) -> None:
    """Another publisher's event is named by its place; the others are written."""
    batch = [
        exit_event("1", members="jared"),
        exit_event("2"),
        exit_event("3", members=[{"Member_Account": "jared"}]),
        exit_event("4", time="yesterday"),
        exit_event("5", time="0001-01-01T00:00:00+10:00"),
    ]

    (failures,) = await write(database, batch)

    assert {at: (type(failure), failure.reason) for at, failure in failures.items()} == dict.fromkeys(
        (0, 2, 3, 4), (Poison, "bad_exit")
    )
    assert await ids(database) == ["2"]


async def test_a_time_that_is_none_leaves_the_column_empty(database: Place) -> None:
    """An event that is no exit is kept even if its time can't be read."""
    event = cloud_event("1", "im.unknown", {}, time="yesterday")

    assert await write(database, [event]) == [{}]
    assert await database.events() == [event.attributes]


async def test_an_id_too_long_for_its_index_costs_at_most_its_own_event(database: Place) -> None:
    """Ids of the gateway are short; another publisher's may be refused, without the others."""
    (failures,) = await write(database, [exit_event("1"), exit_event("x" * 100_000 + "y"), exit_event("3")])

    assert set(failures) <= {1}
    assert {"1", "3"} <= set(await ids(database))


async def test_what_was_written_stays_after_reopening(place: Place) -> None:
    """A sink goes on where the one before it ended; closing and opening again changes nothing."""
    sink = place.sink()
    await sink.close()
    await sink.open()
    await sink.open()
    await sink.write([exit_event("1")])
    await sink.close()
    await sink.close()
    await sink.open()
    await sink.write([exit_event("2")])
    await sink.close()

    assert await ids(place) == ["1", "2"]


async def test_writing_before_opening_is_unavailable(place: Place) -> None:
    """Nothing is written, and the worker is told to open."""
    with pytest.raises(Unavailable, match="not_open"):
        await place.sink().write([exit_event("1")])


async def test_a_place_that_is_gone_is_unavailable_until_it_is_back(place: Place) -> None:
    """During the outage opening and writing say so; afterwards the same sink goes on, nothing is lost."""
    sink = place.sink()
    await sink.open()
    await sink.write([exit_event("1")])
    place.take_away()
    with pytest.raises(Unavailable):
        await sink.write([exit_event("2")])
    with pytest.raises(Unavailable):
        await sink.open()
    with pytest.raises(Unavailable):
        await sink.write([exit_event("2")])
    place.bring_back()
    await sink.open()
    await sink.write([exit_event("2")])
    await sink.close()

    assert await ids(place) == ["1", "2"]


async def test_a_place_that_was_never_there_is_unavailable(place: Place) -> None:
    """A worker may start before its sink is there. That events wait then is for the worker to say."""
    place.take_away()
    sink = place.sink()
    with pytest.raises(Unavailable) as caught:
        await sink.open()
    await sink.close()
    assert "wait" not in caught.value.detail
    place.bring_back()

    assert await write(place, [exit_event("1")]) == [{}]


async def test_a_write_that_is_cancelled_can_be_done_again(place: Place) -> None:
    """A worker that stopped waiting opens and writes the batch again; every event is there."""
    batch = [exit_event(f"{number:03d}") for number in range(200)]
    sink = place.sink()
    await sink.open()
    write_once = asyncio.ensure_future(sink.write(batch))
    await asyncio.sleep(0)
    write_once.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write_once
    await sink.open()
    failures = await sink.write(batch)
    await sink.close()

    assert failures == {}
    assert set(await ids(place)) == {event.id for event in batch}


async def test_two_workers_that_start_at_once_share_a_database(database: Place) -> None:
    """Both make the tables and write overlapping batches in opposite orders; each event is there once."""
    batch = [exit_event(f"{number:03d}") for number in range(300)]
    sinks = [database.sink(), database.sink()]
    await asyncio.gather(*(sink.open() for sink in sinks))
    for _ in range(5):
        await asyncio.gather(sinks[0].write(batch), sinks[1].write(batch[::-1]))
    await asyncio.gather(*(sink.close() for sink in sinks))

    assert sorted(await ids(database)) == [event.id for event in batch]
    assert len(await database.exits()) == 600


async def test_redeliveries_and_copies_leave_exactly_what_was_sent(database: Place) -> None:
    """Each event up to four times, in any order and batches, by two workers at once, one of which is cut off: once each."""
    chance = random.Random(3)
    events = [exit_event(f"{at:03d}", members=[f"a{at}", f"b{at}"]) for at in range(200)]
    sent = [event for event in events for _ in range(chance.randint(1, 4))]
    chance.shuffle(sent)

    async def work(batches: list[list[Event]]) -> None:
        sink = database.sink()
        for batch in batches:
            await sink.open()
            writing = asyncio.ensure_future(sink.write(batch))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.01)
                writing.cancel()
                await asyncio.wait([writing])
                await sink.open()
                writing = asyncio.ensure_future(sink.write(batch))
            assert await writing == {}
        await sink.close()

    cut = [sent[at : at + 40] for at in range(0, len(sent), 40)]
    await asyncio.gather(work(cut[::2]), work(cut[1::2]))

    assert sorted(await ids(database)) == [event.id for event in events]
    exits = sorted((row.event_id, row.member) for row in await database.exits())
    assert exits == [(f"{at:03d}", f"{who}{at}") for at in range(200) for who in "ab"]


async def test_exits_are_found_by_what_is_asked(database: Place) -> None:
    """Each filter is exact, times are from (incl.) to (excl.), the newest comes first, the limit holds."""
    await write(
        database,
        [
            exit_event("1", time="2026-01-01T00:00:00.001Z", group_id="g", members=["a", "b"], operator="o"),
            exit_event("2", time="2026-01-01T00:00:00.002Z", group_id="g", members=["a"], operator=None),
            exit_event("3", time="2026-01-01T00:00:00.003Z", group_id="h", members=["b"], operator="o"),
        ],
    )
    start_ms = 1767225600000

    async def found(**asked: str | int) -> list[str]:
        return [f"{row.event_id}{row.member}" for row in await database.exits(ExitsQuery(**asked))]

    assert await found() == ["3b", "2a", "1a", "1b"]
    assert await found(limit=2) == ["3b", "2a"]
    assert await found(group="g") == ["2a", "1a", "1b"]
    assert await found(group="G") == []
    assert await found(member="b") == ["3b", "1b"]
    assert await found(operator="o", group="g") == ["1a", "1b"]
    assert await found(app="1400000000", limit=1) == ["3b"]
    assert await found(app="1400000001") == []
    assert await found(since_ms=start_ms + 2) == ["3b", "2a"]
    assert await found(until_ms=start_ms + 2) == ["1a", "1b"]
    assert await found(member="' OR TRUE --\0") == []


async def test_a_long_group_id_is_found_by_the_whole_of_it(database: Place) -> None:
    """The column is clipped; whoever asks need not know."""
    long_id = "g" * 5_000
    await write(database, [exit_event("1", group_id=long_id, members=["a"])])

    assert [row.member for row in await database.exits(ExitsQuery(group=long_id))] == ["a"]


async def test_before_the_first_worker_reading_says_so(database: Place) -> None:
    """There is nothing to read yet, which is no fault of the reader."""
    with pytest.raises(Unavailable, match="No worker has written"):
        await database.exits()


async def test_reading_from_a_place_that_is_gone_is_unavailable(database: Place) -> None:
    """The reader gets a sentence, not a driver's error."""
    await write(database, [exit_event("1", time=TIME)])
    database.take_away()
    with pytest.raises(Unavailable):
        await database.exits()
    database.bring_back()

    assert len(await database.exits()) == 2
