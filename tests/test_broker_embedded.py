"""What only the embedded broker has: a file, processes that share it, and disks that fill up."""

import asyncio
import fcntl
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from gateway.broker import Unconfirmed, embedded_channels, embedded_file, embedded_rows, embedded_store
from gateway.broker.embedded import Embedded
from gateway.broker.embedded_file import _SCHEMA, APPLICATION_ID, CONNECTION, FORMAT, File
from gateway.errors import Unavailable
from gateway.metrics import Metrics
from gateway.topology import UNROUTED_TTL_MS, Topology
from tests.test_brokers import ALL, drain, make_event, make_events, numbers, publish, take

PROCESS = """
import asyncio, sys
from pathlib import Path
from gateway.broker.embedded import Embedded
from gateway.metrics import Metrics
from gateway.topology import Topology
from tests.test_brokers import make_events, take

async def publish(broker, batches):
    async with broker.publisher() as publisher:
        for first in range(0, int(batches) * 10, 10):
            await (await publisher.send(make_events(10, first)))
            print(first + 10, flush=True)

async def flood(broker, batches):
    async with broker.publisher() as publisher:
        confirms = []
        for number in range(int(batches)):
            confirms.append(await publisher.send(make_events(1, number)))
            if number >= 8:
                await confirms[number - 8]
            print(number, flush=True)

async def hold(broker, count):
    async with broker.consumer("all", 100) as consumer:
        taken = await take(consumer, int(count))
        await consumer.ack(taken[:2])
        print("holds", flush=True)
        await asyncio.sleep(60)

async def main(what, path, argument):
    broker = Embedded(Path(path), Topology.of("im.events", {"all": ("#",)}), Metrics())
    await {"publish": publish, "flood": flood, "hold": hold}[what](broker, argument)
    await broker.close()

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def process(what: str, path: Path, argument: int) -> Iterator[subprocess.Popen[str]]:
    """Another process on the same file; killed with SIGKILL at the end of the block."""
    command = [sys.executable, "-c", PROCESS, what, str(path), str(argument)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as running:
        try:
            yield running
        finally:
            running.kill()


def read_line(running: subprocess.Popen[str]) -> str:
    assert running.stdout
    return running.stdout.readline().strip()


@asynccontextmanager
async def opened(path: Path, now_ms: Callable[[], int] | None = None) -> AsyncIterator[Embedded]:
    topology = Topology.of("im.events", ALL)
    clock = {"now_ms": now_ms} if now_ms else {}
    broker = Embedded(path, topology, Metrics(), **clock)
    try:
        yield broker
    finally:
        await broker.close()


@asynccontextmanager
async def opened_without_sinks(path: Path, now_ms: Callable[[], int]) -> AsyncIterator[Embedded]:
    broker = Embedded(path, Topology.of("im.events", {}), Metrics(), now_ms)
    try:
        yield broker
    finally:
        await broker.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


async def test_killed_publisher_loses_nothing_confirmed(path: Path) -> None:
    """After kill -9 every confirmed event is there, in order, and no batch by half."""
    with process("publish", path, 100_000) as running:
        for _ in range(30):
            confirmed = int(read_line(running))
    async with opened(path) as broker:
        stored = (await broker.depth("all")).ready

        assert stored >= confirmed
        assert stored % 10 == 0
        assert await drain(broker, "all", stored) == list(range(stored))


async def test_killed_consumer_frees_its_sink_at_once(path: Path) -> None:
    """After kill -9 the next consumer is let in at once and begins at the first event not settled."""
    async with opened(path) as broker:
        await publish(broker, make_events(6))
        with process("hold", path, 4) as running:
            assert read_line(running) == "holds"
            with pytest.raises(Unavailable, match=f"process {running.pid}") as refused:
                async with broker.consumer("all", 10):
                    pass
            assert refused.value.reason == "in_use"

        assert await drain(broker, "all", 4) == [2, 3, 4, 5]


async def test_two_processes_publish_and_consume_at_full_speed(path: Path) -> None:
    """Both get their turns: neither is told that the file is locked, and order is kept."""
    with process("publish", path, 200):
        async with opened(path) as broker, broker.consumer("all", 500) as consumer:
            taken: list[int] = []
            while len(taken) < 2000:
                batch = await consumer.take(50, 0)
                await consumer.ack(batch)
                taken += numbers(batch)

    assert taken == list(range(2000))


async def test_a_busy_publisher_does_not_starve_a_consumer(path: Path) -> None:
    """Beside a process that always has the next batch ready, acknowledgements get their turns."""
    waits_s: list[float] = []
    async with opened(path) as broker, broker.consumer("all", 100) as consumer:
        with process("flood", path, 1_000_000) as running:
            read_line(running)
            for _ in range(20):
                taken = await take(consumer, 1)
                start = time.monotonic()
                await consumer.ack(taken)
                waits_s.append(time.monotonic() - start)

    assert sorted(waits_s)[10] < 0.3  # without turns: 1.6 s


async def test_a_turn_that_never_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped in its turn is an Unavailable for the others, not a wait without end."""
    async with opened(path) as broker:
        await publish(broker, make_events(1))
        monkeypatch.setattr(embedded_file, "BUSY_TIMEOUT_S", 0.05)
        with path.with_name(f"{path.name}.turn").open("rb") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            with pytest.raises(Unavailable) as locked:
                await broker.depth("all")
        assert locked.value.reason == "locked"

        assert (await broker.depth("all")).ready == 1


async def test_events_of_another_process_are_seen_soon(path: Path) -> None:
    """An idle consumer looks for what others published; here another object stands for the process."""
    async with opened(path) as ours, opened(path) as theirs, ours.consumer("all", 10) as consumer:
        waiting = asyncio.ensure_future(consumer.take(1, 0))
        await asyncio.sleep(0.1)
        await publish(theirs, make_events(1))
        start = time.monotonic()

        assert numbers(await waiting) == [0]
        assert time.monotonic() - start < 1


async def test_events_of_this_process_are_seen_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher wakes the consumers beside it; they do not wait for the next look."""
    monkeypatch.setattr(embedded_channels, "POLL_S", 60)
    async with opened(path) as broker, broker.consumer("all", 10) as consumer:
        waiting = asyncio.ensure_future(consumer.take(1, 0))
        await asyncio.sleep(0.05)
        await publish(broker, make_events(1))

        assert numbers(await asyncio.wait_for(waiting, 5)) == [0]


async def test_one_consumer_a_sink(path: Path) -> None:
    """A second consumer of a sink is refused, and let in once the first is closed."""
    async with opened(path) as broker, opened(path) as other:
        async with broker.consumer("all", 1):
            for one in (broker, other):
                with pytest.raises(Unavailable, match="one process only"):
                    async with one.consumer("all", 1):
                        pass
        async with other.consumer("all", 1):
            pass


async def test_a_body_stays_until_its_last_delivery_is_settled(path: Path) -> None:
    """The file holds each body once, and not longer than a sink needs it."""

    def bodies() -> int:
        with sqlite3.connect(path) as db:
            [(count,)] = db.execute("SELECT count(*) FROM events")
        db.close()
        return int(count)

    broker = Embedded(path, Topology.of("im.events", {"a": ("#",), "b": ("#",)}), Metrics())
    await publish(broker, make_events(3))
    assert bodies() == 3
    await drain(broker, "a", 3)
    assert bodies() == 3
    async with broker.consumer("b", 10) as consumer:
        taken = await take(consumer, 3)
        await consumer.ack(taken[:1])
        await consumer.park(taken[1], "bad_value")
    assert bodies() == 2
    await drain(broker, "b", 1)
    assert bodies() == 1
    await broker.close()


async def test_unrouted_is_bounded_in_bytes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go when the bodies would take more than the bound; they are counted."""
    monkeypatch.setattr(embedded_store, "UNROUTED_BYTES", 1000)
    async with opened_without_sinks(path, lambda: 1_000_000_000_000) as broker:
        await publish(broker, [make_event(number, body=b"%99d" % number) for number in range(12)])
        assert await broker.unrouted() == 10
        await publish(broker, [make_event(12, body=b"%400d" % 12)])
        assert await broker.unrouted() == 7
        assert "6 of those were dropped" in await broker.check()
    async with opened(path, lambda: 1_000_000_000_000) as later:
        assert await later.rescue() == 7
        assert await drain(later, "all", 7) == [6, 7, 8, 9, 10, 11, 12]


async def test_unrouted_is_bounded_in_time(path: Path) -> None:
    """What is older than the bound is not counted, not rescued, and goes with the next event."""
    now_ms = 1_000_000_000_000
    async with opened_without_sinks(path, lambda: now_ms) as broker:
        await publish(broker, make_events(2))
        now_ms += UNROUTED_TTL_MS // 2
        await publish(broker, make_events(1, 2))
        now_ms += UNROUTED_TTL_MS // 2
        assert await broker.unrouted() == 1
        assert "0 of those were dropped" in await broker.check()
        await publish(broker, make_events(1, 3))
        assert "2 of those were dropped" in await broker.check()
    async with opened(path, lambda: now_ms) as later:
        assert await later.rescue() == 2
        assert await drain(later, "all", 2) == [2, 3]


async def test_rescue_in_many_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long unrouted queue is rescued in several transactions, without gaps or repeats."""
    monkeypatch.setattr(embedded_store, "RESCUE_EVENTS", 3)
    async with opened_without_sinks(path, lambda: 1_000_000_000_000) as broker:
        await publish(broker, make_events(10))
        assert await broker.rescue() == 0
        assert await broker.unrouted() == 10
    async with opened(path, lambda: 1_000_000_000_000) as later:
        assert await later.rescue() == 10
        assert await later.unrouted() == 0
        assert await drain(later, "all", 10) == list(range(10))


async def test_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch for which there is no room fails, so does all that is queued behind it; the rest stays."""
    async with opened(path) as broker:
        await publish(broker, make_events(2))
    full = (*CONNECTION, f"PRAGMA max_page_count = {os.path.getsize(path) // 4096 + 4}")
    monkeypatch.setattr(embedded_file, "CONNECTION", full)
    async with opened(path) as broker:
        async with broker.publisher() as publisher:
            big = await publisher.send([make_event(2), make_event(3, body=bytes(100_000))])
            small = await publisher.send(make_events(1, 4))
            with pytest.raises(Unconfirmed, match="disk_full") as failed:
                await big
            assert failed.value.reason == "closed"
            with pytest.raises(Unconfirmed):
                await small
            with pytest.raises(Unavailable):
                await publisher.send(make_events(1))
        monkeypatch.setattr(embedded_file, "CONNECTION", CONNECTION)
        await publish(broker, make_events(1, 2))

        assert await drain(broker, "all", 3) == [0, 1, 2]


async def test_full_disk_while_settling(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ack that could not be written is an Unavailable, and what it was for stays unsettled."""
    async with opened(path) as broker, broker.consumer("all", 10) as consumer:
        await publish(broker, make_events(2))
        taken = await take(consumer, 2)
        with monkeypatch.context() as patch:
            patch.setattr(File, "writing", _full)
            with pytest.raises(Unavailable, match="disk_full"):
                await consumer.ack(taken)
            assert (await broker.depth("all")).unacked == 2
        await consumer.ack(taken)

        assert (await broker.depth("all")).unacked == 0


@contextmanager
def _full(file: File) -> Iterator[sqlite3.Connection]:
    raise Unavailable("disk_full")
    yield


async def test_locked_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that stays is an Unavailable after a while; once it is gone, all is well."""
    monkeypatch.setattr(embedded_file, "BUSY_TIMEOUT_S", 0.05)
    async with opened(path) as broker:
        await publish(broker, make_events(1))
        with _locked(path):
            with pytest.raises(Unavailable) as locked:
                await broker.check()
            assert locked.value.reason == "locked"
            with pytest.raises(Unconfirmed, match="locked"):
                await publish(broker, make_events(1, 1))
        await publish(broker, make_events(1, 1))

        assert await drain(broker, "all", 2) == [0, 1]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    yield
    db.close()


async def test_newer_format_is_left_alone(path: Path) -> None:
    """A file that a newer release wrote is refused with words, and not changed."""
    async with opened(path) as broker:
        await publish(broker, make_events(1))
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    db.close()
    before = path.read_bytes()
    async with opened(path) as broker:
        with pytest.raises(Unavailable, match="newer gateway wrote it") as refused:
            await broker.check()
        with pytest.raises(Unavailable, match="newer gateway wrote it"):
            async with broker.publisher():
                pass

    assert refused.value.reason == "newer_format"
    assert path.read_bytes() == before


async def test_a_file_of_format_1_is_brought_up(path: Path) -> None:
    """What an older release left in it is delivered, and never taken for what came by a pattern."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as db:
        for statement in _SCHEMA:
            db.execute(statement)
        db.execute("INSERT INTO events VALUES (1, 'id-0', 'k', 'group/1', x'30')")
        db.execute("INSERT INTO deliveries (sink, seq) VALUES ('all', 1)")
    db.close()
    async with opened(path) as broker:
        await publish(broker, make_events(1, 1))
        async with broker.consumer("all", 10) as consumer:
            old, new = await take(consumer, 2)
            await consumer.park(old, "bad_value")
        [dead] = await broker.peek("all", 1, dead=True)

    assert [(one.body, one.is_routed) for one in (old, new)] == [(b"0", False), (b"1", True)]
    assert str(dead.headers["history"]).endswith(" all bad_value")


async def test_foreign_file_is_left_alone(path: Path) -> None:
    """A SQLite file of something else (a sink's, by a slip in the configuration) gets no tables of ours."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (a)")
    db.close()
    before = path.read_bytes()
    async with opened(path) as broker:
        with pytest.raises(Unavailable, match="another program") as refused:
            await broker.check()

    assert refused.value.reason == "foreign_file"
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no SQLite file at all" * 1000, b"torn"])
async def test_damaged_file(path: Path, content: bytes) -> None:
    """A file that is not readable says what to do, and is kept."""
    async with opened(path) as broker:
        await publish(broker, make_events(1))
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096) if content == b"torn" else content)
    async with opened(path) as broker:
        with pytest.raises(Unavailable, match="move it away") as refused:
            await publish(broker, make_events(1))
        assert "damaged" in str(refused.value)


async def test_file_deleted_while_in_use(path: Path) -> None:
    """Nothing is confirmed into a file that nobody can open any more; putting it back is enough."""
    async with opened(path) as broker:
        await publish(broker, make_events(1))
        away = path.rename(path.with_name("away.db"))
        with pytest.raises(Unavailable, match="moved, deleted or replaced"):
            await publish(broker, make_events(1))
        assert not path.exists()
        away.rename(path)
        await publish(broker, make_events(1, 1))

        assert await drain(broker, "all", 2) == [0, 1]


async def test_path_that_is_a_folder(tmp_path: Path) -> None:
    """A path that can't be a file is an Unavailable with the path in it."""
    async with opened(tmp_path) as broker:
        with pytest.raises(Unavailable, match=str(tmp_path)) as refused:
            await broker.check()

    assert refused.value.reason == "io_error"


async def test_file_is_private_and_its_folders_are_made(tmp_path: Path) -> None:
    """Events hold personal data, so only the owner may read the file and what stands beside it."""
    path = tmp_path / "a b%" / "c" / "broker.db"
    async with opened(path) as broker, broker.consumer("all", 1):
        await publish(broker, make_events(1))
        names = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}

    assert set(names) == {"broker.db", "broker.db-journal", "broker.db.turn", "broker.db.all.lock"}
    assert set(names.values()) == {0o600}


def test_every_commit_is_synced(path: Path) -> None:
    """Only this pair of settings has the commit itself on disk when it returns."""
    file = File(path)
    with file.reading() as db:
        settings = [
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "user_version", "application_id")
        ]
    file.close()

    assert settings == ["truncate", 2, FORMAT, APPLICATION_ID]


async def test_event_that_cannot_be_stored(path: Path) -> None:
    """A lone surrogate is the content's fault: rejected, and nothing of its batch is stored."""
    async with opened(path) as broker:
        with pytest.raises(Unconfirmed) as failed:
            await publish(broker, [make_event(0), make_event(1, key="\ud800")])
        assert failed.value.reason == "rejected"
        await publish(broker, make_events(1))

        assert await drain(broker, "all", 1) == [0]


async def test_cancelled_confirm_takes_nothing_out(path: Path) -> None:
    """A caller that stops waiting for one batch does not change what is stored."""
    async with opened(path) as broker, broker.publisher() as publisher:
        confirms = [await publisher.send(make_events(1, number)) for number in range(5)]
        confirms[2].cancel()
        await confirms[4]

        assert await drain(broker, "all", 5) == [0, 1, 2, 3, 4]


async def test_closing_with_batches_under_way(path: Path) -> None:
    """Every future ends, confirmed or not, and what is stored is a beginning of what was sent."""
    async with opened(path) as broker, broker.publisher() as publisher:
        confirms = [await publisher.send(make_events(1, number)) for number in range(20)]
        await confirms[0]
    ends = await asyncio.gather(*confirms, return_exceptions=True)
    confirmed = [end is None for end in ends]
    assert confirmed == sorted(confirmed, reverse=True)
    assert all(end is None or isinstance(end, Unconfirmed) for end in ends)
    async with opened(path) as broker:
        count = sum(confirmed)
        assert await drain(broker, "all", count) == list(range(count))


async def test_settling_twice_is_an_error_of_the_caller(path: Path) -> None:
    """Else an ack after a retry would delete the event that is to come again."""
    async with opened(path) as broker, broker.consumer("all", 10) as consumer:
        await publish(broker, make_events(2))
        first, second = await take(consumer, 2)
        await consumer.retry(first, "busy")
        under_way = asyncio.ensure_future(consumer.ack([second]))
        await asyncio.sleep(0)
        for delivery in (first, second):
            with pytest.raises(ValueError, match="settled once"):
                await consumer.ack([delivery])
        await under_way
        assert (await broker.depth("all")).retry == 1


async def test_cancelled_ack_is_done_all_the_same(path: Path) -> None:
    """A worker that is cancelled in its ack leaves neither a hole in prefetch nor a stuck event."""
    async with opened(path) as broker, broker.consumer("all", 1) as consumer:
        await publish(broker, make_events(2))
        taken = await take(consumer, 1)
        acking = asyncio.ensure_future(consumer.ack(taken))
        await asyncio.sleep(0)
        acking.cancel()

        assert numbers(await take(consumer, 1)) == [1]


async def test_take_is_bounded_in_bytes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long bodies make smaller batches, but at least one event comes; no more while so much is unsettled."""
    for module in (embedded_rows, embedded_channels):
        monkeypatch.setattr(module, "READ_MAX_BYTES", 1000)
    async with opened(path) as broker, broker.consumer("all", 10) as consumer:
        lengths = (400, 400, 400, 5000, 10)
        await publish(broker, [make_event(at, body=bytes(size)) for at, size in enumerate(lengths)])
        batches = []
        for _ in range(3):
            taken = await consumer.take(10, 0.01)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(consumer.take(10, 0), 0.1)
            await consumer.ack(taken)
            batches.append([len(one.body) for one in taken])

    assert batches == [[400, 400, 400], [5000], [10]]


async def test_take_returns_early_without_room(path: Path) -> None:
    """Where prefetch leaves no room, there is nothing to wait for."""
    async with opened(path) as broker, broker.consumer("all", 2) as consumer:
        await publish(broker, make_events(3))

        assert numbers(await asyncio.wait_for(consumer.take(10, 60), 5)) == [0, 1]


async def test_retries_survive_a_clock_read_at_restart(path: Path) -> None:
    """The delay counts on while no process runs."""
    now_ms = 1_000_000_000_000
    async with opened(path, lambda: now_ms) as broker, broker.consumer("all", 10) as consumer:
        await publish(broker, make_events(1))
        [delivery] = await take(consumer, 1)
        await consumer.retry(delivery, "busy")
    now_ms += 6000
    async with opened(path, lambda: now_ms) as broker:
        depth = await broker.depth("all")

        assert (depth.ready, depth.retry) == (1, 0)
        assert await drain(broker, "all", 1) == [0]


async def test_use_after_close(path: Path) -> None:
    """A closed broker refuses everything with Unavailable, and its channels end with it."""
    async with opened(path) as broker:
        async with broker.publisher() as publisher, broker.consumer("all", 1) as consumer:
            waiting = asyncio.ensure_future(consumer.take(1, 0))
            await asyncio.sleep(0.02)
            await broker.close()
            with pytest.raises(Unavailable):
                await waiting
            with pytest.raises(Unavailable):
                await publisher.send(make_events(1))
        with pytest.raises(Unavailable):
            await broker.depth("all")
    async with opened(path) as again, again.consumer("all", 1):
        pass
