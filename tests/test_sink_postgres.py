"""The postgres sink: least rights, one bad event never stops the others, and errors in our words."""

import asyncio
import logging
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.exits import ExitsQuery
from gateway.sinks import Failures, postgres_schema
from gateway.sinks.postgres import Postgres, read_exits
from tests import services
from tests.sink_events import exit_event
from tests.sink_places import PostgresPlace


@pytest.fixture
def place(postgres: services.Postgres, pg_dsn: str) -> PostgresPlace:
    return PostgresPlace(postgres, pg_dsn)


async def write(sink: Postgres, *events: Event) -> Failures:
    try:
        await sink.open()
        return await sink.write(events)
    finally:
        await sink.close()


async def refusal(sink: Postgres) -> Unavailable:
    """Return what opening *sink* raises."""
    with pytest.raises(Unavailable) as caught:
        await sink.open()
    return caught.value


def at_other(dsn: str, **changes: str) -> str:
    """Return *dsn* with another ``user``, ``password``, ``host`` or ``database``."""
    url = urlsplit(dsn)
    user, password = changes.get("user", url.username), changes.get("password", url.password)
    host = changes.get("host", f"{url.hostname}:{url.port}")
    return f"postgresql://{user}:{password}@{host}/{changes.get('database', url.path[1:])}"


async def test_columns_hold_what_queries_need(place: PostgresPlace) -> None:
    """Times are timestamps, the event is jsonb that can be asked."""
    await write(place.sink(), exit_event("1"))
    (row,) = await place.run(
        "SELECT source, id, type, subject, app_id, partitionkey, position, time::text, recordedtime::text,"
        " event->'data'->'members'->>1 AS second, now() - inserted_at < interval '1 min' AS fresh"
        " FROM im_events"
    )

    assert dict(row) == {
        "source": "/tencent-im/1400000000",
        "id": "1",
        "type": "im.group.member.exited",
        "subject": "group/@TGS#2J4SZEAEL",
        "app_id": "1400000000",
        "partitionkey": "group/@TGS#2J4SZEAEL",
        "position": "journal1.17.0",
        "time": "2022-12-09 08:26:54.123+00",
        "recordedtime": "2022-12-09 08:26:54.13+00",
        "second": "tommy",
        "fresh": True,
    }


async def test_what_jsonb_refuses_is_replaced(place: PostgresPlace) -> None:
    """NUL and lone surrogates become U+FFFD, in the event and in the columns; all else is exact."""
    event = exit_event("1", raw=rb'{"t":"\u0000\ud800\ud83d\ude00"}', group_id="g\0")
    await write(place.sink(), event)

    (stored,) = await place.events()
    assert stored["data"]["raw"] == {"t": "\ufffd\ufffd\U0001f600"}
    assert [row.group_id for row in await place.exits()] == ["g\ufffd"] * 2


async def test_what_the_server_refuses_is_named_and_the_rest_written(place: PostgresPlace) -> None:
    """Each refused event is poison at each of its places, wherever they stand and however many they are."""
    huge = {at: exit_event(f"huge {at}", raw=b'{"n":1e999999}') for at in (0, 7, 8, 63, 99)}
    batch = [huge.get(at) or exit_event(f"{at:03d}") for at in range(100)]
    failures = await write(place.sink(), *batch, huge[7])

    assert set(failures) == {*huge, 100}
    assert all(type(failure) is Poison for failure in failures.values())
    assert {failure.reason for failure in failures.values()} == {"refused_by_database"}
    assert len(await place.events()) == 95
    assert len(await place.exits()) == 190


async def test_what_an_operators_rule_refuses_is_poison(place: PostgresPlace) -> None:
    """A constraint and a trigger of the operator's are content too: that event will never pass them."""
    await write(place.sink())
    await place.run(
        "ALTER TABLE im_events ADD CHECK (event->'data'->>'group_id' <> 'forbidden')",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.member = 'nobody' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON im_member_exits FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    batch = [exit_event("1", group_id="forbidden"), exit_event("2"), exit_event("3", members=["nobody"])]
    failures = await write(place.sink(), *batch)

    assert {at: failure.reason for at, failure in failures.items()} == dict.fromkeys(
        (0, 2), "refused_by_database"
    )
    assert [event["id"] for event in await place.events()] == ["2"]
    said = "SQLSTATE 23514, CheckViolation, table im_events, constraint im_events_event_check"
    assert failures[0].detail == said
    assert failures[2].detail == "SQLSTATE P0001, Raise"


async def test_poison_names_no_value(place: PostgresPlace) -> None:
    """What a stranger sent does not reach the log by way of an error."""
    good = exit_event("1")
    failures = await write(place.sink(), Event(good.body, {**good.attributes, "id": "stranger\ud800"}))

    assert failures[0].reason == "refused_by_database"
    assert "stranger" not in str(failures[0])


async def test_rights_to_read_and_add_are_enough(place: PostgresPlace) -> None:
    """Once the tables are there, the worker's role needs SELECT and INSERT on them, no more."""
    await write(place.sink())
    database = urlsplit(place.dsn).path[1:]
    role = f"writer_{database}"
    await place.run(
        f"CREATE ROLE {role} LOGIN PASSWORD 'pw'",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        f"GRANT USAGE ON SCHEMA public TO {role}",
        f"GRANT SELECT, INSERT ON im_events, im_member_exits, im_schema_version TO {role}",
    )
    limited = PostgresPlace(place.server, at_other(place.dsn, user=role, password="pw"))
    failures = await write(limited.sink(), exit_event("1"), exit_event("1"))
    exits = await limited.exits()
    await place.run("REVOKE INSERT ON im_member_exits FROM " + role)
    with pytest.raises(Unavailable, match=r"no_rights.*permission denied for table im_member_exits"):
        await write(limited.sink(), exit_event("2"))
    await place.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")

    assert failures == {}
    assert [row.member for row in exits] == ["jared", "tommy"]
    assert [event["id"] for event in await place.events()] == ["1"]


async def test_a_role_that_may_not_create_is_told_so(place: PostgresPlace) -> None:
    """The first start needs more rights than the later ones; the sentence says which."""
    role = f"reader_{urlsplit(place.dsn).path[1:]}"
    await place.run(f"CREATE ROLE {role} LOGIN PASSWORD 'pw'")
    failure = await refusal(PostgresPlace(place.server, at_other(place.dsn, user=role, password="pw")).sink())
    await place.run(f"DROP ROLE {role}")

    assert failure.reason == "no_rights"
    assert "CREATE" in failure.detail


async def test_what_is_wrong_with_the_connection_is_named_without_the_password(place: PostgresPlace) -> None:
    """One reason each for a wrong password, a missing database, no server and a DSN that is none."""
    wrong = {
        at_other(place.dsn, password="pa-ss"): "no_rights",
        at_other(place.dsn, password="pa-ss", user="nobody"): "no_rights",
        at_other(place.dsn, database="missing"): "no_database",
        at_other(place.dsn, password="pa-ss", host="127.0.0.1:1"): "unreachable",
        "postgresql://user:pa-ss/x@localhost/db": "unreachable",
        "postgresql://user:pa-ss#x@localhost/db": "unreachable",
        "postgresql://user:pa-ss@[::1/db": "unreachable",
        "mysql://user:pa-ss@localhost/db": "unreachable",
    }
    for dsn, reason in wrong.items():
        failure = await refusal(PostgresPlace(place.server, dsn).sink())

        assert failure.reason == reason
        assert "pa-ss" not in str(failure)


async def test_a_newer_database_is_left_alone(place: PostgresPlace) -> None:
    """An older gateway must not write what it does not understand; the events wait for the upgrade."""
    await write(place.sink(), exit_event("1"))
    await place.run("INSERT INTO im_schema_version (version) VALUES (7)")
    failure = await refusal(place.sink())

    assert failure.reason == "newer_schema"
    assert "is 7, this gateway knows 1" in failure.detail


async def test_a_later_step_runs_once_and_keeps_the_rows(
    place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older database is brought up to the version by whichever of two workers comes first."""
    await write(place.sink(), exit_event("1"))
    steps = (*postgres_schema._STEPS, ("ALTER TABLE {p}events ADD COLUMN note text DEFAULT 'none'",))
    monkeypatch.setattr(postgres_schema, "_STEPS", steps)
    monkeypatch.setattr(postgres_schema, "SCHEMA_VERSION", 2)
    await asyncio.gather(*(write(place.sink(), exit_event(event_id)) for event_id in ("2", "3", "4")))

    rows = await place.run("SELECT id, note FROM im_events ORDER BY id")
    assert [tuple(row) for row in rows] == [(event_id, "none") for event_id in "1234"]
    assert [row[0] for row in await place.run("SELECT version FROM im_schema_version ORDER BY 1")] == [1, 2]


async def test_a_step_that_fails_leaves_the_database_as_it_was(
    place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a migration is none."""
    await write(place.sink(), exit_event("1"))
    steps = (*postgres_schema._STEPS, ("CREATE TABLE half (a int)", "ALTER TABLE missing ADD note text"))
    monkeypatch.setattr(postgres_schema, "_STEPS", steps)
    monkeypatch.setattr(postgres_schema, "SCHEMA_VERSION", 2)
    await refusal(place.sink())

    assert (await place.run("SELECT to_regclass('half')"))[0][0] is None
    assert [row[0] for row in await place.run("SELECT version FROM im_schema_version")] == [1]


async def test_two_prefixes_share_a_database(place: PostgresPlace) -> None:
    """Each has its own tables and its own version."""
    other = place.config.model_copy(update={"table_prefix": "p" * 31})
    await write(place.sink(), exit_event("1"))
    await write(Postgres(other, "other"), exit_event("2", members=["a"]))

    assert [row.event_id for row in await read_exits(other, ExitsQuery())] == ["2"]
    assert {row.event_id for row in await place.exits()} == {"1"}


async def test_a_table_that_is_gone_is_named(place: PostgresPlace) -> None:
    """The events wait until someone has put it right; the sink does not hide that rows are missing."""
    sink = place.sink()
    await write(sink)
    await place.run("DROP TABLE im_member_exits")
    with pytest.raises(Unavailable, match=r"no_table.*im_member_exits"):
        await write(sink, exit_event("1"))

    assert await place.events() == []


async def test_a_lock_that_stays_ends_in_a_timeout_and_loses_nothing(place: PostgresPlace) -> None:
    """Past write_timeout_s the batch comes again later, on a new connection."""
    await write(place.sink())
    sink = place.sink(write_timeout_s=0.5)
    await sink.open()
    blocker = await asyncpg.connect(place.dsn)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE im_events")
        with pytest.raises(Unavailable) as caught:
            await sink.write([exit_event("1")])
    await blocker.close()
    failures = await write(sink, exit_event("1"))

    assert caught.value.reason == "timeout"
    assert failures == {}
    assert len(await place.events()) == 1


async def test_a_session_that_was_ended_is_made_anew(place: PostgresPlace) -> None:
    """An administrator or a failover ends it; the worker opens and goes on."""
    sink = place.sink()
    await sink.open()
    await place.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'im-callback-gateway exits' AND datname = current_database()"
    )
    with pytest.raises(Unavailable, match="unreachable"):
        await sink.write([exit_event("1")])

    assert await write(sink, exit_event("1")) == {}


async def test_a_server_that_was_killed_keeps_what_was_acknowledged(place: PostgresPlace) -> None:
    """Closing a sink whose server is gone is quiet, too."""
    sink = place.sink()
    await sink.open()
    await sink.write([exit_event("1")])
    place.server.kill()
    await sink.close()
    failure = await refusal(sink)
    place.server.start()
    await write(sink, exit_event("2"))

    assert failure.reason == "unreachable"
    assert {event["id"] for event in await place.events()} == {"1", "2"}


async def test_a_standby_is_named(place: PostgresPlace) -> None:
    """A server that takes no writes does not say that the tables are missing."""
    database = urlsplit(place.dsn).path[1:]
    place.server.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    first = await refusal(place.sink())
    place.server.sql(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    place_is_writable = await write(place.sink(), exit_event("1"))
    place.server.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    with pytest.raises(Unavailable, match="read_only"):
        await write(place.sink(), exit_event("2"))

    assert first.reason == "read_only"
    assert place_is_writable == {}
    assert len(await place.exits()) == 2


async def test_an_encoding_that_would_refuse_event_after_event_is_refused_at_once(
    place: PostgresPlace,
) -> None:
    """Parking all that is not ASCII would look like a working sink."""
    name = f"{urlsplit(place.dsn).path[1:]}_ascii"
    await place.run(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    failure = await refusal(PostgresPlace(place.server, at_other(place.dsn, database=name)).sink())
    place.server.delete_database(at_other(place.dsn, database=name))

    assert failure.reason == "encoding"


async def test_commits_that_are_not_durable_are_warned_of(
    place: PostgresPlace, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the operator's decision, but they should know what it costs."""
    await place.run(f"ALTER DATABASE {urlsplit(place.dsn).path[1:]} SET synchronous_commit = off")
    with caplog.at_level(logging.WARNING):
        await write(place.sink())

    assert "synchronous_commit off" in caplog.text
