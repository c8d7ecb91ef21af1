"""The sqlite sink: durable commits, additive migrations, and what it says when the file is not usable."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.sinks import sqlite, sqlite_schema
from tests.sink_events import exit_event
from tests.sink_places import SqlitePlace


@pytest.fixture
def place(tmp_path: Path) -> SqlitePlace:
    return SqlitePlace(tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for locks in tests that hold one."""
    monkeypatch.setattr(sqlite, "_BUSY_TIMEOUT_S", 0.01)


@contextmanager
def other_program(place: SqlitePlace, *statements: str) -> Iterator[sqlite3.Connection]:
    place.folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(place.config.path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()
        yield connection


async def write(place: SqlitePlace, *event_ids: str) -> None:
    sink = place.sink()
    try:
        await sink.open()
        assert await sink.write([exit_event(event_id) for event_id in event_ids]) == {}
    finally:
        await sink.close()


async def ids(place: SqlitePlace) -> list[str]:
    return [event["id"] for event in await place.events()]


async def test_the_file_is_its_owners_alone(place: SqlitePlace) -> None:
    """Events hold what people said and did."""
    await write(place, "1")

    assert {one.stat().st_mode & 0o777 for one in place.folder.iterdir()} == {0o600}


async def test_every_commit_is_synced(place: SqlitePlace) -> None:
    """Only this pair of settings has the commit itself on disk when it returns."""
    sink = place.sink()
    await sink.open()
    connection = sink._connection
    assert connection is not None

    def settings() -> list[object]:
        return [
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]

    assert await sink._thread.run(settings) == ["truncate", 2]
    await sink.close()


async def test_a_file_in_wal_mode_is_taken_out_of_it(place: SqlitePlace) -> None:
    """A damaged bit in a WAL takes later commits away silently, so the sink does not use one."""
    with other_program(place, "PRAGMA journal_mode = WAL", "CREATE TABLE mine (a)"):
        pass
    await write(place, "1")

    assert place.rows("PRAGMA journal_mode") == [("delete",)]
    assert place.rows("SELECT name FROM sqlite_master WHERE name = 'mine'") == [("mine",)]


async def test_columns_hold_what_queries_need(place: SqlitePlace) -> None:
    """Times are ISO in UTC with milliseconds, so that text compares as time does."""
    await write(place, "1")

    assert place.rows(
        "SELECT source, id, type, subject, time, recordedtime, app_id, partitionkey, position FROM events"
    ) == [
        (
            *("/tencent-im/1400000000", "1", "im.group.member.exited", "group/@TGS#2J4SZEAEL"),
            *("2022-12-09T08:26:54.123Z", "2022-12-09T08:26:54.130Z", "1400000000"),
            *("group/@TGS#2J4SZEAEL", "journal1.17.0"),
        )
    ]
    assert place.rows("SELECT json_extract(event, '$.data.members[1]') FROM events") == [("tommy",)]
    assert place.rows("SELECT inserted_at GLOB '20??-??-??T??:??:??.???Z' FROM events") == [(1,)]


async def test_a_file_of_version_0_gets_the_tables_and_keeps_its_rows(place: SqlitePlace) -> None:
    """Tables that are there already are used as they are."""
    await write(place, "1")
    with other_program(place, "PRAGMA user_version = 0", "DROP TABLE member_exits"):
        pass
    await write(place, "2")

    assert await ids(place) == ["1", "2"]
    assert [row.event_id for row in await place.exits()] == ["2", "2"]
    assert place.rows("PRAGMA user_version") == [(1,)]


async def test_a_later_step_runs_once_and_keeps_the_rows(
    place: SqlitePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older file is brought up to the version, from where it stands."""
    await write(place, "1")
    steps = (*sqlite_schema._STEPS, ("ALTER TABLE events ADD COLUMN note TEXT DEFAULT 'none'",))
    monkeypatch.setattr(sqlite_schema, "_STEPS", steps)
    monkeypatch.setattr(sqlite_schema, "SCHEMA_VERSION", 2)
    await write(place, "2")
    await write(place, "3")

    assert place.rows("SELECT id, note FROM events ORDER BY seq") == [
        ("1", "none"),
        ("2", "none"),
        ("3", "none"),
    ]
    assert place.rows("PRAGMA user_version") == [(2,)]


async def test_a_step_that_fails_leaves_the_file_as_it_was(
    place: SqlitePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a migration is none."""
    await write(place, "1")
    steps = (*sqlite_schema._STEPS, ("CREATE TABLE half (a)", "ALTER TABLE missing ADD COLUMN note"))
    monkeypatch.setattr(sqlite_schema, "_STEPS", steps)
    monkeypatch.setattr(sqlite_schema, "SCHEMA_VERSION", 2)
    with pytest.raises(Unavailable):
        await write(place, "2")

    assert place.rows("SELECT name FROM sqlite_master WHERE name = 'half'") == []
    assert place.rows("PRAGMA user_version") == [(1,)]
    assert await ids(place) == ["1"]


async def test_a_newer_file_is_left_alone(place: SqlitePlace) -> None:
    """An older gateway must not write what it does not understand; the events wait for the upgrade."""
    await write(place, "1")
    with other_program(place, "PRAGMA user_version = 7"):
        pass
    with pytest.raises(Unavailable, match=r"newer_schema.*version 7, this gateway knows 1.*Upgrade"):
        await write(place, "2")

    assert await ids(place) == ["1"]


async def test_a_file_that_is_no_database_is_left_alone(place: SqlitePlace) -> None:
    """A wrong path in the configuration destroys nothing."""
    place.folder.mkdir()
    place.config.path.write_bytes(b"listen: {}\n" * 500)
    with pytest.raises(Unavailable, match="damaged"):
        await write(place, "1")
    with pytest.raises(Unavailable, match="damaged"):
        await place.exits()

    assert place.config.path.read_bytes() == b"listen: {}\n" * 500


@pytest.mark.usefixtures("impatient")
async def test_another_writer_is_waited_for_and_then_named(place: SqlitePlace) -> None:
    """Past the deadline the batch comes again later; nothing of it is written."""
    await write(place, "1")
    with other_program(place, "BEGIN IMMEDIATE"), pytest.raises(Unavailable, match="locked"):
        await write(place, "2")
    assert await ids(place) == ["1"]
    await write(place, "2")

    assert await ids(place) == ["1", "2"]


@pytest.mark.usefixtures("impatient")
async def test_a_reader_that_stays_holds_up_the_commit_and_loses_nothing(place: SqlitePlace) -> None:
    """A batch whose commit had to wait too long is rolled back whole."""
    await write(place, "1", "2")
    with other_program(place) as connection:
        reader = connection.execute("SELECT id FROM events")
        reader.fetchone()
        with pytest.raises(Unavailable, match="locked"):
            await write(place, "3")
        reader.close()
    assert await ids(place) == ["1", "2"]
    await write(place, "3")

    assert await ids(place) == ["1", "2", "3"]


@pytest.mark.parametrize("how", ["deleted", "moved"])
async def test_a_file_taken_away_under_the_sink_is_noticed(place: SqlitePlace, how: str) -> None:
    """A batch must not vanish into a file that nobody will find; the next open makes a new one."""
    sink = place.sink()
    await sink.open()
    await sink.write([exit_event("1")])
    if how == "deleted":
        place.config.path.unlink()
    else:
        place.config.path.rename(place.folder / "old.db")
    with pytest.raises(Unavailable, match="moved"):
        await sink.write([exit_event("2")])
    await sink.open()
    await sink.write([exit_event("2")])
    await sink.close()

    assert await ids(place) == ["2"]


async def test_a_table_that_is_gone_is_named(place: SqlitePlace) -> None:
    """The events wait until someone has put it right; the sink does not hide that rows are missing."""
    await write(place, "1")
    with other_program(place, "DROP TABLE member_exits"):
        pass
    with pytest.raises(Unavailable, match=r"no_table.*member_exits"):
        await write(place, "2")
    with pytest.raises(Unavailable, match="No worker has written"):
        await place.exits()

    assert await ids(place) == ["1"]


async def test_what_a_crash_left_is_put_right_by_the_next_worker(place: SqlitePlace) -> None:
    """A reader may not touch a half-written file and says who will; the worker rolls the half back."""
    await write(place, "1")
    path = place.config.path
    journal = path.with_name("events.db-journal")
    half = [exit_event(f"half {number}", group_id="g" * 20_000) for number in range(300)]
    with other_program(place, "PRAGMA cache_size = 5", "BEGIN") as connection:
        for event in half:
            connection.execute(
                "INSERT INTO events (source, id, type, app_id, event) VALUES ('s', ?, 't', 'a', ?)",
                (event.id, event.body.decode()),
            )
        torn = path.read_bytes(), journal.read_bytes()
        connection.execute("ROLLBACK")
    path.write_bytes(torn[0])
    journal.write_bytes(torn[1])
    with pytest.raises(Unavailable, match="a worker died in the middle of a write; start it"):
        await place.exits()
    await write(place, "2")

    assert await ids(place) == ["1", "2"]
    assert len(await place.exits()) == 4


async def test_what_is_no_text_is_poison(place: SqlitePlace) -> None:
    """An event that was not parsed by the gateway can't hold up the others."""
    good = exit_event("1")
    batch = [
        good,
        Event(good.body, {**good.attributes, "id": "\ud800"}),
        Event(b"\xff", {**good.attributes, "id": "3", "type": "other"}),
        exit_event("4"),
    ]
    sink = place.sink()
    await sink.open()
    failures = await sink.write(batch)
    await sink.close()

    assert {at: failure.reason for at, failure in failures.items()} == {
        1: "refused_by_database",
        2: "bad_event",
    }
    assert failures[1].detail == "UnicodeEncodeError"
    assert all(isinstance(failure, Poison) for failure in failures.values())
    assert await ids(place) == ["1", "4"]


async def test_what_an_operators_rule_refuses_is_poison_with_its_exits(place: SqlitePlace) -> None:
    """A rule on either table is content: that event will never pass it, and the others do not wait for it."""
    await write(place)
    place.rows(
        "CREATE TRIGGER nobody BEFORE INSERT ON member_exits WHEN NEW.member = 'nobody'"
        " BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    sink = place.sink()
    await sink.open()
    failures = await sink.write([exit_event("1", members=["a", "nobody"]), exit_event("2", members=["b"])])
    await sink.close()

    assert {at: failure.reason for at, failure in failures.items()} == {0: "refused_by_database"}
    assert failures[0].detail == "SQLITE_CONSTRAINT_TRIGGER"
    assert [event["id"] for event in await place.events()] == ["2"]
    assert [row.member for row in await place.exits()] == ["b"]
