"""``gateway journal replay`` with real journals and both brokers: what comes, where, with which ids, how fast."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway import build, replay
from gateway.broker import Broker, Delivery
from gateway.callback import Callback
from gateway.errors import Unavailable
from gateway.event import Event
from gateway.journal import Stored, open_readonly
from gateway.metrics import Metrics
from gateway.normalise import normalise
from gateway.record import HEADER_BYTES
from gateway.replay import Replay
from tests.gateway_process import GATEWAY, eventually
from tests.journal_folder import APP, EXIT, JournalFolder, callback
from tests.services import RabbitMQ, management

PUSH = (Path(__file__).parent / "samples/callbacks/Push.OfflinePush.json").read_bytes()
HUGE = callback(4, body=b'{"CallbackCommand":"%s","x":"%s"}' % (EXIT.encode(), b"y" * 1_000_000))
MIXED = [
    callback(1),
    callback(2, "Push.OfflinePush", body=PUSH),
    callback(3, body=b"{ not JSON"),
    HUGE,
    callback(5, "New.Thing", id_window_s=3600),
    callback(6, app_id="14"),
]


@pytest.fixture(params=["embedded", "rabbitmq"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> JournalFolder:
    """A journal and an empty broker of each kind, with the sinks ``all`` and ``exits``."""
    if request.param == "embedded":
        return JournalFolder(tmp_path)
    url = request.getfixturevalue("amqp_url")
    management_url = request.getfixturevalue("rabbitmq").management_url
    return JournalFolder(tmp_path, broker={"url": url, "management_url": management_url})


@pytest.fixture
def embedded(tmp_path: Path) -> JournalFolder:
    return JournalFolder(tmp_path)


def on_broker(folder: JournalFolder, work: Callable[[Broker], object]) -> object:
    """Return what *work*, a coroutine function, makes of the folder's broker."""

    async def run() -> object:
        broker = build.make_broker(folder.config, Metrics())
        try:
            async with asyncio.timeout(30):
                return await work(broker)  # type: ignore[misc]
        finally:
            await broker.close()

    return asyncio.run(run())


def taken(folder: JournalFolder, sink: str, count: int) -> list[Delivery]:
    """Take *count* events of *sink*, settle them, and check that these were all."""

    async def take(broker: Broker) -> list[Delivery]:
        found: list[Delivery] = []
        async with broker.consumer(sink, 1000) as consumer:
            while len(found) < count:
                found += await consumer.take(count - len(found), 0.1)
            await consumer.ack(found)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await consumer.take(1, 0)
        return found

    return on_broker(folder, take)  # type: ignore[return-value]


def unrouted(folder: JournalFolder) -> object:
    return on_broker(folder, lambda broker: broker.unrouted())


def expected(journal_id: str, stored: list[Callback], positions: list[int]) -> list[Event]:
    """Return the events of the callbacks at *positions* as they went out the first time."""
    return [event for at in positions for event in normalise(stored[at - 1], f"{journal_id}.{at}")]


def test_everything_comes_again_as_it_was(folder: JournalFolder) -> None:
    """Byte for byte: ids, sources, positions and times of the original, in order; push items, malformed, huge."""
    journal_id = folder.store(MIXED, confirm=6)
    done = folder.run("replay", "--from", "1", "--rate", "0")
    events = expected(journal_id, MIXED, [1, 2, 3, 4, 5, 6])
    found = taken(folder, "all", len(events))

    assert [one.body for one in found] == [event.body for event in events]
    assert [one.message_id for one in found] == [event.id for event in events]
    assert [one.routing_key for one in found] == [event.routing_key for event in events]
    assert {one.attempt for one in found} == {1}
    exits = [event.body for event in events if event.type == "im.group.member.exited"]
    assert [one.body for one in taken(folder, "exits", len(exits))] == exits
    assert f"Published {len(events)} events of 6 callbacks (positions 1 to 6), each confirmed" in done.stdout
    assert "type im.malformed: 1" in done.stdout
    assert f"sink exits: {len(exits)}" in done.stdout


def test_one_sink_alone(folder: JournalFolder) -> None:
    """Only events that its patterns match, and nobody else gets one."""
    journal_id = folder.store(MIXED, confirm=6)
    [said] = folder.lines("replay", "--from", "1", "--rate", "0", "--sink", "exits")
    events = [
        event for event in expected(journal_id, MIXED, [1, 4, 6]) if event.type == "im.group.member.exited"
    ]

    assert [one.body for one in taken(folder, "exits", len(events))] == [event.body for event in events]
    assert taken(folder, "all", 0) == []
    assert unrouted(folder) == 0
    assert (said["events"], said["callbacks"], said["sinks"]) == (3, 3, {"exits": 3})


@pytest.mark.parametrize(
    ("words", "positions"),
    [
        (["--from", "2", "--to", "3"], [2, 3]),
        (["--since", "2023-11-14T22:13:25"], [5, 6]),
        (["--until", "2023-11-14T22:13:22"], [1]),
        (["--command", "Push.*"], [2]),
        (["--command", EXIT, "--app", "14"], [6]),
        (["--app", APP, "--from", "5"], [5]),
        (["--app", "99"], []),
    ],
)  # fmt: skip
def test_only_what_was_chosen(embedded: JournalFolder, words: list[str], positions: list[int]) -> None:
    """By positions, time of receipt, command and app; a choice that matches nothing is said and no fault."""
    journal_id = embedded.store(MIXED, confirm=6)
    done = embedded.run("replay", *words, "--rate", "0")
    events = expected(journal_id, MIXED, positions)

    assert [one.body for one in taken(embedded, "all", len(events))] == [event.body for event in events]
    if not positions:
        assert "Published nothing: no callback matches." in done.stdout


def test_what_waits_is_left_to_the_gateway(embedded: JournalFolder) -> None:
    """It will be forwarded anyway; publishing it here too would only double it."""
    embedded.store(MIXED, confirm=2)
    done = embedded.run("replay", "--from", "1", "--rate", "0")
    nothing = embedded.run("replay", "--from", "4", "--rate", "0")

    assert len(taken(embedded, "all", 3)) == 3
    assert "Positions 3 to 6 are left out" in done.stderr
    assert "Positions 4 to 6 are left out" in nothing.stderr
    assert "left out" not in embedded.run("replay", "--to", "2", "--dry-run").stderr


def test_what_is_no_longer_kept_is_said(embedded: JournalFolder) -> None:
    """Where the journal begins, and from where on it was asked."""
    embedded.sections["journal"]["segment_mb"] = 1
    embedded.write()
    embedded.store([callback(n, body=b'{"x":"%s"}' % (b"y" * 600_000)) for n in range(1, 5)], confirm=4)
    for path in embedded.segments()[:2]:
        path.unlink()
    by_time = embedded.run("replay", "--since", "2023-11-14T22:13:21", "--dry-run")
    by_position = embedded.run("replay", "--from", "1", "--dry-run")
    by_command = embedded.run("replay", "--command", "*", "--dry-run")

    begin = "The journal reaches back to 2023-11-14T22:13:23.000Z (position 3); asked from "
    assert f"{begin}2023-11-14T22:13:21.000Z. What came before is no longer kept" in by_time.stderr
    assert f"{begin}position 1." in by_position.stderr
    assert f"{begin}position 1." in by_command.stderr
    assert "Would publish 2 events of 2 callbacks" in by_time.stdout


def test_a_dry_run_counts_and_publishes_nothing(embedded: JournalFolder) -> None:
    """Per type and per sink; it needs no broker and no --yes."""
    embedded.sections["sinks"]["log"] = {
        "kind": "jsonl", "path": "x", "events": ["im.offline_push.#"],
    }  # fmt: skip
    del embedded.sections["sinks"]["all"]
    embedded.write()
    embedded.store(MIXED, confirm=6)
    [said] = embedded.lines("replay", "--from", "1", "--dry-run")

    assert (said["dry_run"], said["callbacks"], said["events"]) == (True, 6, 7)
    assert said["types"]["im.group.member.exited"] == 3
    assert said["types"]["im.malformed"] == said["types"]["im.unknown"] == 1
    assert said["sinks"]["exits"] == 3
    assert sum(said["types"].values()) == 7
    assert said["unrouted"] == 7 - sum(said["sinks"].values())
    assert not (embedded.folder / "broker.db").exists()


def test_sinks_that_write_again_need_a_yes(embedded: JournalFolder) -> None:
    """The error names them, and those that need none."""
    embedded.sections["sinks"]["log"] = {"kind": "jsonl", "path": "x"}
    embedded.write()
    embedded.store(MIXED, confirm=6)
    said = embedded.run("replay", "--from", "1", expect=2).stderr

    assert said.startswith("--yes: log (jsonl) write an event again")
    assert "whose effect is once: all, exits" in said
    assert "log (jsonl)" in embedded.run("replay", "--from", "1", "--sink", "log", expect=2).stderr
    assert unrouted(embedded) == 0
    assert taken(embedded, "all", 0) == []
    embedded.run("replay", "--to", "1", "--sink", "all")
    embedded.run("replay", "--to", "1", "--sink", "log", "--yes")
    assert len(taken(embedded, "all", 1)) == len(taken(embedded, "log", 1)) == 1


def test_wrong_use_is_a_sentence_and_2(embedded: JournalFolder) -> None:
    """No choice at all, an unknown sink, a rate below nothing."""
    embedded.store(MIXED, confirm=6)

    assert "say what to publish again" in embedded.run("replay", expect=2).stderr
    said = embedded.run("replay", "--from", "1", "--sink", "nobody", expect=2).stderr
    assert "no sink 'nobody'; it has: all, exits" in said
    embedded.run("replay", "--from", "1", "--rate", "-1", expect=2)


def test_what_no_sink_takes_is_counted(folder: JournalFolder) -> None:
    """It goes the way it went the first time."""
    del folder.sections["sinks"]["all"]
    folder.write()
    folder.store([callback(1), callback(2, "New.Thing")], confirm=2)
    done = folder.run("replay", "--from", "1")

    assert "no sink takes 1 of them" in done.stdout
    assert len(taken(folder, "exits", 1)) == 1
    eventually(lambda: unrouted(folder) == 1, "one unrouted")


def test_events_follow_the_redaction_of_today(embedded: JournalFolder) -> None:
    """The journal keeps all; what goes out does not."""
    embedded.store([callback(1)], confirm=1)
    embedded.sections["apps"] = {APP: {"redact": {"members": "drop", "operator": "drop"}}}
    embedded.write()
    embedded.run("replay", "--from", "1")
    [found] = taken(embedded, "all", 1)

    assert b"u1" not in found.body


def test_damage_in_the_range_is_a_fault(embedded: JournalFolder) -> None:
    """The others go out; the exit code says that it was not all."""
    embedded.store([callback(1), callback(2)], confirm=2)
    embedded.flip(HEADER_BYTES + 100)
    done = embedded.run("replay", "--from", "1", expect=1)

    assert "1 positions in this range are damaged" in done.stderr
    assert len(taken(embedded, "all", 1)) == 1


def test_a_broker_that_is_away_is_a_sentence_and_1(embedded: JournalFolder) -> None:
    """And nothing of it is a traceback."""
    embedded.sections["broker"] = {"url": "amqp://guest:guest@127.0.0.1:1/"}
    embedded.write()
    embedded.store([callback(1)], confirm=1)
    said = embedded.run("replay", "--from", "1", expect=1).stderr

    assert "nothing listens there" in said
    assert "Nothing is confirmed yet" in said
    assert "guest:guest" not in said


def test_the_rate_is_kept(embedded: JournalFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many events a second, in small batches; the first goes at once, and time that was lost is not made up."""
    clock = [1000.0]
    sent: list[tuple[float, int]] = []
    embedded.store([callback(n) for n in range(1, 101)], confirm=100)

    class Asyncio:
        to_thread = staticmethod(asyncio.to_thread)

        @staticmethod
        async def sleep(delay_s: float) -> None:
            clock[0] += max(0.0, delay_s)

    class Time:
        @staticmethod
        def monotonic() -> float:
            return clock[0]

    monkeypatch.setattr(replay, "asyncio", Asyncio)
    monkeypatch.setattr(replay, "time", Time)
    work = prepared(embedded)

    class Slow(Sending):
        async def send(self, events):
            sent.append((clock[0] - 1000, len(events)))
            if len(sent) == 3:
                clock[0] += 10
            return await super().send(events)

    asyncio.run(work.run(Slow(), 100))

    assert [count for _, count in sent] == [10] * 10
    assert [round(at, 3) for at, _ in sent] == [0, 0.1, 0.2, 10.2, 10.3, 10.4, 10.5, 10.6, 10.7, 10.8]


def prepared(folder: JournalFolder, takes: Callable[[Stored], bool] = lambda stored: True) -> Replay:
    reader = open_readonly(folder.journal)
    return Replay(reader, build.topology_of(folder.config), {}, takes, 0, reader.cursor)


class Sending:
    """As much of a broker as a replay needs; confirms everything at once."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def publisher(self, sink: str = "") -> "Sending":
        return self

    async def __aenter__(self) -> "Sending":
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    async def send(self, events):
        self.bodies += [event.body for event in events]
        future = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


def test_a_batch_is_bounded_whatever_is_chosen(
    embedded: JournalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By events, by bytes, and by callbacks that are passed over, so that it goes on visibly."""
    embedded.store([callback(n, app_id="14" if n % 5 else "15") for n in range(1, 101)], confirm=100)
    monkeypatch.setattr(replay, "_BATCH_RECORDS", 30)
    dones = []

    class Watching(Sending):
        async def send(self, events):
            dones.append((work.done, len(events)))
            return await super().send(events)

    work = prepared(embedded, lambda stored: stored.callback.app_id == "15")
    asyncio.run(work.run(Watching(), 0))
    monkeypatch.setattr(replay, "_BATCH_BYTES", 1)
    single = prepared(embedded)
    parts = [len(part.events) for part in single._parts(100)]

    assert dones == [(0, 6), (30, 6), (60, 6), (90, 2)]
    assert (work.done, work.counts.callbacks) == (100, 20)
    assert parts == [1] * 100 + [0]


def test_a_fault_in_the_middle_says_how_to_go_on(
    embedded: JournalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is confirmed is everything up to a position, and going on from there brings the rest once."""
    embedded.store([callback(n) for n in range(1, 26)], confirm=25)

    class Failing(Sending):
        async def send(self, events):
            if len(self.bodies) == 20:
                raise Unavailable("connection_lost", "the connection is gone")
            return await super().send(events)

        async def close(self):
            return None

    broker = Failing()
    monkeypatch.setattr(build, "make_broker", lambda config, metrics: broker)
    done = embedded.run("replay", "--from", "1", "--rate", "100", expect=1)

    assert "connection_lost: the connection is gone." in done.stderr
    assert "Everything up to position 20 is confirmed" in done.stderr
    assert "--from 21 --to 25" in done.stderr
    assert "Published 20 events of 20 callbacks (positions 1 to 20)" in done.stdout


def test_ctrl_c_says_how_to_go_on(embedded: JournalFolder) -> None:
    """In a real process; exit code 130, and the rest comes with the options it names."""
    embedded.store([callback(n) for n in range(1, 201)], confirm=200)
    words = [GATEWAY, "journal", "replay", "--from", "1", "--rate", "20", "--config", str(embedded.path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        broker_file = embedded.folder / "broker.db"
        eventually(lambda: broker_file.exists() and waiting(embedded) >= 4, "some are published")
        running.send_signal(signal.SIGINT)
        out, said = running.communicate(timeout=30)

    assert running.returncode == 130
    assert "Traceback" not in said
    done = int(out.split("positions 1 to ")[1].split(")")[0])
    assert 4 <= done < 200
    assert f"Everything up to position {done} is confirmed" in said
    assert f"--from {done + 1} --to 200" in said
    embedded.run("replay", "--from", str(done + 1), "--to", "200", "--rate", "0")
    assert len({one.message_id for one in taken(embedded, "all", waiting(embedded))}) == 200


def waiting(folder: JournalFolder) -> int:
    async def depth(broker: Broker) -> int:
        return (await broker.depth("all")).ready

    return on_broker(folder, depth)  # type: ignore[return-value]


def test_what_the_broker_refuses_goes_out_without_its_body(
    tmp_path: Path, rabbitmq: RabbitMQ, amqp_url: str
) -> None:
    """As the forwarder did the first time; those around it are as they were."""
    # Why not by its configuration: that takes two restarts of the node.
    before = rabbitmq.ctl("eval", "rabbit_channel:get_max_message_size().").strip()
    rabbitmq.ctl("eval", "application:set_env(rabbit, max_message_size, 20000).")
    try:
        folder = JournalFolder(tmp_path, broker={"url": amqp_url})
        large = callback(7, body=b'{"CallbackCommand":"%s","x":"%s"}' % (EXIT.encode(), b"y" * 50_000))
        stored = [*(callback(n) for n in range(1, 7)), large, *(callback(n) for n in range(8, 21))]
        journal_id = folder.store(stored, confirm=20)
        folder.run("replay", "--from", "1", "--rate", "0")
        bodies = [one.body for one in taken_at_least(folder, "all", 20)]
    finally:
        rabbitmq.ctl("eval", f"application:set_env(rabbit, max_message_size, {before}).")

    others = [event.body for event in expected(journal_id, stored, [n for n in range(1, 21) if n != 7])]
    [malformed] = [json.loads(body) for body in dict.fromkeys(bodies) if body not in others]
    assert (malformed["type"], malformed["position"]) == ("im.malformed", f"{journal_id}.7.0")
    assert malformed["data"] == {"reason": "refused_by_broker"}
    assert [body for body in dict.fromkeys(bodies) if body in others] == others


def taken_at_least(folder: JournalFolder, sink: str, count: int) -> list[Delivery]:
    """Take until *count* different events have come; copies of some may come too."""

    async def take(broker: Broker) -> list[Delivery]:
        found: list[Delivery] = []
        async with broker.consumer(sink, 1000) as consumer:
            while len({one.message_id for one in found}) < count:
                found += await consumer.take(100, 0.1)
        return found

    return on_broker(folder, take)  # type: ignore[return-value]


@pytest.mark.parametrize("declare", ["check", "off"])
def test_a_sink_whose_queue_is_missing_is_named(
    tmp_path: Path, amqp_url: str, rabbitmq: RabbitMQ, declare: str
) -> None:
    """Its exchange would hand all on to im.unrouted, confirmed, and the replay would seem to have worked."""
    folder = JournalFolder(tmp_path, broker={"url": amqp_url})
    folder.store([callback(1)], confirm=1)
    folder.run("replay", "--to", "1", "--sink", "exits")
    vhost = urlsplit(amqp_url).path[1:]
    management.request(rabbitmq.management_port, "DELETE", f"/api/queues/{vhost}/im.sink.exits")
    folder.sections["broker"]["declare"] = declare
    folder.write()
    done = folder.run("replay", "--to", "1", "--sink", "exits", expect=1)
    folder.sections["broker"]["declare"] = "apply"
    folder.write()

    assert "im.sink.exits" in done.stderr
    assert unrouted(folder) == 0
    folder.run("replay", "--to", "1", "--sink", "exits")
    assert len(taken(folder, "exits", 1)) == 1
