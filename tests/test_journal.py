"""The journal in normal running: a position means durable, groups share a sync, order holds, waiters wake."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway import config
from gateway.callback import Callback
from gateway.errors import ConfigError, JournalFull
from gateway.journal import Journal, Stored
from gateway.metrics import Metrics

NOW_MS = 1_700_000_000_000


def settings(folder: Path, **changes: Any) -> config.Journal:
    """Return settings that do not depend on how full the test machine's disk is."""
    return config.Journal(**{"dir": folder / "journal", "min_free_mb": 0, **changes})


def callback(number: int, size: int = 0) -> Callback:
    """Return a callback that names *number*, with about *size* bytes of body more."""
    body = b'{"n":%d,"pad":"%s"}' % (number, b"x" * size)
    return Callback("1400000000", "a=b", body, "192.0.2.1", NOW_MS + number, True, 1, 10)


@asynccontextmanager
async def running(
    limits: config.Journal, metrics: Metrics | None = None, now_ms: Callable[[], int] = lambda: NOW_MS
) -> AsyncIterator[Journal]:
    """Open a journal and close it afterwards."""
    journal = Journal.open(limits, metrics or Metrics(), now_ms)
    try:
        yield journal
    finally:
        await journal.close()


async def fill(journal: Journal, count: int, size: int = 0) -> list[int]:
    """Append *count* callbacks numbered like the positions they get."""
    first = journal.head + 1
    return await asyncio.gather(*(journal.append(callback(n, size)) for n in range(first, first + count)))


def read_all(journal: Journal, after: int | None = None) -> list[Stored]:
    """Read what is behind *after* (None: the cursor) in small batches."""
    stored: list[Stored] = []
    place = journal.cursor if after is None else after
    while batch := journal.read(place, 7, 1 << 20):
        stored += batch
        place = batch[-1].position
    return stored


def positions(stored: list[Stored]) -> list[int]:
    return [one.position for one in stored]


async def until(is_so: Callable[[], bool]) -> None:
    """Let the writer thread work until *is_so*; there is nothing to await for what it does unasked."""
    for _ in range(2000):
        if is_so():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("did not happen within 10 s")


class Disk:
    """Stands between the journal and its segment files: counts, holds back and fails calls."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.syncs = 0
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.is_syncing = threading.Event()
        self.sync_error: int | None = None
        self.write_error: int | None = None
        self.short_write = 0
        self._fdatasync, self._pwrite = os.fdatasync, os.pwrite
        patch.setattr(os, "fdatasync", self.fdatasync)
        patch.setattr(os, "pwrite", self.pwrite)

    def fdatasync(self, fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".seg"):
            self.syncs += 1
            self.is_syncing.set()
            assert self.may_sync.wait(10)
            if self.sync_error:
                raise OSError(self.sync_error, os.strerror(self.sync_error))
        self._fdatasync(fd)

    def pwrite(self, fd: int, data: Any, at: int) -> int:
        if self.write_error and os.readlink(f"/proc/self/fd/{fd}").endswith((".seg", "probe")):
            if self.short_write:
                done = self._pwrite(fd, data[: self.short_write], at)
                self.short_write = 0
                return done
            raise OSError(self.write_error, os.strerror(self.write_error))
        return self._pwrite(fd, data, at)

    async def syncing(self) -> None:
        """Return when the writer thread is inside fdatasync."""
        assert await asyncio.to_thread(self.is_syncing.wait, 10)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.may_sync.set()


def sample(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"gateway_{name}")


async def test_append_returns_only_after_fdatasync(tmp_path: Path, disk: Disk) -> None:
    """A crash right after a position was given loses nothing."""
    async with running(settings(tmp_path)) as journal:
        disk.may_sync.clear()
        future = journal.append(callback(1))
        await disk.syncing()

        assert not future.done()
        assert (journal.head, journal.read(0, 10, 1000)) == (0, [])
        disk.may_sync.set()
        assert await future == 1
        assert (journal.head, journal.read(0, 10, 1000)) == (1, [Stored(1, callback(1))])


async def test_written_is_told_before_the_sync_and_read_after_it(tmp_path: Path, disk: Disk) -> None:
    """What a machine crash may take back is not shown to the forwarder; the sync follows by itself."""
    async with running(settings(tmp_path)) as journal:
        disk.may_sync.clear()

        assert await journal.append(callback(1), durable=False) == 1
        assert (journal.head, journal.read(0, 10, 1000)) == (0, [])
        await disk.syncing()
        disk.may_sync.set()
        await journal.wait_for(0)
        assert positions(journal.read(0, 10, 1000)) == [1]


async def test_written_and_durable_share_a_group(tmp_path: Path, disk: Disk) -> None:
    """One that waits for the sync makes the others durable with it; each gets its own position."""
    async with running(settings(tmp_path)) as journal:
        disk.may_sync.clear()
        first = journal.append(callback(1))
        await disk.syncing()
        written, durable = journal.append(callback(2), durable=False), journal.append(callback(3))
        disk.may_sync.set()

        assert await asyncio.gather(first, written, durable) == [1, 2, 3]
        assert journal.head == 3


async def test_written_callbacks_are_synced_before_their_segment_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync of a later file must not pass for that of an earlier one."""
    synced: dict[str, int] = {}
    fdatasync = os.fdatasync

    def watched(fd: int) -> None:
        fdatasync(fd)
        synced[os.readlink(f"/proc/self/fd/{fd}")] = os.fstat(fd).st_size

    monkeypatch.setattr(os, "fdatasync", watched)
    monkeypatch.setattr("gateway.journal.writer.WRITTEN_SYNC_S", 1e9)
    limits = settings(tmp_path, segment_mb=1)
    async with running(limits) as journal:
        for number in range(1, 4):
            await journal.append(callback(number, 300_000), durable=False)
        await journal.append(callback(4, 300_000))

        first, second = sorted(limits.dir.glob("*.seg"))
        assert journal.head == 4
        assert synced[str(first)] == first.stat().st_size
        assert synced[str(second)] == second.stat().st_size


async def test_a_thousand_appends_share_few_syncs(tmp_path: Path, disk: Disk) -> None:
    """All callbacks that arrive while one sync runs are one group; positions stay consecutive."""
    metrics = Metrics()
    async with running(settings(tmp_path), metrics) as journal:
        assert sorted(await fill(journal, 1000)) == list(range(1, 1001))
        assert disk.syncs <= 20
        assert sample(metrics, "journal_commit_records_sum") == 1000
        assert sample(metrics, "journal_commit_seconds_count") == disk.syncs
        assert [one.callback for one in read_all(journal)] == [callback(n) for n in range(1, 1001)]


async def test_a_reopened_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    """Id, head, cursor and records outlast the process, and positions continue."""
    async with running(settings(tmp_path)) as journal:
        await fill(journal, 5)
        journal.confirm(3)
        name = journal.id
    async with running(settings(tmp_path)) as journal:
        assert (journal.id, journal.head, journal.cursor, journal.waiting) == (name, 5, 3, 2)
        assert positions(read_all(journal)) == [4, 5]
        assert await journal.append(callback(6)) == 6
        assert positions(read_all(journal)) == [4, 5, 6]
    assert len(name) == 16


async def test_read_keeps_to_its_bounds(tmp_path: Path) -> None:
    """Never more records or bytes than asked for, but one record at least."""
    async with running(settings(tmp_path)) as journal:
        await fill(journal, 10, 1000)

        assert positions(journal.read(0, 3, 10**6)) == [1, 2, 3]
        assert positions(journal.read(3, 100, 2500)) == [4, 5]
        assert positions(journal.read(5, 100, 1)) == [6]
        assert positions(journal.read(6, 100, 10**6)) == [7, 8, 9, 10]
        assert journal.read(10, 100, 10**6) == []


async def test_read_goes_back_and_forth(tmp_path: Path) -> None:
    """After a lost connection the forwarder reads again from the first unconfirmed position."""
    async with running(settings(tmp_path)) as journal:
        await fill(journal, 50)

        assert positions(read_all(journal, 0)) == list(range(1, 51))
        journal.confirm(20)
        for after in (20, 33, 49, 0, 21):
            assert positions(read_all(journal, after)) == list(range(after + 1, 51))


async def test_read_crosses_segments(tmp_path: Path) -> None:
    """Rolling from file to file shows nowhere, neither to a reader that waits nor to one that starts."""
    limits = settings(tmp_path, segment_mb=1)
    async with running(limits) as journal:
        seen = []
        for _ in range(5):
            await fill(journal, 3, 300_000)
            seen += positions(journal.read(journal.head - 3, 10, 10**7))

        assert seen == positions(read_all(journal, 0)) == list(range(1, 16))
        assert len(list(limits.dir.glob("*.seg"))) >= 5
    async with running(limits) as journal:
        assert positions(read_all(journal)) == list(range(1, 16))


async def test_wait_for_returns_when_there_is_more(tmp_path: Path) -> None:
    """The forwarder sleeps until a callback is durable, and not at all when one waits."""
    async with running(settings(tmp_path)) as journal:
        waiting = asyncio.ensure_future(journal.wait_for(1))
        await journal.append(callback(1))
        await journal.wait_for(0)

        assert not waiting.done()
        await journal.append(callback(2))
        await waiting


async def test_confirmed_wakes_in_order_and_only_what_is_reached(tmp_path: Path) -> None:
    """Callers that answer after the broker's confirm go on when the cursor passes them."""
    async with running(settings(tmp_path)) as journal:
        await fill(journal, 100)
        woken: list[int] = []

        async def one(position: int) -> None:
            await journal.confirmed(position)
            woken.append(position)

        tasks = [asyncio.ensure_future(one(position)) for position in range(100, 0, -1)]
        await asyncio.sleep(0)
        journal.confirm(40)
        await journal.confirmed(40)
        await asyncio.gather(*tasks[60:])

        assert woken == list(range(1, 41))
        journal.confirm(100)
        await asyncio.gather(*tasks)
        assert woken == list(range(1, 101))


async def test_a_caller_that_gives_up_leaves_nothing_behind(tmp_path: Path) -> None:
    """During a long outage every caller runs into its deadline; memory must not grow with them."""
    async with running(settings(tmp_path)) as journal:
        await fill(journal, 2)
        kept = asyncio.ensure_future(journal.confirmed(1))
        for position in (1, 2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(journal.confirmed(position), 0.01)

        assert list(journal._cursors._waiting) == [1]
        journal.confirm(2)
        await kept


async def test_the_cursor_only_goes_forward_and_not_above_the_head(tmp_path: Path) -> None:
    """A late confirm changes nothing; one for what is not stored is a fault."""
    async with running(settings(tmp_path)) as journal:
        await fill(journal, 3)
        journal.confirm(2)
        journal.confirm(1)

        assert (journal.cursor, journal.waiting) == (2, 1)
        with pytest.raises(ValueError, match="above"):
            journal.confirm(4)


async def test_oldest_waiting_is_the_first_after_the_cursor(tmp_path: Path) -> None:
    """The age of the backlog is known without the forwarder reading, and follows the cursor."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        assert journal.oldest_waiting_ms is None
        await fill(journal, 5)
        assert journal.oldest_waiting_ms == NOW_MS + 1
        journal.confirm(3)
        assert journal.oldest_waiting_ms == NOW_MS + 4
    async with running(limits) as journal:
        assert journal.oldest_waiting_ms == NOW_MS + 4
        journal.confirm(5)
        assert journal.oldest_waiting_ms is None


async def test_close_finishes_what_is_under_way_and_takes_no_more(tmp_path: Path, disk: Disk) -> None:
    """Callbacks handed over before the close get their position; later ones are refused."""
    journal = Journal.open(settings(tmp_path), Metrics())
    disk.may_sync.clear()
    futures = [journal.append(callback(n)) for n in (1, 2, 3)]
    closing = asyncio.ensure_future(journal.close())
    await disk.syncing()

    with pytest.raises(JournalFull):
        journal.append(callback(4))
    disk.may_sync.set()
    await closing
    assert [future.result() for future in futures] == [1, 2, 3]
    await journal.close()


async def test_a_cancelled_append_is_stored_all_the_same(tmp_path: Path) -> None:
    """A caller that hangs up changes neither positions nor the others' answers."""
    async with running(settings(tmp_path)) as journal:
        gone, kept = journal.append(callback(1)), journal.append(callback(2))
        gone.cancel()

        assert await kept == 2
        assert positions(read_all(journal)) == [1, 2]


async def test_a_field_out_of_range_costs_only_its_caller(tmp_path: Path) -> None:
    """The fault is raised at once and no position is used."""
    async with running(settings(tmp_path)) as journal:
        with pytest.raises(ValueError, match="does not fit"):
            journal.append(Callback("1", "", b"", "", 0, False, -1, 10))

        assert await journal.append(callback(1)) == 1


async def test_metrics_show_head_cursor_and_size(tmp_path: Path) -> None:
    """stored = head, forwarded = cursor, waiting = head - cursor - holes."""
    metrics = Metrics()
    limits = settings(tmp_path)
    async with running(limits, metrics) as journal:
        await fill(journal, 5)
        journal.confirm(2)

        assert sample(metrics, "journal_head_position") == 5
        assert sample(metrics, "journal_cursor_position") == 2
        assert sample(metrics, "journal_waiting_records") == 3
        assert sample(metrics, "journal_full") == 0
        assert sample(metrics, "journal_bytes") == sum(f.stat().st_size for f in limits.dir.glob("*.seg"))


def test_opened_before_the_loop_and_left_open_by_it(tmp_path: Path) -> None:
    """The thread starts with the first use; a loop that ends without close loses nothing."""
    limits = settings(tmp_path)
    journal = Journal.open(limits, Metrics())

    async def use() -> int:
        position = await journal.append(callback(1))
        journal.append(callback(2))
        return position

    assert asyncio.run(use()) == 1
    journal._intake._writer.queue.put(None)
    journal._intake._thread.join(10)

    async def again() -> list[int]:
        async with running(limits) as reopened:
            return positions(read_all(reopened))

    assert asyncio.run(again()) == [1, 2]


async def test_a_second_journal_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    """Two writers would give out the same positions; the message names the other process."""
    async with running(settings(tmp_path)):
        with pytest.raises(ConfigError, match=f"in use by another gateway process .pid {os.getpid()}"):
            Journal.open(settings(tmp_path), Metrics())
    async with running(settings(tmp_path)):
        pass


async def test_files_are_closed_to_other_users(tmp_path: Path) -> None:
    """Bodies hold what people write to each other."""
    limits = settings(tmp_path)
    limits.dir.mkdir(mode=0o755)
    async with running(limits) as journal:
        await fill(journal, 1)

        assert limits.dir.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in limits.dir.iterdir()} == {0o600}


async def test_names_of_new_folders_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal whose folder a power cut takes away is as lost as one that was never synced."""
    synced: set[str] = set()
    fsync = os.fsync

    def watched(fd: int) -> None:
        fsync(fd)
        synced.add(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr(os, "fsync", watched)
    folder = tmp_path / "var" / "lib" / "journal"
    async with running(settings(tmp_path, dir=folder)):
        pass

    assert {str(tmp_path), str(tmp_path / "var"), str(tmp_path / "var/lib"), str(folder)} <= synced


async def test_a_folder_that_cannot_be_used_is_a_config_error(tmp_path: Path) -> None:
    """The message names the key, the folder and the cause."""
    (tmp_path / "journal").write_text("a file")

    with pytest.raises(ConfigError, match=r"journal\.dir: .*journal can't be used"):
        Journal.open(settings(tmp_path), Metrics())
