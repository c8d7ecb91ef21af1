"""Bounds of the journal: full means refused with nothing stored, and what is confirmed goes first."""

import asyncio
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.errors import FatalError, JournalFull
from gateway.journal import Journal, open_readonly
from gateway.journal.files import list_segments
from gateway.journal.room import MB
from gateway.metrics import Metrics
from tests.test_journal import (
    NOW_MS,
    Disk,
    callback,
    disk,
    fill,
    positions,
    read_all,
    running,
    sample,
    settings,
    until,
)

__all__ = ["disk"]
HOUR_MS = 3_600_000


@pytest.fixture(autouse=True)
def _quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.journal.writer.TRIM_S", 0.02)
    monkeypatch.setattr("gateway.journal.writer.CHECK_S", 0.02)
    monkeypatch.setattr("gateway.journal.room.CHECK_S", 0.02)
    monkeypatch.setattr("gateway.journal.room.HOLD_S", 0.0)


def firsts(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.seg"))


def bytes_of(folder: Path) -> int:
    return sum(segment.size for segment in list_segments(folder))


async def fill_up(journal: Journal, size: int = 100_000) -> int:
    """Append until the journal refuses; return how many were stored."""
    stored = 0
    while True:
        try:
            await journal.append(callback(journal.head + 1, size))
        except JournalFull:
            return stored
        stored += 1
        assert stored < 1000


async def test_max_mb_refuses_and_recovers_when_confirmed(tmp_path: Path) -> None:
    """Never more bytes than max_mb; what was stored is there, what was refused is not, positions go on."""
    limits = settings(tmp_path, max_mb=2, segment_mb=1, retain_mb=1)
    metrics = Metrics()
    async with running(limits, metrics) as journal:
        stored = await fill_up(journal)

        assert 15 <= stored < 21
        assert bytes_of(limits.dir) <= 2 * MB
        assert (journal.is_full, sample(metrics, "journal_full")) == (True, 1)
        with pytest.raises(JournalFull):
            journal.append(callback(0))
        assert positions(read_all(journal)) == list(range(1, stored + 1))
        journal.confirm(stored)
        await until(lambda: not journal.is_full)
        assert sample(metrics, "journal_full") == 0
        assert await journal.append(callback(stored + 1)) == stored + 1
        assert positions(read_all(journal)) == [stored + 1]


async def test_pending_callbacks_count_against_max_mb(tmp_path: Path, disk: Disk) -> None:
    """A disk that hangs must not let the memory grow past the bound."""
    async with running(settings(tmp_path, max_mb=2, segment_mb=1, retain_mb=1)) as journal:
        disk.may_sync.clear()
        futures = [journal.append(callback(n, 100_000)) for n in range(1, 21)]
        with pytest.raises(JournalFull):
            journal.append(callback(21, 100_000))

        disk.may_sync.set()
        assert await asyncio.gather(*futures) == list(range(1, 21))


async def test_a_full_journal_does_not_take_single_callbacks(tmp_path: Path) -> None:
    """Above 90 % it stays full: small callbacks must not slip in where a large one was refused."""
    async with running(settings(tmp_path, max_mb=2, segment_mb=1, retain_mb=1)) as journal:
        await fill_up(journal)
        for _ in range(5):
            await asyncio.sleep(0.03)
            with pytest.raises(JournalFull):
                journal.append(callback(0))


async def test_what_is_confirmed_never_makes_the_journal_full(tmp_path: Path) -> None:
    """Retained callbacks give way before anyone is refused, however few bodies the journal can hold."""
    async with running(settings(tmp_path, max_mb=2, segment_mb=1, retain_mb=1)) as journal:
        for position in range(1, 13):
            assert await journal.append(callback(position, 900_000)) == position
            assert bytes_of(tmp_path / "journal") <= 2 * MB
            journal.confirm(position)


async def test_one_waiting_callback_holds_up_a_sixteenth_at_most(tmp_path: Path) -> None:
    """Only whole segments can be given up, so they are smaller than segment_mb where max_mb is small."""
    async with running(settings(tmp_path, max_mb=8, segment_mb=8)) as journal:
        await fill_up(journal)
        journal.confirm(journal.head - 1)
        await until(lambda: not journal.is_full)

        assert await fill_up(journal) * 100_000 > 0.9 * 8 * 15 / 16 * MB


async def test_waiting_bytes_are_those_behind_the_cursor(tmp_path: Path) -> None:
    """Retained segments and confirmed records do not count; the figure survives a restart."""
    limits = settings(tmp_path, segment_mb=1, max_mb=64)
    metrics = Metrics()
    async with running(limits, metrics) as journal:
        await fill(journal, 40, 99_900)
        record = bytes_of(limits.dir) / 40
        place = 0
        while batch := journal.read(place, 7, 1 << 20):
            place = batch[-1].position
            journal.confirm(place)
            assert journal.waiting_bytes == pytest.approx((40 - place) * record, abs=1000)
        assert journal.waiting_bytes == 0
        await fill(journal, 15, 99_900)
        journal.read(40, 10, 1 << 30)
        journal.confirm(45)  # in the middle of what was read at once: up to that batch more is counted

        assert 10 * record - 1000 <= journal.waiting_bytes <= 15 * record + 1000
        assert sample(metrics, "journal_waiting_bytes") == journal.waiting_bytes
        assert bytes_of(limits.dir) > 50 * record
    async with running(limits) as journal:
        assert 10 * record - 1000 <= journal.waiting_bytes <= 15 * record + 1000
        journal.confirm(journal.head)
        assert journal.waiting_bytes == 0


async def test_capacity_is_max_mb_or_what_the_disk_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal's own files count as room, because the confirmed ones can go; min_free_mb does not."""
    free_mb = [1000.0]
    monkeypatch.setattr(
        os, "statvfs", lambda path: SimpleNamespace(f_bavail=int(free_mb[0] * 256), f_frsize=4096)
    )
    metrics = Metrics()
    async with running(settings(tmp_path, max_mb=50, min_free_mb=100), metrics) as journal:
        assert sample(metrics, "journal_capacity_bytes") == 50 * MB
        free_mb[0] = 110
        await fill(journal, 20, 100_000)
        size = bytes_of(tmp_path / "journal")
        await until(lambda: journal.capacity_bytes == 10 * MB + size)
        free_mb[0] = 90
        await until(lambda: journal.capacity_bytes == size)

        assert sample(metrics, "journal_capacity_bytes") == size


async def offer(journal: Journal, count: int, size: int) -> list[bool]:
    """Append *count* callbacks at once; tell which of them were taken."""
    futures: list[asyncio.Future[int] | None] = []
    for number in range(count):
        try:
            futures.append(journal.append(callback(number, size)))
        except JournalFull:
            futures.append(None)
    found = await asyncio.gather(*(one for one in futures if one), return_exceptions=True)
    answers = iter(found)
    return [one is not None and isinstance(next(answers), int) for one in futures]


class Clock:
    """The writer thread's monotonic clock, for tests that move it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr("gateway.journal.writer.time", SimpleNamespace(monotonic=lambda: self.now_s))

    async def forward(self, journal: Journal, by_s: float) -> None:
        """Move it, and return once a full journal has looked at its room again."""
        self.now_s += by_s
        journal._intake.wake()
        room = journal._intake._room
        await until(lambda: not room.is_full or room.checked_s > self.now_s - 0.02)


async def test_a_full_journal_stays_so_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A door that opens for one callback is of no use to anyone; but half of the room opens it at once."""
    monkeypatch.setattr("gateway.journal.room.HOLD_S", 5.0)
    clock = Clock(monkeypatch)
    async with running(settings(tmp_path, max_mb=2, segment_mb=1)) as journal:
        stored = await fill_up(journal)
        await clock.forward(journal, 0.1)
        journal.confirm(stored // 3)
        await clock.forward(journal, 4.8)
        assert journal.is_full

        await clock.forward(journal, 0.2)
        await until(lambda: not journal.is_full)
        await fill_up(journal)
        await clock.forward(journal, 0.1)
        journal.confirm(journal.head - 5)
        await clock.forward(journal, 0.1)
        await until(lambda: not journal.is_full)


@pytest.mark.parametrize(
    ("max_mb", "segment_mb", "size", "per_s"),
    [(10, 10, 1_000_000, 10), (10, 1, 1_000_000, 30), (10, 5, 1000, 2000), (16, 1, 100_000, 100)],
)
async def test_a_slow_broker_does_not_make_the_door_flap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_mb: int, segment_mb: int, size: int, per_s: int
) -> None:
    """It takes a tenth of what comes: few changes, and each opening takes what was published meanwhile."""
    monkeypatch.setattr("gateway.journal.room.HOLD_S", 5.0)
    clock = Clock(monkeypatch)
    tick_s, seconds = 0.1, 40
    changes, stretches = [False], [0]
    published = 0.0
    async with running(settings(tmp_path, max_mb=max_mb, segment_mb=segment_mb)) as journal:
        for tick in range(int(seconds / tick_s)):
            coming = int(per_s * (tick + 1) * tick_s) - int(per_s * tick * tick_s)
            for is_taken in await offer(journal, coming, size):
                if is_taken:
                    stretches[-1] += 1
                elif stretches[-1]:
                    stretches.append(0)
            published = min(published + per_s * tick_s / 10, journal.head)
            journal.confirm(int(published))
            await clock.forward(journal, tick_s)
            if journal.is_full != changes[-1]:
                changes.append(journal.is_full)
        taken = sum(stretches)

        closings = max(seconds / 5, published * size / (0.4 * max_mb * MB))
        assert 1 <= len(changes) - 1 <= 2 * closings + 1
        assert min(stretches[:-1]) >= min(5 * per_s / 10, max_mb * MB / size / 2) - 1
        assert taken >= 0.8 * seconds * per_s / 10
        assert bytes_of(tmp_path / "journal") <= max_mb * MB


async def test_a_full_journal_gives_up_the_active_segment_when_all_is_confirmed(tmp_path: Path) -> None:
    """One large segment may be all there is; it is closed so that it can go, and positions continue."""
    limits = settings(tmp_path, max_mb=2, segment_mb=1, retain_mb=1)
    async with running(limits) as journal:
        stored = await fill_up(journal)
        journal.confirm(stored)
        await until(lambda: not journal.is_full)
        await fill(journal, 1)
        journal.confirm(stored + 1)
    async with running(limits) as journal:
        assert (journal.head, journal.cursor, journal.holes) == (stored + 1, stored + 1, 0)


@pytest.mark.parametrize("what", ["min_free_mb", "quota"])
async def test_a_disk_that_comes_and_goes_does_not_open_the_door_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk, what: str
) -> None:
    """A file of somebody else's that grows and goes; half of what waited opens it here as well."""
    monkeypatch.setattr("gateway.journal.room.HOLD_S", 5.0)
    clock = Clock(monkeypatch)
    free = [10**6]
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free[0], f_frsize=4096))

    async def shut(journal: Journal) -> None:
        clock.now_s += 1
        if what == "quota":
            disk.write_error = errno.EDQUOT
        else:
            free[0] = 1
        with pytest.raises(JournalFull):
            await journal.append(callback(0))
        disk.write_error, free[0] = None, 10**6
        await clock.forward(journal, 0.1)

    async with running(settings(tmp_path, min_free_mb=100)) as journal:
        await fill(journal, 20, 1000)
        await shut(journal)
        await clock.forward(journal, 4.8)
        assert journal.is_full
        await clock.forward(journal, 0.2)
        await until(lambda: not journal.is_full)
        await shut(journal)
        journal.confirm(20)
        await clock.forward(journal, 4.8)
        await until(lambda: not journal.is_full)
        await shut(journal)  # nothing waits: then it is only the disk
        await clock.forward(journal, 4.8)
        assert journal.is_full


async def test_min_free_refuses_with_hysteresis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full below min_free_mb, free again only above 110 % of it."""
    free_mb = [1000.0]
    monkeypatch.setattr(
        os, "statvfs", lambda path: SimpleNamespace(f_bavail=int(free_mb[0] * 256), f_frsize=4096)
    )
    async with running(settings(tmp_path, min_free_mb=100)) as journal:
        await fill(journal, 1)
        free_mb[0] = 99
        await until(lambda: journal.is_full)
        with pytest.raises(JournalFull):
            journal.append(callback(2))
        free_mb[0] = 109
        await asyncio.sleep(0.1)
        assert journal.is_full
        free_mb[0] = 111
        await until(lambda: not journal.is_full)
        await fill(journal, 1)
        free_mb[0] = 101
        await asyncio.sleep(0.1)

        assert not journal.is_full
        assert positions(read_all(journal)) == [1, 2]


async def test_low_disk_space_is_noticed_before_a_group_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first callback after a quiet time is refused too; nothing of it is stored."""
    monkeypatch.setattr("gateway.journal.writer.TRIM_S", 1000.0)
    free = [10**6]
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free[0], f_frsize=4096))
    async with running(settings(tmp_path, min_free_mb=100)) as journal:
        await fill(journal, 1)
        free[0] = 1
        await asyncio.sleep(0.03)
        with pytest.raises(JournalFull):
            await journal.append(callback(2))
        free[0] = 10**6
        await until(lambda: not journal.is_full)

        assert await journal.append(callback(2)) == 2


async def test_low_disk_space_gives_up_confirmed_segments_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention gives way; what waits does not."""
    limits = settings(tmp_path, segment_mb=1, min_free_mb=100)
    monkeypatch.setattr(
        os,
        "statvfs",
        lambda path: SimpleNamespace(f_bavail=(104 * MB - bytes_of(limits.dir)) // 4096, f_frsize=4096),
    )
    async with running(limits) as journal:
        for _ in range(8):
            journal.confirm(journal.head)
            await fill(journal, 1, 700_000)

        await until(lambda: bytes_of(limits.dir) <= 4 * MB)
        assert not journal.is_full
        assert positions(read_all(journal)) == [8]


async def test_trimming_by_size_keeps_the_newest(tmp_path: Path) -> None:
    """retain_mb of confirmed segments stay for a replay; older ones go."""
    limits = settings(tmp_path, segment_mb=1, retain_mb=2)
    async with running(limits) as journal:
        for _ in range(6):
            await fill(journal, 1, 700_000)
        assert firsts(limits.dir) == [1, 2, 3, 4, 5, 6]
        journal.confirm(6)
        await until(lambda: firsts(limits.dir) == [4, 5, 6])

        assert positions(read_all(journal, 0)) == [4, 5, 6]
        assert await journal.append(callback(7, 700_000)) == 7


async def test_trimming_by_age_reaches_the_active_segment_too(tmp_path: Path) -> None:
    """At low traffic retain_h holds as well; after it no confirmed body is on the disk."""
    now_ms = [NOW_MS]
    limits = settings(tmp_path, retain_h=48)
    async with running(limits, now_ms=lambda: now_ms[0]) as journal:
        await fill(journal, 2)
        journal.confirm(2)
        now_ms[0] += 25 * HOUR_MS
        await fill(journal, 1)
        assert firsts(limits.dir) == [1, 3]
        now_ms[0] += 24 * HOUR_MS
        await until(lambda: firsts(limits.dir) == [3])
        now_ms[0] += 49 * HOUR_MS
        await asyncio.sleep(0.1)
        assert firsts(limits.dir) == [3]
        journal.confirm(3)
        await until(lambda: firsts(limits.dir) == [])

        assert await journal.append(callback(4)) == 4
    async with running(limits) as journal:
        assert (journal.head, positions(read_all(journal))) == (4, [4])


async def test_trimming_never_passes_the_cursor(tmp_path: Path) -> None:
    """Without any retention only whole segments behind the cursor go."""
    limits = settings(tmp_path, segment_mb=1, retain_mb=0, retain_h=0)
    async with running(limits) as journal:
        for _ in range(4):
            await fill(journal, 2, 400_000)
        for position in range(1, 9):
            journal.confirm(position)
            # The segments hold 1 and 2, 3 and 4, …; the last one is not closed yet.
            await until(lambda: firsts(limits.dir)[0] == min(7, position // 2 * 2 + 1))  # noqa: B023

            assert positions(read_all(journal)) == list(range(position + 1, 9))
            assert (journal.holes, journal.waiting) == (0, 8 - position)


async def test_a_trimmed_segment_is_behind_the_cursor_on_disk_too(tmp_path: Path) -> None:
    """After a power cut an old cursor would call the trimmed segment a loss, so it is synced first."""
    limits = settings(tmp_path, segment_mb=1, retain_mb=0)
    async with running(limits) as journal:
        await fill(journal, 1, 700_000)
        await fill(journal, 1, 700_000)
        journal.confirm(1)
        await until(lambda: firsts(limits.dir) == [2])

        keeper = journal._intake.keeper
        assert keeper._file.durable.cursor == 1
        assert open_readonly(limits.dir).cursor == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("short_write", [0, 40])
async def test_no_space_refuses_the_group_and_recovers(
    tmp_path: Path, disk: Disk, code: int, short_write: int
) -> None:
    """The torn part is cut off, no position is used, and with room again everything goes on by itself."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        await fill(journal, 3)
        size = bytes_of(limits.dir)
        disk.write_error, disk.short_write = code, short_write
        futures = [journal.append(callback(n)) for n in (4, 5)]
        for future in futures:
            with pytest.raises(JournalFull):
                await future

        assert journal.is_full
        assert bytes_of(limits.dir) == size
        with pytest.raises(JournalFull):
            journal.append(callback(4))
        disk.write_error = None
        await until(lambda: not journal.is_full)
        assert await fill(journal, 2) == [4, 5]
        assert positions(read_all(journal)) == [1, 2, 3, 4, 5]
        assert not (limits.dir / "probe").exists()


async def test_no_space_for_a_new_segment_leaves_no_half_file(tmp_path: Path, disk: Disk) -> None:
    """The first callback ever, on a full disk: refused, and taken once there is room."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        disk.write_error = errno.ENOSPC
        with pytest.raises(JournalFull):
            await journal.append(callback(1))

        assert firsts(limits.dir) == []
        disk.write_error = None
        await until(lambda: not journal.is_full)
        assert await journal.append(callback(1)) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB; needs the right to mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here; the same is tested with a failing pwrite")
    if done.returncode:
        pytest.skip("may not mount a file system here; the same is tested with a failing pwrite")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_really_full_disk(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fill a real file system: refused, nothing lost, confirmed segments make room again."""
    limits = settings(small_disk, segment_mb=1)
    async with running(limits) as journal:
        stored = await fill_up(journal)

        assert stored > 30
        assert positions(read_all(journal)) == list(range(1, stored + 1))
        journal.confirm(stored - 5)
        await until(lambda: not journal.is_full)
        assert await journal.append(callback(stored + 1, 100_000)) == stored + 1
        assert positions(read_all(journal)) == list(range(stored - 4, stored + 2))
    assert any("tmpfs" in r.getMessage() for r in caplog.records)


async def test_a_full_disk_with_one_segment_that_was_just_read(small_disk: Path) -> None:
    """A removed file takes its room as long as it is open: the reader has to let it go."""
    async with running(settings(small_disk, segment_mb=64)) as journal:
        stored = await fill_up(journal)
        assert positions(read_all(journal)) == list(range(1, stored + 1))
        journal.confirm(stored)

        await until(lambda: not journal.is_full)
        assert await journal.append(callback(stored + 1, 100_000)) == stored + 1
        assert positions(read_all(journal)) == [stored + 1]


@pytest.mark.parametrize("where", ["write", "sync"])
async def test_an_io_error_ends_everything_without_a_position(
    tmp_path: Path, disk: Disk, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After a failed fdatasync pages may be lost: nothing is answered, nothing is tried again."""
    journal = Journal.open(settings(tmp_path), Metrics())
    await fill(journal, 2)
    failed = journal.failed
    if where == "write":
        disk.write_error = errno.EIO
    else:
        disk.sync_error = errno.EIO
    syncs = disk.syncs
    futures = [journal.append(callback(n)) for n in (3, 4)]
    with pytest.raises(FatalError, match="Input/output error"):
        await failed

    for future in futures:
        with pytest.raises(FatalError):
            await future
    with pytest.raises(FatalError):
        journal.append(callback(5))
    assert (journal.head, positions(read_all(journal))) == (2, [1, 2])
    assert disk.syncs - syncs <= 1
    with pytest.raises(FatalError):
        await journal.failed
    await journal.close()
    assert [r.levelname for r in caplog.records if "Nothing more is acknowledged" in r.getMessage()] == [
        "CRITICAL"
    ]


async def test_appends_behind_a_failed_sync_get_no_position_either(tmp_path: Path, disk: Disk) -> None:
    """What queued up while the sync was failing is failed with it; nobody waits for ever."""
    journal = Journal.open(settings(tmp_path), Metrics())
    disk.may_sync.clear()
    futures = [journal.append(callback(1))]
    await disk.syncing()
    futures += [journal.append(callback(n)) for n in range(2, 50)]
    disk.sync_error = errno.EIO
    disk.may_sync.set()
    results = await asyncio.gather(*futures, return_exceptions=True)

    assert {type(result) for result in results} == {FatalError}
    assert journal.head == 0
    await journal.close()


async def test_a_failed_sync_of_the_folder_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a durable name a new segment's records may be gone after a crash."""
    journal = Journal.open(settings(tmp_path), Metrics())

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(FatalError):
        await journal.append(callback(1))
    with pytest.raises(FatalError):
        await journal.failed
    await journal.close()


async def test_a_fault_of_our_own_in_the_thread_is_fatal_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread that died unseen would leave every caller waiting."""
    journal = Journal.open(settings(tmp_path), Metrics())
    monkeypatch.setattr("gateway.journal.writer.header", None)
    with pytest.raises(FatalError):
        await journal.append(callback(1))

    assert any(r.exc_info for r in caplog.records)
    await journal.close()


async def test_written_callbacks_are_synced_when_the_journal_closes(tmp_path: Path, disk: Disk) -> None:
    """A clean stop makes durable what was only written."""
    journal = Journal.open(settings(tmp_path), Metrics())
    assert await journal.append(callback(1), durable=False) == 1
    await journal.close()

    assert disk.syncs == 1
    assert journal.head == 1
