"""Tables of the user's own, in each database: which row an event makes or changes, and what it never changes."""

import asyncio
import itertools
import json
import random
import re
import textwrap
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pymysql
import pytest
import yaml

from gateway import build
from gateway.config import SinkBase
from gateway.errors import Poison, Unavailable
from gateway.event import Event, iso_time
from gateway.sinks import Sink
from tests.sink_events import TIME, cloud_event, exit_event
from tests.sink_places import MysqlPlace, PostgresPlace, SqlitePlace

Database = SqlitePlace | PostgresPlace | MysqlPlace
COLUMNS = {"group_id": "data.group_id", "member": "item", "operator": "data.operator", "left_at": "time"}
LEFT = {"table": "left_members", "columns": COLUMNS, "key": ["group_id", "member"], "each": "data.members"}
GROUP = {"table": "last_seen", "columns": {"k": "data.k", "v": "data.v"}, "key": ["k"]}
BASE_MS = 1_670_574_414_123


@pytest.fixture(params=["sqlite", "postgres", "mysql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        return SqlitePlace(tmp_path)
    if request.param == "postgres":
        return PostgresPlace(request.getfixturevalue("postgres"), request.getfixturevalue("pg_dsn"))
    return MysqlPlace(request.getfixturevalue("mariadb"), request.getfixturevalue("mysql_dsn"))


def sink_of(place: Database, **keys: Any) -> Sink:
    """Return a sink on *place* with *keys* in its configuration, checked as one from a file is."""
    place_keys = {"dsn": place.dsn} if not isinstance(place, SqlitePlace) else {"path": place.config.path}
    config: SinkBase = type(place.config).model_validate({"kind": place.config.kind, **place_keys, **keys})
    return build.make_sink("own", config)


async def sql(place: Database, *statements: str) -> list[tuple[Any, ...]]:
    """Return the rows of the last of *statements*."""
    if isinstance(place, PostgresPlace):
        return [tuple(row) for row in await place.run(*statements)]
    if isinstance(place, MysqlPlace):
        return place.run(*statements)
    place.folder.mkdir(exist_ok=True)
    for statement in statements:
        found = place.rows(statement)
    return found


async def write(
    place: Database, keys: dict[str, Any], *batches: Iterable[Event]
) -> list[dict[int, Poison | Unavailable]]:
    """Write *batches* with one sink and return the failures of each."""
    sink = sink_of(place, **keys)
    try:
        await sink.open()
        return [dict(await sink.write(list(batch))) for batch in batches]
    finally:
        await sink.close()


def happened(event_id: str, at: int, k: object = "k", **data: Any) -> Event:
    """Return an event *at* ms, whose row has the key *k* and the value of its id."""
    return cloud_event(event_id, "im.unknown", {"k": k, "v": event_id, **data}, iso_time(BASE_MS + at))


def said(event_id: str, seq: int, at: int, conversation: str = "group/g", recorded: int = 0) -> Event:
    """Return a message *at* ms with MsgSeq *seq* in *conversation*."""
    event = happened(event_id, at, message={"seq": seq})
    times = {"recordedtime": iso_time(BASE_MS + recorded)}
    attributes = {**event.attributes, "partitionkey": conversation, **times}
    return Event(json.dumps(attributes).encode(), attributes)


async def values(place: Database) -> list[tuple[Any, ...]]:
    return await sql(place, "SELECT k, v FROM last_seen ORDER BY k")


async def test_a_table_that_is_missing_is_made(database: Database) -> None:
    """A row for each member, what is absent is NULL, and a second start changes nothing."""
    batch = [exit_event("1"), exit_event("2", members=["ann"], group_id="g", operator=None)]
    failures = await write(database, LEFT, batch, batch)
    await write(database, LEFT)

    assert failures == [{}, {}]
    assert await sql(
        database, "SELECT group_id, member, operator, left_at FROM left_members ORDER BY member"
    ) == [
        ("g", "ann", None, TIME),
        ("@TGS#2J4SZEAEL", "jared", "leckie", TIME),
        ("@TGS#2J4SZEAEL", "tommy", "leckie", TIME),
    ]


TYPED = {
    "sqlite": "id INTEGER PRIMARY KEY, who TEXT NOT NULL, at TEXT, n INTEGER, flag INTEGER, ok TEXT DEFAULT 'yes', more TEXT, UNIQUE (who)",
    "postgres": "id bigserial PRIMARY KEY, who varchar(9) NOT NULL UNIQUE, at timestamptz, n bigint, flag boolean, ok text DEFAULT 'yes', more jsonb",
    "mysql": "id bigint AUTO_INCREMENT PRIMARY KEY, who varchar(9) NOT NULL UNIQUE, at datetime(3), n bigint, flag boolean, ok varchar(9) DEFAULT 'yes', more json",
}
MAPPED = {
    "table": "people",
    "columns": {"who": "data.k", "at": "time", "n": "data.n", "flag": "data.flag", "more": "data.more"},
    "key": ["who"],
}


async def test_a_table_of_the_users_own_is_filled(database: Database) -> None:
    """Values become what the columns hold; columns that nobody named, and rows that stood there, stay."""
    await sql(
        database,
        f"CREATE TABLE people ({TYPED[database.config.kind]})",
        "INSERT INTO people (who, n, ok) VALUES ('old', 1, 'no'), ('other', 2, 'no')",
    )
    more = {"a": ["x'\"", 1.5, None], "ü": {"群": True}}
    batch = [
        happened("1", 0, "new", n=2**53, flag=True, more=more),
        happened("2", 1, "old", n=None, flag=False),
        happened("3", 0, "new", n=7),
    ]
    assert await write(database, MAPPED, batch[:2], batch) == [{}, {}]

    rows = await sql(database, "SELECT who, at, n, flag, ok, more FROM people ORDER BY who")
    shown = [
        (
            *row[:1],
            _iso(row[1]),
            row[2],
            None if row[3] is None else bool(row[3]),
            row[4],
            row[5] and json.loads(row[5]),
        )
        for row in rows
    ]
    # Events 1 and 3 happened at the same time and were recorded so too: the greater id stays.
    assert shown in (
        [
            ("new", iso_time(BASE_MS), n, flag, "yes", kept),
            ("old", iso_time(BASE_MS + 1), None, False, "no", None),
            ("other", None, 2, None, "no", None),
        ]
        for n, flag, kept in ((2**53, True, more), (7, None, None))
    )


def _iso(value: Any) -> str | None:
    if isinstance(value, datetime):
        return f"{value.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
    return value and str(value)


async def test_the_version_may_stand_in_a_column_of_the_users(database: Database) -> None:
    """Who may not alter the table asks whoever may for one column, under any name."""
    await sql(database, "CREATE TABLE last_seen (k varchar(9) PRIMARY KEY, v varchar(9), seen varchar(120))")
    keys = {**GROUP, "version_column": "seen"}
    await write(database, keys, [happened("2", 2)], [happened("1", 1)])

    ((k, v, seen),) = await sql(database, "SELECT k, v, seen FROM last_seen")
    assert (k, v) == ("k", "2")
    assert iso_time(BASE_MS + 2) in seen


def orders(events: list[Event]) -> Iterable[list[list[Event]]]:
    """Yield ways in which *events* may arrive: any order, any batches, copies among them."""
    chance = random.Random(7)
    for number, order in enumerate(itertools.permutations(events)):
        copies = [*order, *chance.choices(events, k=3)] if number % 2 else list(order)
        cut = chance.randrange(len(copies) + 1)
        yield [copies[:cut], copies[cut:]]


CASES = {
    "time": ([happened("a", 1), happened("b", 2), happened("c", 3)], "c"),
    "time of what has no MsgSeq": ([said("a", 5, 1), happened("b", 2)], "b"),
    "MsgSeq in a group, whatever the time": ([said("a", 5, 9), said("b", 6, 8), said("c", 7, 7)], "c"),
    "MsgSeq in a topic": ([said("a", 10, 9, "topic/t"), said("b", 9, 10, "topic/t")], "a"),
    "time of the same MsgSeq": ([said("a", 5, 2), said("b", 5, 1)], "a"),
    "time across conversations": ([said("a", 5, 2, "group/x"), said("b", 9, 1, "group/y")], "a"),
    "time between two users": ([said("a", 5, 2, "c2c/x/y"), said("b", 9, 1, "c2c/x/y")], "a"),
    "recordedtime at the same time": (
        [said("a", 0, 1, "user/u", 5), said("b", 0, 1, "user/u", 7), said("c", 0, 1, "user/u", 6)],
        "b",
    ),
    "MsgSeq by number": ([said("a", 99, 1), said("b", 100, 1)], "b"),
}


@pytest.mark.parametrize(("events", "newest"), CASES.values(), ids=CASES.keys())
async def test_the_newest_event_of_a_key_stays(database: Database, events: list[Event], newest: str) -> None:
    """In whatever order, batches and copies they come, the row is the newest one's."""
    sink = sink_of(database, **GROUP)
    await sink.open()
    found = set()
    for batches in orders(events):
        for batch in batches:
            assert await sink.write(batch) == {}
        found |= set(await values(database))
        await sql(database, "DELETE FROM last_seen")
    await sink.close()

    assert found == {("k", newest)}


async def test_rows_of_the_same_moment_do_not_depend_on_the_order(database: Database) -> None:
    """Where nothing tells which is newer, the ids decide, and not who came last."""
    events = [happened(event_id, 0) for event_id in ("a", "b", "c")]
    sink = sink_of(database, **GROUP)
    await sink.open()
    found = set()
    for batches in orders(events):
        for batch in batches:
            await sink.write(batch)
        found |= set(await values(database))
        await sql(database, "DELETE FROM last_seen")
    await sink.close()

    assert len(found) == 1


async def test_redeliveries_and_copies_leave_the_state_of_the_set(database: Database) -> None:
    """Hundreds of events of some keys, each up to four times, out of order, by two workers: the newest of each key."""
    chance = random.Random(1)
    events = [happened(f"{at:03d}", at * 7 % 301, f"k{at % 9}") for at in range(300)]
    sent = [event for event in events for _ in range(chance.randint(1, 4))]
    chance.shuffle(sent)
    sinks = [sink_of(database, **GROUP) for _ in range(2)]
    for sink in sinks:
        await sink.open()
    while sent:
        batch, sent = sent[:50], sent[50:]
        assert await sinks[len(sent) % 2].write(batch) == {}
    for sink in sinks:
        await sink.close()

    newest: dict[str, Event] = {}
    for event in sorted(events, key=lambda event: str(event.attributes["time"])):
        newest[event.data["k"]] = event
    assert await values(database) == sorted((k, event.id) for k, event in newest.items())


async def test_what_can_be_no_row_is_poison(database: Database) -> None:
    """Without a key, or where an expression does not fit; the others are written."""
    keys = {**GROUP, "columns": {"k": "data.k", "v": "join('-', data.names)"}}
    batch = [
        happened("1", 0, "a", names=["x", "y"]),
        happened("2", 0, None, names=[]),
        happened("3", 0, "b", names=3),
        cloud_event("4", "im.unknown", {"names": ["z"]}),
    ]
    (failures,) = await write(database, keys, batch)

    assert {at: (type(one), one.reason) for at, one in failures.items()} == {
        1: (Poison, "no_key"),
        2: (Poison, "columns"),
        3: (Poison, "no_key"),
    }
    assert await values(database) == [("a", "x-y")]


async def test_each_wants_a_list(database: Database) -> None:
    """No list has no rows; something else is poison."""
    batch = [
        exit_event("1", members=[]),
        exit_event("2", members="jared"),
        exit_event("3", members=["a", "a"]),
    ]
    batch.append(cloud_event("4", "im.unknown", {}))
    (failures,) = await write(database, LEFT, batch)

    assert {at: one.reason for at, one in failures.items()} == {1: "columns"}
    assert await sql(database, "SELECT member FROM left_members") == [("a",)]


NARROW = {
    "sqlite": "k TEXT PRIMARY KEY, v TEXT CHECK (length(v) <= 3)",
    "postgres": "k text PRIMARY KEY, v varchar(3)",
    "mysql": "k varchar(9) PRIMARY KEY, v varchar(3)",
}


async def test_a_value_that_does_not_fit_is_poison_alone(database: Database) -> None:
    """Nothing is cut to fit; the rest of the batch is written, an older event of the same key as well."""
    await sql(database, f"CREATE TABLE last_seen ({NARROW[database.config.kind]})")
    batch = [happened(f"{at:02d}", 0, f"k{at:02d}") for at in range(40)]
    batch[7] = happened("wide 7", 0, "k07")
    batch[20] = happened("wide 20", 5, "k21")
    (failures,) = await write(database, GROUP, batch)

    assert {at: (type(one), one.reason) for at, one in failures.items()} == dict.fromkeys(
        (7, 20), (Poison, "refused_by_database")
    )
    assert "wide" not in str(failures)
    assert await values(database) == [(f"k{at:02d}", f"{at:02d}") for at in range(40) if at not in (7, 20)]


async def test_of_an_event_all_rows_are_written_or_none(database: Database) -> None:
    """One member that does not fit keeps the others of that event out, and no other event."""
    kind = {"sqlite": "TEXT CHECK (length(member) <= 5)"}.get(database.config.kind, "varchar(5)")
    await sql(
        database,
        f"CREATE TABLE left_members (group_id varchar(20), member {kind}, operator varchar(9),"
        " left_at varchar(30), PRIMARY KEY (group_id, member))",
    )
    batch = [
        exit_event("1", members=["ann", "too long", "bob"]),
        exit_event("2", members=["carl", "dora"]),
    ]
    (failures,) = await write(database, LEFT, batch)

    assert set(failures) == {0}
    assert await sql(database, "SELECT member FROM left_members ORDER BY member") == [("carl",), ("dora",)]


async def test_keys_that_are_one_to_the_database_are_one_row(database: Database) -> None:
    """A column's type may take different texts for one value; the newest of them stays, and nothing waits for ever."""
    await sql(database, "CREATE TABLE last_seen (k integer PRIMARY KEY, v varchar(9))")
    batch = [
        happened("1", 3, "7"),
        happened("2", 1, "07"),
        happened("3", 9, 8),
        happened("4", 5, "007"),
        happened("5", 4, 7),
    ]

    assert await write(database, GROUP, batch) == [{}]
    assert await values(database) == [(7, "4"), (8, "3")]


HOSTILE = [
    "'; DROP TABLE last_seen; --",
    '"',
    "\\",
    "\\'",
    "%s %(k)s {old} $1 ?",
    "a\0b",
    "\U0001f600群",
    "x ",
    "X",
]


async def test_text_of_a_stranger_is_text(database: Database) -> None:
    """Whatever stands in keys and values; NUL alone is replaced, in all databases alike."""
    batch = [happened(str(at), 0, text, v=text) for at, text in enumerate(HOSTILE)]

    assert await write(database, GROUP, batch, batch[::-1]) == [{}, {}]
    expected = sorted(text.replace("\0", "\ufffd") for text in HOSTILE)
    assert sorted(await sql(database, "SELECT k, v FROM last_seen")) == [(text, text) for text in expected]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("k varchar(9) PRIMARY KEY", "no column v"),
        ("k varchar(9) PRIMARY KEY, v varchar(9), must varchar(9) NOT NULL", "wants a value in must"),
        ("k varchar(9), v varchar(9)", "unique index"),
        ("k varchar(9), v varchar(9), UNIQUE (k, v)", "unique index"),
    ],
)
async def test_a_table_that_does_not_fit_is_told_at_the_start(
    database: Database, columns: str, said: str
) -> None:
    """The events wait until table and configuration agree; none is parked for it."""
    await sql(database, f"CREATE TABLE last_seen ({columns})")
    with pytest.raises(Unavailable, match=said) as caught:
        await write(database, GROUP)

    assert caught.value.reason == "no_table"
    assert "last_seen" in caught.value.detail


async def test_two_workers_that_start_at_once_share_a_table(database: Database) -> None:
    """Both make it and write the same rows in opposite orders; the newest of each key stays."""
    events = [happened(f"{at:03d}", at, f"k{at % 150:03d}") for at in range(300)]
    sinks = [sink_of(database, **GROUP) for _ in range(2)]
    await asyncio.gather(*(sink.open() for sink in sinks))
    for _ in range(5):
        first, second = await asyncio.gather(sinks[0].write(events), sinks[1].write(events[::-1]))
        assert first == second == {}
    await asyncio.gather(*(sink.close() for sink in sinks))

    assert await values(database) == [(f"k{at:03d}", f"{at + 150:03d}") for at in range(150)]


async def test_a_sink_with_a_table_of_the_users_makes_no_other(database: Database) -> None:
    """Nothing but what was asked for appears in somebody's database."""
    await write(database, GROUP, [exit_event("1")])
    tables = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
        "postgres": "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
        "mysql": "SHOW TABLES",
    }

    assert await sql(database, tables[database.config.kind]) == [("last_seen",)]


async def test_a_key_may_have_many_columns(database: Database) -> None:
    """Also where all of them are the key."""
    columns = {f"c{at}": f"data.c{at}" for at in range(5)}
    keys = {"table": "many", "columns": columns, "key": list(columns)}
    event = cloud_event("1", "im.unknown", {f"c{at}": at for at in range(5)})
    await write(database, keys, [event, event], [event])

    ((*found,),) = await sql(database, "SELECT c0, c1, c2, c3, c4 FROM many")
    assert [str(one) for one in found] == list("01234")


async def test_names_that_sql_uses_itself_are_names(database: Database) -> None:
    """Each identifier is quoted."""
    keys = {"table": "order", "columns": {"select": "data.k", "Group": "data.v"}, "key": ["select"]}
    await write(database, keys, [happened("1", 0)])
    quote = "`" if isinstance(database, MysqlPlace) else '"'

    assert await sql(database, "SELECT * FROM 'order'".replace("'", quote)) != []


async def test_a_batch_is_one_statement(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round trip writes it, on servers."""
    if isinstance(database, SqlitePlace):
        pytest.skip("a file has no round trips")
    sink = sink_of(database, **GROUP)
    await sink.open()
    kind: Any = asyncpg.Connection if isinstance(database, PostgresPlace) else pymysql.Connection
    name = "execute" if isinstance(database, PostgresPlace) else "_execute_command"
    calls, real = [], getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda *given: calls.append(given) or real(*given))
    await sink.write([happened(str(at), at, f"k{at}") for at in range(300)])
    await sink.close()

    assert len(calls) == 1


@pytest.fixture
def on_postgres(request: pytest.FixtureRequest) -> PostgresPlace:
    return PostgresPlace(request.getfixturevalue("postgres"), request.getfixturevalue("pg_dsn"))


@pytest.fixture
def on_mysql(request: pytest.FixtureRequest) -> MysqlPlace:
    return MysqlPlace(request.getfixturevalue("mariadb"), request.getfixturevalue("mysql_dsn"))


ALL_KINDS = {
    "table": "crm.Everything",
    "columns": {
        name: f"data.{name}" for name in ("names", "numbers", "doc", "word", "price", "day", "flag", "fixed")
    }
    | {"id": "id", "at": "time"},
    "key": ["id"],
}


async def test_types_of_postgresql_take_what_fits(on_postgres: PostgresPlace) -> None:
    """Arrays, documents, numbers, dates, enumerations and another schema; none of it is cut, or text by accident."""
    await on_postgres.run(
        "CREATE SCHEMA crm",
        "CREATE TYPE mood AS ENUM ('good', 'bad')",
        'CREATE TABLE crm."Everything" (id text PRIMARY KEY, at timestamptz, names text[], numbers bigint[], doc jsonb,'
        " word mood, price numeric(6,2), day date, flag boolean, fixed char(3))",
    )
    good = {
        "names": ["a", "b,\"c'"], "numbers": [1, 2**53], "doc": "text", "word": "good", "price": 12.5,
        "day": "2026-01-31", "flag": True, "fixed": "abc",
    }  # fmt: skip
    wrong = {"names": "a", "numbers": ["x"], "word": "fair", "price": 99_999, "day": "31.1.", "fixed": "abcd"}
    batch = [cloud_event("good", "im.unknown", good), cloud_event("none", "im.unknown", {})]
    batch += [cloud_event(name, "im.unknown", {**good, name: value}) for name, value in wrong.items()]
    (failures,) = await write(on_postgres, ALL_KINDS, batch)
    rows = await on_postgres.run(
        "SELECT id, names, numbers, doc #>> '{}' AS doc, word::text, price::text, day::text, flag, fixed, at::text"
        ' FROM crm."Everything" ORDER BY id'
    )

    assert set(failures) == set(range(2, len(batch)))
    assert [tuple(row) for row in rows] == [
        ("good", good["names"], good["numbers"], "text", "good", "12.50", "2026-01-31", True, "abc", "2022-12-09 08:26:54.123+00"),
        ("none", *[None] * 8, "2022-12-09 08:26:54.123+00"),
    ]  # fmt: skip


async def test_types_of_mysql_take_what_fits(on_mysql: MysqlPlace) -> None:
    """Times become UTC in each type of time; numbers and words beyond a type are poison, and never cut or 0."""
    on_mysql.run(
        "CREATE TABLE everything (id varchar(9) PRIMARY KEY, at timestamp(3) NULL, day date, n tinyint, word enum('good'),"
        " price decimal(6,2))"
    )
    names = ("at", "day", "n", "word", "price")
    keys = {
        "table": "everything",
        "columns": {"id": "id", **{name: f"data.{name}" for name in names}},
        "key": ["id"],
    }
    good = {"at": "2026-01-31T23:00:00.5+01:00", "day": TIME, "n": 127, "word": "good", "price": 12.5}
    wrong = {"at": "yesterday", "day": "31.1.", "n": 128, "word": "fair", "price": 99_999}
    batch = [cloud_event("good", "im.unknown", good), cloud_event("none", "im.unknown", {})]
    batch += [cloud_event(name, "im.unknown", {**good, name: value}) for name, value in wrong.items()]
    (failures,) = await write(on_mysql, keys, batch)

    assert set(failures) == set(range(2, len(batch)))
    assert on_mysql.run(
        "SET time_zone = '+00:00'",
        "SELECT id, CAST(at AS CHAR), CAST(day AS CHAR), n, word, CAST(price AS CHAR) FROM everything ORDER BY id",
    ) == [("good", "2026-01-31 22:00:00.500", "2022-12-09", 127, "good", "12.50"), ("none", *[None] * 5)]


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("UNIQUE (v)", "ambiguous_key.*unique index v"),
        ("UNIQUE (k(3))", "ambiguous_key.*unique index k_2|ambiguous_key.*unique index k "),
        ("UNIQUE (k, v)", None),
        ("UNIQUE (v, other)", None),
    ],
)
async def test_mysql_is_not_let_to_choose_the_row(on_mysql: MysqlPlace, index: str, said: str | None) -> None:
    """ON DUPLICATE KEY takes any unique index; one that could catch an event before the key does is refused."""
    on_mysql.run(f"CREATE TABLE last_seen (k varchar(9) PRIMARY KEY, v varchar(9), other int, {index})")
    if said is None:
        assert await write(on_mysql, GROUP, [happened("1", 0)]) == [{}]
        return
    with pytest.raises(Unavailable, match=said):
        await write(on_mysql, GROUP)


@pytest.mark.parametrize("kind", ["on_postgres", "on_mysql"])
async def test_a_version_column_that_is_too_short_is_told(kind: str, request: pytest.FixtureRequest) -> None:
    """Else every event would be parked for it."""
    place = request.getfixturevalue(kind)
    await sql(
        place, "CREATE TABLE last_seen (k varchar(9) PRIMARY KEY, v varchar(9), im_version varchar(119))"
    )
    with pytest.raises(Unavailable, match="too short a column im_version"):
        await write(place, GROUP)


async def test_rights_to_read_add_and_change_are_enough_on_postgresql(on_postgres: PostgresPlace) -> None:
    """Where the version column is there; where it is not, the sentence says what the role lacks."""
    role = f"own_{on_postgres.dsn.rpartition('/')[2]}"
    table = "CREATE TABLE last_seen (k text PRIMARY KEY, v text, im_version text)"
    await on_postgres.run(
        table,
        f"CREATE ROLE {role} LOGIN PASSWORD 'pw'",
        f"GRANT SELECT, INSERT, UPDATE ON last_seen TO {role}",
    )
    own, on_postgres.dsn = on_postgres.dsn, f"postgresql://{role}:pw@{on_postgres.dsn.partition('@')[2]}"
    try:
        assert await write(on_postgres, GROUP, [happened("2", 2)], [happened("1", 1)]) == [{}, {}]
        with pytest.raises(Unavailable, match=r"no_rights.*must be owner"):
            await write(on_postgres, {**GROUP, "version_column": "seen"})
    finally:
        on_postgres.dsn = own
        await on_postgres.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")

    assert await values(on_postgres) == [("k", "2")]


async def test_a_file_of_the_users_keeps_its_journal_mode(tmp_path: Path) -> None:
    """Other programs may count on it."""
    place = SqlitePlace(tmp_path)
    await sql(
        place, "PRAGMA journal_mode = WAL", "CREATE TABLE last_seen (k TEXT PRIMARY KEY, v TEXT) STRICT"
    )
    failures = await write(
        place, GROUP, [happened("1", 0), happened("2", 0, "m", v=["x"]), happened("3", 1, 2**63)]
    )

    assert {at: one.reason for at, one in failures[0].items()} == {2: "refused_by_database"}
    assert place.rows("PRAGMA journal_mode") == [("wal",)]
    assert await values(place) == [("k", "1"), ("m", '["x"]')]


async def test_a_unique_index_of_the_users_keeps_its_word(database: Database) -> None:
    """An event that breaks it is parked, and changes no other row."""
    if isinstance(database, MysqlPlace):
        pytest.skip("refused at the start there")
    await sql(database, "CREATE TABLE last_seen (k varchar(9) PRIMARY KEY, v varchar(9) UNIQUE)")
    (failures,) = await write(
        database, GROUP, [happened("1", 0, "a", v="x"), happened("2", 1, "b", v="x"), happened("3", 2, "c")]
    )

    assert set(failures) in ({0}, {1})
    assert len(await values(database)) == 2


PAGE = (Path(__file__).parent.parent / "docs/sinks.md").read_text().partition("### A table of your own")[2]


def shown(name: str, **place: str) -> dict[str, Any]:
    """Return the configuration of the sink *name* on the page, on another *place*."""
    block = next(
        one for one in re.findall(r"^    sinks:\n(?:^    .+\n)+", PAGE, flags=re.M) if f" {name}:" in one
    )
    sink: dict[str, Any] = yaml.safe_load(textwrap.dedent(block))["sinks"][name]
    return {**{key: value for key, value in sink.items() if key != "kind"}, **place}


async def test_the_table_of_the_page_works_with_its_configuration(on_postgres: PostgresPlace) -> None:
    """Whoever pastes both finds the members that left, and what the application wrote beside them stays."""
    table = textwrap.dedent(re.findall(r"^    CREATE TABLE(?:.+\n)+", PAGE, flags=re.M)[0])
    await on_postgres.run(table)
    keys = shown("members", dsn=on_postgres.dsn)
    await write(on_postgres, keys, [exit_event("1")])
    await on_postgres.run("UPDATE left_members SET seen = true")
    later = exit_event("2", time="2023-01-01T00:00:00.000Z", members=["jared"], operator="ann")
    await write(on_postgres, keys, [later, exit_event("0", time="2021-01-01T00:00:00.000Z")])

    rows = await on_postgres.run(
        "SELECT member, removed_by, left_at::text, seen FROM left_members ORDER BY member"
    )
    assert [tuple(row) for row in rows] == [
        ("jared", "ann", "2023-01-01 00:00:00+00", True),
        ("tommy", "leckie", "2022-12-09 08:26:54.123+00", True),
    ]


async def test_the_last_messages_of_the_page_work(on_mysql: MysqlPlace) -> None:
    """The row of a group is its message with the highest MsgSeq."""
    batch = [said("a", 5, 9), said("b", 7, 8), said("c", 6, 10)]
    for event in batch:
        event.data["group_id"], event.data["from"] = "g", "jared"  # type: ignore[index]
    await write(on_mysql, shown("last_messages", dsn=on_mysql.dsn), batch)

    assert on_mysql.run("SELECT group_id, sender, seq, event_id FROM last_messages") == [
        ("g", "jared", "7", "b")
    ]


async def test_the_log_of_the_page_works(tmp_path: Path) -> None:
    """Every event is a row of its own, once."""
    place = SqlitePlace(tmp_path)
    event = exit_event("1")
    await write(place, shown("log", path=str(place.config.path)), [event, event, exit_event("2")], [event])

    rows = place.rows("SELECT id, type, at, data FROM log ORDER BY id")
    assert [row[:3] for row in rows] == [("1", event.type, TIME), ("2", event.type, TIME)]
    assert json.loads(rows[0][3]) == event.data


async def test_rows_whose_version_is_taken_away_are_filled_anew(database: Database) -> None:
    """That is how a column that was added, or an expression that was wrong, is made up for from the journal."""
    batch = [happened("1", 5), happened("2", 3, "m")]
    await write(database, GROUP, batch)
    keys = {**GROUP, "columns": {"k": "data.k", "v": "join('', [data.v, '!'])"}}
    await write(database, keys, batch)
    before = await values(database)
    await sql(database, "UPDATE last_seen SET im_version = NULL")
    await write(database, keys, batch)

    assert before == [("k", "1"), ("m", "2")]
    assert await values(database) == [("k", "1!"), ("m", "2!")]
