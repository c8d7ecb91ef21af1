"""Ledger, readers of sinks, and the comparison: with real sinks, written by the gateway's own code."""

import time

import pytest

from gateway import build
from gateway.callback import Callback
from gateway.catalogue import ROWS
from gateway.config import JsonlSink, MysqlSink, PostgresSink, RedisSink, SqliteSink
from gateway.errors import ConfigError, Unavailable
from gateway.ids import FACT_DIGITS
from gateway.normalise import ID_RECIPE, normalise
from gateway.redact import Redaction
from gateway.simulator.arrivals import arrival_of, arrivals_of
from gateway.simulator.bodies import Bodies
from gateway.simulator.ledger import Entry, Head, Ledger, LedgerFile, expected_events, read_ledger
from gateway.simulator.proof import prove
from gateway.simulator.verify import Comparison, render

APP = "1400000000"
NOW_MS = time.time_ns() // 1_000_000
HEAD = Head(APP, NOW_MS, 1)
OPEN = Redaction()


@pytest.fixture(params=["jsonl", "sqlite", "postgres", "mysql", "redis"])
def sink_config(request, tmp_path):
    """One sink of each kind, in a place of its own."""
    if request.param == "postgres":
        return PostgresSink(kind="postgres", dsn=request.getfixturevalue("pg_dsn"))
    if request.param == "redis":
        return RedisSink(kind="redis", url=request.getfixturevalue("redis_url"))
    if request.param == "mysql":
        return MysqlSink(kind="mysql", dsn=request.getfixturevalue("mysql_dsn"))
    kind = JsonlSink if request.param == "jsonl" else SqliteSink
    return kind(kind=request.param, path=tmp_path / "sink", **({"rotate_mb": 1} if kind is JsonlSink else {}))


def sent(rounds=2, redaction=OPEN):
    """Return a ledger of every command, *rounds* times, all acknowledged, and the events that it gives."""
    bodies = Bodies(1, APP, 5, NOW_MS)
    entries, events = {}, []
    for number, row in enumerate(ROWS * rounds, 1):
        query, body = bodies.make(number, row.name)
        expected = expected_events(APP, query, body, is_signed=False)
        entries[number] = Entry(number, row.name, expected, "ok", 0, 1, NOW_MS, 1.0)
        callback = Callback(APP, query, body, "", NOW_MS + number, False, ID_RECIPE, 10)
        events.append(normalise(callback, f"j.{number}", redaction))
    return Ledger(HEAD, entries), events


async def write(config, events):
    sink = build.make_sink("s", config)
    await sink.open()
    try:
        assert not await sink.write([event for some in events for event in some])
    finally:
        await sink.close()


async def test_every_sink_proves_arrival_and_loss(sink_config):
    """Found by id, or by its first half where the receipt takes part in the other."""
    ledger, events = sent()
    await write(sink_config, events[:-1])
    missing = await prove(ledger, sink_config, 0)
    await write(sink_config, events[-1:])
    whole = (await prove(ledger, sink_config, 10)).verdict()

    assert not missing.is_complete
    assert missing.verdict().lost == (len(ledger.entries),)
    assert (whole.arrived, whole.lost, whole.unexpected) == (len(ledger.entries), (), 0)
    assert whole.duplicated == 0


async def test_a_reader_returns_each_row_once(sink_config):
    """So that waiting does not count rows twice, also over a rotation."""
    _, events = sent(1)
    reader = arrivals_of(sink_config)
    before = await reader.new()
    await write(sink_config, events[:40])
    first = await reader.new()
    if isinstance(sink_config, JsonlSink):
        sink_config.path.rename(f"{sink_config.path}.20260101T000000Z")
    await write(sink_config, events[40:])
    second = await reader.new()

    assert before == await reader.new() == []
    assert len(first) + len(second) == sum(map(len, events))
    assert len({one.id for one in (*first, *second)}) == len(first) + len(second)


async def test_a_fact_that_the_window_split_is_a_duplicate(tmp_path):
    """A callback without time or sequence that was repeated later has two ids; their first half tells."""
    config = JsonlSink(kind="jsonl", path=tmp_path / "sink")
    query, body = Bodies(1, APP, 5, NOW_MS).make(1, "Sns.CallbackFriendDelete")
    expected = expected_events(APP, query, body, is_signed=False)
    ledger = Ledger(HEAD, {1: Entry(1, "Sns.CallbackFriendDelete", expected, "ok")})
    twice = [
        normalise(Callback(APP, query, body, "", NOW_MS + ms, False, ID_RECIPE, 10), "j.1")
        for ms in (0, 60_000)
    ]
    await write(config, twice)
    verdict = (await prove(ledger, config, 0)).verdict()

    assert len(expected[0].id) == FACT_DIGITS
    assert twice[0][0].id != twice[1][0].id
    assert (verdict.arrived, verdict.duplicated, verdict.unexpected) == (1, 1, 0)


async def test_a_push_is_whole_only_with_all_its_items(tmp_path):
    """One callback of several events is lost as long as one of them is missing."""
    config = JsonlSink(kind="jsonl", path=tmp_path / "sink")
    bodies = Bodies(3, APP, 5, NOW_MS)
    made = ((number, *bodies.make(number, "Push.OfflinePush")) for number in range(1, 50))
    number, query, body = next(one for one in made if one[2].count(b'"PushID"') > 1)
    ledger = Ledger(
        HEAD,
        {number: Entry(number, "Push.OfflinePush", expected_events(APP, query, body, is_signed=True), "ok")},
    )
    events = normalise(Callback(APP, query, body, "", NOW_MS, True, ID_RECIPE, 10), "j.1")
    await write(config, [events[:-1]])
    part = (await prove(ledger, config, 0)).verdict()
    await write(config, [events[-1:]])
    whole = (await prove(ledger, config, 0)).verdict()

    assert (part.lost, part.arrived) == ((number,), 0)
    assert (whole.lost, whole.arrived) == ((), 1)


def test_queued_and_parked_are_told_apart_from_lost():
    """A queue counts for what the sink does not have."""
    ledger, events = sent(1)
    comparison = Comparison(ledger, ("#",))
    rows = [_arrival(event) for some in events for event in some]
    counts = [len(some) for some in events]
    comparison.add(rows[: sum(counts[:-3])])
    comparison.add_queued(_arrivals(events[-3]), is_parked=False)
    comparison.add_queued(_arrivals(events[-2]), is_parked=True)
    verdict = comparison.verdict()

    assert (verdict.arrived, verdict.queued, verdict.parked) == (len(ROWS) - 3, 1, 1)
    assert verdict.lost == (len(ROWS),)
    assert f"lost: {len(ROWS)}" in render(verdict)


def _arrivals(events):
    return [_arrival(event) for event in events]


def _arrival(event):
    found = arrival_of(event.body)
    assert found is not None
    return found


async def test_a_sink_that_can_not_be_read_is_a_fault_and_not_a_loss(tmp_path):
    """Nothing is called lost because the proof could not look."""
    (tmp_path / "sink").write_bytes(b"this is no database, but it is long enough" * 100)
    ledger, _ = sent(1)

    with pytest.raises(Unavailable):
        await prove(ledger, SqliteSink(kind="sqlite", path=tmp_path / "sink"), 0.3)


async def test_a_sink_that_nobody_wrote_to_is_empty(sink_config):
    """Everything acknowledged is missing then."""
    ledger, _ = sent(1)

    assert len((await prove(ledger, sink_config, 0)).verdict().lost) == len(ROWS)


def test_a_ledger_is_read_as_it_was_written(tmp_path):
    """Intents without an answer too; a torn last line is passed over."""
    path = tmp_path / "l"
    ledger, _ = sent(1)
    file = LedgerFile(path, HEAD)
    for entry in ledger.entries.values():
        file.intend(entry.number, entry.command, entry.expected)
        if entry.number != 5:
            file.answered(entry)
    file.close()
    path.write_bytes(path.read_bytes() + b'{"n":1,"answ')
    found = read_ledger(path)

    assert found.head == HEAD
    assert not found.entries[5].is_acknowledged
    assert {n: e for n, e in found.entries.items() if n != 5} == {
        n: e for n, e in ledger.entries.items() if n != 5
    }
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_ledger_is_of_one_run(tmp_path):
    """An existing file is never written to."""
    LedgerFile(tmp_path / "l", HEAD).close()

    with pytest.raises(ConfigError, match="exists"):
        LedgerFile(tmp_path / "l", HEAD)


async def test_a_redacting_app_is_proved_too(sink_config):
    """Ids do not change, and the fact's half of one is known although its events have no ``raw``."""
    ledger, events = sent(1, Redaction.of({"operator": "drop", "from": "hash", "members": "drop"}, "k" * 16))
    await write(sink_config, events[:-2])
    missing = (await prove(ledger, sink_config, 0)).verdict()
    await write(sink_config, events[-2:])
    whole = (await prove(ledger, sink_config, 10)).verdict()

    assert not any("raw" in event.data for some in events for event in some)
    assert missing.lost == (len(ledger.entries) - 1, len(ledger.entries))
    assert (whole.arrived, whole.lost, whole.unexpected) == (len(ledger.entries), (), 0)


@pytest.mark.parametrize(
    "line", [b"[]", b"no json", b'{"id":5,"source":"s"}', b'{"id":"i"}', b'{"id":"i","source":[]}']
)
def test_what_is_no_event_is_passed_over(line):
    """A sink's file may hold lines of others."""
    assert arrival_of(line) is None


def test_a_ledger_of_another_version_is_refused(tmp_path):
    """What it has is not what this version compares."""
    path = tmp_path / "l"
    path.write_text('{"ledger":1,"app":"1","started_ms":1,"seed":1}\n')

    with pytest.raises(ConfigError, match="another version"):
        read_ledger(path)
