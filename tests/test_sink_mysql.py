"""The mysql sink: least rights, one bad event never stops the others, and errors in our words."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pymysql
import pytest
import trustme
from pydantic import ValidationError

from gateway.config import MysqlSink
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.exits import ExitsQuery
from gateway.sinks import Failures, mysql_schema
from gateway.sinks.mysql import Mysql, read_exits
from gateway.sinks.mysql_errors import unavailable
from tests import services
from tests.sink_events import exit_event
from tests.sink_places import MysqlPlace


@pytest.fixture
def place(mariadb: services.MariaDB, mysql_dsn: str) -> MysqlPlace:
    return MysqlPlace(mariadb, mysql_dsn)


@pytest.fixture
def role(place: MysqlPlace) -> Iterator[str]:
    """The name of a login with the password ``pw`` and no rights yet; it is gone after the test."""
    name = f"role_{urlsplit(place.dsn).path[1:]}"
    place.run(f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY 'pw'")
    yield name
    place.server.ensure_running()
    place.run(f"DROP USER {name}@'127.0.0.1'")


async def write(sink: Mysql, *events: Event) -> Failures:
    try:
        await sink.open()
        return await sink.write(events)
    finally:
        await sink.close()


async def refusal(sink: Mysql) -> Unavailable:
    """Return what opening *sink* raises."""
    try:
        with pytest.raises(Unavailable) as caught:
            await sink.open()
        return caught.value
    finally:
        await sink.close()


def at_other(dsn: str, **changes: str) -> str:
    """Return *dsn* with another ``user``, ``password``, ``host`` or ``database``."""
    url = urlsplit(dsn)
    user, password = changes.get("user", url.username), changes.get("password", url.password)
    host = changes.get("host", f"{url.hostname}:{url.port}")
    return f"mysql://{user}:{password}@{host}/{changes.get('database', url.path[1:])}"


def other(place: MysqlPlace, **changes: str) -> Mysql:
    return MysqlPlace(place.server, at_other(place.dsn, **changes)).sink()


async def test_columns_hold_what_queries_need(place: MysqlPlace) -> None:
    """Times are UTC to the millisecond, the event is JSON that can be asked, whatever zone the server is in."""
    await write(place.sink(), exit_event("1"))
    (row,) = place.run(
        "SELECT source, id, type, subject, app_id, partitionkey, position, CAST(time AS CHAR),"
        " CAST(recordedtime AS CHAR), JSON_VALUE(event, '$.data.members[1]'),"
        " ABS(TIMESTAMPDIFF(SECOND, inserted_at, UTC_TIMESTAMP())) < 60 FROM im_events"
    )

    assert row == (
        "/tencent-im/1400000000", "1", "im.group.member.exited", "group/@TGS#2J4SZEAEL", "1400000000",
        "group/@TGS#2J4SZEAEL", "journal1.17.0", "2022-12-09 08:26:54.123", "2022-12-09 08:26:54.130", "tommy", 1,
    )  # fmt: skip


async def test_the_event_is_kept_byte_by_byte(place: MysqlPlace) -> None:
    """What a JSON column would refuse or change stands there as it travelled."""
    raw = rb'{"t":"\u0000\ud800","n":1e999999,"big":12345678901234567890123,"b":1,"a":[[[[1.0]]]]}'
    event = exit_event("1", raw=raw)
    await write(place.sink(), event)

    assert [row[0].encode() for row in place.run("SELECT event FROM im_events")] == [event.body]


async def test_ids_that_differ_in_case_or_blanks_are_two(place: MysqlPlace) -> None:
    """MySQL's usual collations would take them for one event, and the second would be lost."""
    ids = ["a", "A", "a ", "ä", "a\u0301"]

    assert await write(place.sink(), *map(exit_event, ids)) == {}
    assert sorted(event["id"] for event in await place.events()) == sorted(ids)
    found = await place.exits(ExitsQuery(group="@tgs#2J4SZEAEL"))
    assert found == []


async def test_text_that_ends_a_literal_is_text(place: MysqlPlace) -> None:
    """Quotes, backslashes and comments of a stranger reach the columns as they are, in every mode of the server."""
    hostile = "\\'; DROP TABLE im_events; -- \" ` % %s {p} \\ \\' '' /*"
    place.run("SET GLOBAL sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES'")
    try:
        failures = await write(place.sink(), exit_event("1", group_id=hostile, members=[hostile, "\\"]))
    finally:
        place.run("SET GLOBAL sql_mode = DEFAULT")

    assert failures == {}
    assert [(row.group_id, row.member) for row in await place.exits(ExitsQuery(group=hostile))] == [
        (hostile, hostile),
        (hostile, "\\"),
    ]


async def test_what_the_server_refuses_is_named_and_the_rest_written(place: MysqlPlace) -> None:
    """Each refused event is poison at each of its places, wherever they stand and however many they are."""
    long = {at: exit_event(f"{'long ' * 60}{at}") for at in (0, 7, 8, 63, 99)}
    batch = [long.get(at) or exit_event(f"{at:03d}") for at in range(100)]
    await write(place.sink(), exit_event("001"), exit_event("050"))
    failures = await write(place.sink(), *batch, long[7])

    assert set(failures) == {*long, 100}
    assert all(type(failure) is Poison for failure in failures.values())
    assert {failure.reason for failure in failures.values()} == {"refused_by_database"}
    assert {failure.detail for failure in failures.values()} == {
        "error 1406: Data too long for column 'id' at row 1"
    }
    assert len(await place.events()) == 95
    assert len(await place.exits()) == 190


async def test_what_an_operators_rule_refuses_is_poison(place: MysqlPlace) -> None:
    """A CHECK, a unique index and a trigger of the operator's are content too; none of them hides an event."""
    await write(place.sink())
    place.run(
        "ALTER TABLE im_events ADD CHECK (subject <> 'group/forbidden'), ADD UNIQUE (position)",
        "CREATE TRIGGER no_such_member BEFORE INSERT ON im_member_exits FOR EACH ROW"
        " IF NEW.member = 'nobody' THEN SIGNAL SQLSTATE '45000'; END IF",
    )
    batch = [
        exit_event("1", group_id="forbidden"),
        exit_event("2"),
        exit_event("3", members=["nobody"]),
        exit_event("4"),
    ]
    failures = await write(place.sink(), *batch)

    assert {at: failure.reason for at, failure in failures.items()} == dict.fromkeys(
        (0, 2, 3), "refused_by_database"
    )
    assert failures[0].detail.startswith("error 4025: CONSTRAINT `CONSTRAINT_1` failed for ")
    assert (failures[2].detail, failures[3].detail) == ("error 1062", "error 1062")
    assert [event["id"] for event in await place.events()] == ["2"]


async def test_a_duplicate_that_a_trigger_makes_is_the_events(place: MysqlPlace) -> None:
    """It does not pass for an event that is there already: neither it nor its exits are half written."""
    await write(place.sink())
    place.run(
        "CREATE TABLE leavers (member varchar(9) PRIMARY KEY)",
        "CREATE TRIGGER note AFTER INSERT ON im_member_exits FOR EACH ROW INSERT INTO leavers VALUES (NEW.member)",
    )
    batch = [exit_event("1", members=["a"]), exit_event("2", members=["a"]), exit_event("3", members=["b"])]
    failures = await write(place.sink(), *batch)

    assert {at: failure.reason for at, failure in failures.items()} == {1: "refused_by_database"}
    assert [event["id"] for event in await place.events()] == ["1", "3"]
    assert sorted(row.event_id for row in await place.exits()) == ["1", "3"]


async def test_poison_names_no_value(place: MysqlPlace) -> None:
    """What a stranger sent does not reach the log by way of an error."""
    good = exit_event("1")
    failures = await write(
        place.sink(),
        Event(good.body, {**good.attributes, "id": "stranger\ud800"}),
        exit_event("stranger" * 99),
    )

    assert {failure.reason for failure in failures.values()} == {"refused_by_database"}
    assert "stranger" not in str(failures)


async def test_what_is_larger_than_the_server_takes_is_poison(place: MysqlPlace) -> None:
    """max_allowed_packet bounds a statement: one event above it is parked, those below go in smaller parts."""
    place.run("SET GLOBAL max_allowed_packet = 1048576")
    try:
        sizes = [400_000, 2_000_000, 400_000, 400_000, 1_100_000]
        batch = [exit_event(str(at), raw=b'"%s"' % (b'\\"' * (size // 2))) for at, size in enumerate(sizes)]
        failures = await write(place.sink(), *batch)
    finally:
        place.run("SET GLOBAL max_allowed_packet = DEFAULT")

    assert {at: failure.reason for at, failure in failures.items()} == dict.fromkeys(
        (1, 4), "refused_by_database"
    )
    assert [event["id"] for event in await place.events()] == ["0", "2", "3"]


async def test_exits_whose_event_was_deleted_do_not_stop_it_from_coming_again(place: MysqlPlace) -> None:
    """An operator may clear one table and not the other."""
    await write(place.sink(), exit_event("1"))
    place.run("DELETE FROM im_events")

    assert await write(place.sink(), exit_event("1"), exit_event("2")) == {}
    assert len(await place.events()) == 2
    assert len(await place.exits()) == 4


async def test_rights_to_read_add_and_change_are_enough(place: MysqlPlace, role: str) -> None:
    """Once the tables are there, the worker's user needs no more."""
    await write(place.sink())
    database = urlsplit(place.dsn).path[1:]
    user = f"{role}@'127.0.0.1'"
    for table in ("im_events", "im_member_exits", "im_schema_version"):
        place.run(f"GRANT SELECT, INSERT, UPDATE ON {database}.{table} TO {user}")
    limited = MysqlPlace(place.server, at_other(place.dsn, user=role, password="pw"))
    failures = await write(limited.sink(), exit_event("1"), exit_event("1"))
    exits = await limited.exits()
    place.run(f"REVOKE INSERT ON {database}.im_member_exits FROM {user}")
    with pytest.raises(Unavailable, match=r"no_rights.*im_member_exits"):
        await write(limited.sink(), exit_event("2"))

    assert failures == {}
    assert [row.member for row in exits] == ["jared", "tommy"]
    assert [event["id"] for event in await place.events()] == ["1"]


async def test_a_user_that_may_not_create_is_told_so(place: MysqlPlace, role: str) -> None:
    """The first start needs more rights than the later ones; the sentence says which."""
    place.run(f"GRANT SELECT ON {urlsplit(place.dsn).path[1:]}.* TO {role}@'127.0.0.1'")
    failure = await refusal(other(place, user=role, password="pw"))

    assert failure.reason == "no_rights"
    assert "CREATE" in failure.detail


async def test_what_is_wrong_with_the_connection_is_named_without_the_password(place: MysqlPlace) -> None:
    """One reason each for a wrong password, a missing database, no server and a DSN that is none."""
    wrong = {
        at_other(place.dsn, password="pa-ss"): "no_rights",
        at_other(place.dsn, password="pa-ss", user="nobody"): "no_rights",
        at_other(place.dsn, database="missing"): "no_database",
        at_other(place.dsn, database=""): "no_database",
        at_other(place.dsn, password="pa-ss", host="127.0.0.1:1"): "unreachable",
        at_other(place.dsn, password="pa-ss", host="no-such-host.invalid"): "unreachable",
        "mysql://user:pa-ss/x@localhost/db": "unreachable",
        "mysql://user:pa-ss#x@localhost/db": "unreachable",
        "mysql://user:pa-ss@[::1/db": "unreachable",
        "mysql://user:pa-ss@localhost:port/db": "unreachable",
        "postgresql://user:pa-ss@localhost/db": "unreachable",
        "user:pa-ss@localhost/db": "unreachable",
    }
    for dsn, reason in wrong.items():
        failure = await refusal(MysqlPlace(place.server, dsn).sink())

        assert failure.reason == reason, dsn
        assert "pa-ss" not in str(failure)


async def test_a_password_may_hold_any_character(place: MysqlPlace) -> None:
    """Percent escapes stand for what a URL can't hold, other scripts included."""
    password = "p@s/s:w%öрд#群"
    place.run(
        f"CREATE USER odd@'127.0.0.1' IDENTIFIED BY '{password}'", "GRANT ALL ON *.* TO odd@'127.0.0.1'"
    )
    try:
        assert await write(other(place, user="odd", password=quote(password, "")), exit_event("1")) == {}
    finally:
        place.run("DROP USER odd@'127.0.0.1'")


async def test_a_login_that_takes_another_library_is_told(place: MysqlPlace) -> None:
    """It is a matter of the user's account, and the events wait."""
    place.run(
        "INSTALL SONAME 'auth_ed25519'",
        "CREATE USER ed@'127.0.0.1' IDENTIFIED VIA ed25519 USING PASSWORD('pw')",
    )
    try:
        failure = await refusal(other(place, user="ed", password="pw"))
    finally:
        place.run("DROP USER ed@'127.0.0.1'", "UNINSTALL SONAME 'auth_ed25519'")

    assert failure.reason == "no_rights"
    assert "nacl" in failure.detail


async def test_a_newer_database_is_left_alone(place: MysqlPlace) -> None:
    """An older gateway must not write what it does not understand; the events wait for the upgrade."""
    await write(place.sink(), exit_event("1"))
    place.run("INSERT INTO im_schema_version (version) VALUES (7)")
    failure = await refusal(place.sink())

    assert failure.reason == "newer_schema"
    assert "is 7, this gateway knows 1" in failure.detail


async def test_a_later_step_runs_once_and_keeps_the_rows(
    place: MysqlPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older database is brought up to the version by whichever of several workers comes first."""
    await write(place.sink(), exit_event("1"))
    steps = (*mysql_schema._STEPS, ("ALTER TABLE {p}events ADD COLUMN note varchar(9) DEFAULT 'none'",))
    monkeypatch.setattr(mysql_schema, "_STEPS", steps)
    monkeypatch.setattr(mysql_schema, "SCHEMA_VERSION", 2)
    await asyncio.gather(*(write(place.sink(), exit_event(event_id)) for event_id in ("2", "3", "4")))

    assert place.run("SELECT id, note FROM im_events ORDER BY id") == [(one, "none") for one in "1234"]
    assert place.run("SELECT version FROM im_schema_version ORDER BY 1") == [(1,), (2,)]


async def test_a_migration_that_broke_off_goes_on(place: MysqlPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made of a step stays, its version does not, and the next start does the rest."""
    first = mysql_schema._STEPS[0]
    monkeypatch.setattr(mysql_schema, "_STEPS", ((first[0], "CREATE TABLE {p}x SELECT nothing", first[1]),))
    failure = await refusal(place.sink())
    assert place.run("SELECT version FROM im_schema_version") == []
    monkeypatch.undo()

    assert failure.reason == "no_table"
    assert await write(place.sink(), exit_event("1")) == {}
    assert place.run("SELECT version FROM im_schema_version") == [(1,)]


async def test_two_prefixes_share_a_database(place: MysqlPlace) -> None:
    """Each has its own tables and its own version."""
    config = place.config.model_copy(update={"table_prefix": "p" * 31})
    await write(place.sink(), exit_event("1"))
    await write(Mysql(config, "other"), exit_event("2", members=["a"]))

    assert [row.event_id for row in await read_exits(config, ExitsQuery())] == ["2"]
    assert {row.event_id for row in await place.exits()} == {"1"}


async def test_a_table_that_is_gone_is_named(place: MysqlPlace) -> None:
    """The events wait until someone has put it right; the sink does not hide that rows are missing."""
    sink = place.sink()
    await write(sink)
    place.run("DROP TABLE im_member_exits")
    with pytest.raises(Unavailable, match=r"no_table.*im_member_exits"):
        await write(sink, exit_event("1"))

    assert await place.events() == []


async def test_a_lock_that_stays_ends_and_loses_nothing(place: MysqlPlace) -> None:
    """Past write_timeout_s the batch comes again later, on a new connection."""
    await write(place.sink())
    sink = place.sink(write_timeout_s=1.0)
    await sink.open()
    with place.connect() as blocker:
        blocker.cursor().execute("LOCK TABLES im_events WRITE")
        with pytest.raises(Unavailable) as caught:
            await sink.write([exit_event("1")])
    failures = await write(sink, exit_event("1"))

    assert caught.value.reason in ("timeout", "locked")
    assert failures == {}
    assert len(await place.events()) == 1


async def test_a_row_that_another_session_holds_is_waited_for(place: MysqlPlace) -> None:
    """A transaction of an administrator that stays open gives a reason, not a lost event."""
    sink = place.sink(write_timeout_s=1.4)
    await sink.open()
    await sink.write([exit_event("1")])
    blocker = place.connect()
    blocker.autocommit(False)
    blocker.cursor().execute("SELECT * FROM im_events FOR UPDATE")
    with pytest.raises(Unavailable, match="locked"):
        await sink.write([exit_event("1"), exit_event("2")])
    blocker.close()

    assert await write(sink, exit_event("1"), exit_event("2")) == {}
    assert len(await place.events()) == 2


async def test_a_deadlock_is_tried_again(place: MysqlPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """InnoDB undoes one of two transactions; that one is written again at once."""
    sink = place.sink()
    await sink.open()
    failing = [pymysql.err.OperationalError(1213, "Deadlock found"), *([None] * 9)]
    link = sink._link
    assert link is not None
    run = link.run

    def deadlocked(sql: str, values: list[object]) -> int:
        changed = run(sql, values)
        if fault := failing.pop(0):
            raise fault
        return changed

    monkeypatch.setattr(link, "run", deadlocked)
    failures = await sink.write([exit_event("1"), exit_event("2")])
    await sink.close()

    assert failures == {}
    assert len(await place.exits()) == 4


async def test_a_session_outlives_quiet_days(place: MysqlPlace) -> None:
    """Servers hang up on who says nothing for some hours; a queue may be quiet for longer."""
    place.run("SET GLOBAL wait_timeout = 1")
    try:
        sink = place.sink()
        await sink.open()
        assert sink._link is not None
        found = sink._link.rows("SELECT @@wait_timeout")
        await sink.close()
    finally:
        place.run("SET GLOBAL wait_timeout = DEFAULT")

    assert found == [(31_536_000,)]


async def test_a_session_that_was_ended_is_made_anew(place: MysqlPlace) -> None:
    """An administrator or a failover ends it; the worker opens and goes on."""
    sink = place.sink()
    await sink.open()
    await asyncio.to_thread(place.server.disconnect, place.dsn)
    with pytest.raises(Unavailable, match="unreachable"):
        await sink.write([exit_event("1")])

    assert await write(sink, exit_event("1")) == {}


async def test_a_server_that_was_killed_keeps_what_was_acknowledged(place: MysqlPlace) -> None:
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


async def test_a_server_that_says_nothing_holds_nobody_up(place: MysqlPlace) -> None:
    """A worker that stops, or gave up, does not wait for a frozen server; later the same sink goes on."""
    sink = place.sink()
    await sink.open()
    place.server.freeze()
    started_s = time.monotonic()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sink.write([exit_event("1")]), 0.2)
    await sink.close()
    took_s = time.monotonic() - started_s
    place.server.ensure_running()

    assert took_s < 10  # the sink's own limit is 30 s
    assert await write(sink, exit_event("1"), exit_event("2")) == {}
    assert {event["id"] for event in await place.events()} == {"1", "2"}


async def test_a_replica_is_named(place: MysqlPlace, role: str) -> None:
    """A server that takes no writes does not say that the tables are missing."""
    database = urlsplit(place.dsn).path[1:]
    place.run(f"GRANT ALL ON {database}.* TO {role}@'127.0.0.1'", "SET GLOBAL read_only = 1")
    try:
        first = await refusal(other(place, user=role, password="pw"))
        await write(place.sink())  # as the administrator, who may
        with pytest.raises(Unavailable, match="read_only"):
            await write(other(place, user=role, password="pw"), exit_event("1"))
    finally:
        place.run("SET GLOBAL read_only = 0")

    assert first.reason == "read_only"
    assert await write(other(place, user=role, password="pw"), exit_event("1")) == {}


async def test_commits_that_are_not_durable_are_warned_of(
    place: MysqlPlace, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the operator's decision, but they should know what it costs."""
    place.run("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
    try:
        with caplog.at_level(logging.WARNING):
            await write(place.sink())
    finally:
        place.run("SET GLOBAL innodb_flush_log_at_trx_commit = 1")

    assert "innodb_flush_log_at_trx_commit" in caplog.text


async def test_after_closing_no_thread_and_no_socket_is_left(place: MysqlPlace) -> None:
    """Also after a cancelled write."""
    before = threading.active_count()
    sink = place.sink()
    await sink.open()
    cancelled = asyncio.ensure_future(sink.write([exit_event("1")]))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    await sink.close()
    await sink.close()
    name = urlsplit(place.dsn).path[1:]
    count = f"SELECT count(*) FROM information_schema.processlist WHERE db = '{name}'"
    services.processes.wait_until(lambda: place.run(count) == [(1,)], 10, "the session's end")

    assert threading.active_count() == before


def test_an_unknown_error_of_the_server_is_shown_without_its_text() -> None:
    """It might quote the values of a row."""
    said = unavailable(pymysql.err.InternalError(4000, "stranger"), "h/d")

    assert said.reason == "database_error"
    assert "4000" in said.detail
    assert "stranger" not in said.detail


class Tls:
    """The server with a certificate for 127.0.0.1 of a CA of its own, which also made a client's."""

    def __init__(self, place: MysqlPlace, folder: Path) -> None:
        self.place = place
        self.ca = folder / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        issued = {
            "server": authority.issue_cert("127.0.0.1"),
            "client": authority.issue_cert("worker@example.org"),
        }
        self.files = {}
        for name, cert in issued.items():
            self.files[name] = (folder / f"{name}.pem", folder / f"{name}.key")
            self.files[name][0].write_bytes(b"".join(blob.bytes() for blob in cert.cert_chain_pems))
            cert.private_key_pem.write_to_path(self.files[name][1])
        place.server.stop()
        processes = place.server._processes
        texts = {
            "ca": self.ca.read_text(),
            "cert": self.files["server"][0].read_text(),
            "key": self.files["server"][1].read_text(),
        }
        settings = {f"ssl_{name}": str(processes.write(f"{name}.pem", text)) for name, text in texts.items()}
        place.server.start(**settings)

    async def cipher(self, **changes: object) -> str:
        """Return the cipher of a sink's session with *changes* in its configuration; "" for none."""
        config = MysqlSink.model_validate(
            {**self.place.config.model_dump(), "dsn": self.place.dsn, **changes}
        )
        sink = Mysql(config, "exits")
        await sink.open()
        assert sink._link is not None
        cipher = sink._link.rows("SHOW SESSION STATUS LIKE 'Ssl_cipher'")[0][1]
        assert await sink.write([exit_event("1")]) == {}
        await sink.close()
        return str(cipher)


@pytest.fixture
def tls(place: MysqlPlace, tmp_path: Path) -> Iterator[Tls]:
    yield Tls(place, tmp_path)
    place.server.stop()


async def test_tls_is_as_strict_as_configured(tls: Tls, tmp_path: Path) -> None:
    """prefer and require encrypt, verify also checks who answers, never does not encrypt."""
    assert await tls.cipher() != ""
    assert await tls.cipher(tls="require") != ""
    assert await tls.cipher(tls="verify", tls_ca=tls.ca) != ""
    assert await tls.cipher(tls="never") == ""
    for changes in ({}, {"dsn": tls.place.dsn.replace("127.0.0.1", "localhost"), "tls_ca": tls.ca}):
        with pytest.raises(Unavailable, match=r"unreachable.*certificate verify failed"):
            await tls.cipher(tls="verify", **changes)
    (tmp_path / "bad.pem").write_text("none")
    for ca in (tmp_path / "bad.pem", tmp_path / "missing.pem"):
        with pytest.raises(Unavailable, match="tls_files"):
            await tls.cipher(tls="verify", tls_ca=ca)


async def test_a_client_certificate_is_shown_where_it_is_asked_for(tls: Tls, role: str) -> None:
    """A user may be bound to one."""
    place = tls.place
    place.run(f"GRANT ALL ON {urlsplit(place.dsn).path[1:]}.* TO {role}@'127.0.0.1' REQUIRE X509")
    place.dsn, own = at_other(place.dsn, user=role, password="pw"), place.dsn
    certificate = {"tls_cert": tls.files["client"][0], "tls_key": tls.files["client"][1]}
    try:
        with pytest.raises(Unavailable, match="no_rights"):
            await tls.cipher(tls="verify", tls_ca=tls.ca)
        assert await tls.cipher(tls="verify", tls_ca=tls.ca, **certificate) != ""
    finally:
        place.dsn = own


async def test_tls_that_is_required_is_not_given_up(place: MysqlPlace) -> None:
    """A server without TLS, or somebody between, gets no password."""
    for strictness in ("require", "verify"):
        failure = await refusal(place.sink(tls=strictness))

        assert failure.reason == "unreachable"
        assert "SSL" in failure.detail
    assert await write(place.sink(tls="prefer"), exit_event("1")) == {}


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"tls_ca": "ca.pem"}, "tls_ca is looked at with tls: verify only"),
        ({"tls": "verify", "tls_key": "key.pem"}, "tls_key belongs to a tls_cert"),
        ({"tls_cert": "cert.pem"}, "tls_cert needs tls: verify"),
        ({"tls": "off"}, "'prefer', 'require', 'verify' or 'never'"),
    ],
)
def test_keys_of_tls_that_do_nothing_are_errors(keys: dict[str, str], fault: str) -> None:
    """Nobody believes to be safe because of a key that is not looked at."""
    with pytest.raises(ValidationError, match=fault):
        MysqlSink.model_validate({"kind": "mysql", "dsn": "mysql://h/d", **keys})


GREETING = (
    b"\x0a8.0.0\0" + bytes(4) + b"12345678\0" + b"\xff\xf7" + b"\x2d" + b"\2\0" + b"\xff\x80" + b"\x15" + bytes(10)
    + b"123456789012\0" + b"mysql_native_password\0"
)  # fmt: skip


@pytest.mark.parametrize("plugin", [b"mysql_clear_password", b"dialog"])
async def test_nobody_gets_the_password_by_asking_for_it(plugin: bytes) -> None:
    """Whoever stands in the server's place may ask for it in plain text; it takes TLS that was asked for."""
    heard = bytearray()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number, packet in ((0, GREETING), (2, b"\xfe" + plugin + b"\0" + b"Password: ")):
            writer.write(len(packet).to_bytes(3, "little") + bytes([number]) + packet)
            heard.extend(await reader.read(65536))
        writer.close()

    server = await asyncio.start_server(pretend, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    dsn = f"mysql://user:pass-word@127.0.0.1:{port}/db"
    config = MysqlSink.model_validate({"kind": "mysql", "dsn": dsn, "tls": "never"})
    failure = await refusal(Mysql(config, "x"))
    server.close()
    await server.wait_closed()

    assert failure.reason == "no_rights"
    assert b"user" in heard
    assert b"pass-word" not in heard
