"""The journal for tools: beside a running gateway, while segments go, with damage, and nothing is changed."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from gateway.errors import ConfigError, Unavailable
from gateway.journal import open_readonly, readonly
from gateway.journal.files import Segment, list_segments, segment_path
from gateway.journal.reader import Damage
from gateway.record import MAGIC, MAX_POSITION
from tests.test_journal import NOW_MS, callback, fill, running, settings
from tests.test_journal_recovery import crashed, flip, record_ends, rolled

HOUR_MS = 3_600_000


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return what a reader could have changed: names, sizes, times of change and contents."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


async def test_nothing_is_changed_by_reading(tmp_path: Path) -> None:
    """Every way of reading leaves every file as it was, the lock file included."""
    folder = await rolled(tmp_path)
    flip(segment_path(folder, 3), 64 + 1000)
    before = state(folder)
    reader = open_readonly(folder)
    assert [one.position for one in reader.records()] == [1, 2, 4, 5, 6, 7, 8]
    assert len(list(reader.verify())) == 1
    reader.set_aside()

    assert state(folder) == before


async def test_what_is_stored_while_it_opens_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor file may tell of callbacks that were not there yet when the segments were listed."""
    limits = settings(tmp_path)
    loop = asyncio.get_running_loop()
    async with running(limits) as journal:
        await fill(journal, 3)
        cursor = limits.dir / "cursor"

        async def go_on() -> None:
            before = cursor.read_bytes()
            await fill(journal, 4)
            journal.confirm(7)
            while cursor.read_bytes() == before:
                await asyncio.sleep(0.005)

        def listed(folder: Path) -> tuple[Segment, ...]:
            segments = list_segments(folder)
            asyncio.run_coroutine_threadsafe(go_on(), loop).result(10)
            return segments

        monkeypatch.setattr(readonly, "list_segments", listed)
        reader = await asyncio.to_thread(open_readonly, limits.dir)

    assert (reader.head, reader.cursor, reader.first) == (3, 3, 1)
    assert [one.position for one in reader.records()] == [1, 2, 3]
    assert list(reader.verify()) == []


async def test_what_is_trimmed_while_it_is_read_is_counted(tmp_path: Path) -> None:
    """Segments that go are passed over, said, and no damage; what is open is read to its end."""
    folder = await rolled(tmp_path)
    reader, checker = open_readonly(folder), open_readonly(folder)
    records = reader.records(0, 7)
    assert next(records).position == 1
    for first in (1, 3, 5):
        segment_path(folder, first).unlink()

    assert [one.position for one in records] == [2, 7]
    assert (reader.trimmed, reader.lost) == (4, 0)
    assert list(checker.verify()) == []
    assert (checker.trimmed, checker.lost) == (6, 0)


async def test_damage_is_counted_inside_the_range_only(tmp_path: Path) -> None:
    """Positions outside what was asked for do not count as lost."""
    folder = await rolled(tmp_path)
    for first in (3, 5):
        segment_path(folder, first).unlink()
    for after, to, lost in ((0, MAX_POSITION, 4), (3, 7, 3), (0, 4, 2), (4, 5, 1), (6, 8, 0), (0, 2, 0)):
        reader = open_readonly(folder)
        list(reader.records(after, to))

        assert (reader.lost, reader.trimmed) == (lost, 0), (after, to)


async def test_missing_before_the_first_segment(tmp_path: Path) -> None:
    """Waiting callbacks whose files are gone are lost, and said; confirmed ones were trimmed."""
    folder = await rolled(tmp_path)
    segment_path(folder, 1).unlink()
    [damage] = open_readonly(folder).verify()
    async with running(settings(tmp_path)) as journal:
        journal.confirm(4)
    segment_path(folder, 3).unlink()

    assert damage == Damage(folder, 0, 0, 1, 2)
    assert list(open_readonly(folder).verify()) == []


async def test_a_torn_tail_is_told_from_damage(tmp_path: Path) -> None:
    """Bytes behind the last record may be a write under way; the last record damaged is a loss that shows."""
    folder = await crashed(tmp_path)
    with segment_path(folder, 1).open("ab") as file:
        file.write(MAGIC + b"half a record")
    reader = open_readonly(folder)
    [tail] = reader.verify()
    closed = await rolled(tmp_path / "closed")
    last = segment_path(closed, 7)
    flip(last, last.stat().st_size - 1)
    other = open_readonly(closed)
    [damage] = other.verify()

    assert reader.is_torn(tail)
    assert (damage.first_missing, damage.missing, other.lost) == (8, 1, 1)
    assert not other.is_torn(damage)


async def test_without_a_cursor_file_everything_waits(tmp_path: Path) -> None:
    """As the next start sees it: all that is there will be sent again."""
    folder = await rolled(tmp_path)
    segment_path(folder, 1).unlink()
    (folder / "cursor").unlink()
    reader = open_readonly(folder)

    assert (reader.first, reader.cursor, reader.head) == (3, 2, 8)
    assert list(reader.verify()) == []


async def test_sizes_and_what_goes_first(tmp_path: Path) -> None:
    """Retained is what is wholly confirmed, the newest segment too once nothing waits."""
    folder = await rolled(tmp_path)
    sizes = [path.stat().st_size for path in sorted(folder.glob("*.seg"))]
    for cursor, kept in ((1, 0), (2, 1), (5, 2), (8, 4)):
        async with running(settings(tmp_path)) as journal:
            journal.confirm(cursor)
        reader = open_readonly(folder)

        assert (reader.size, reader.retained) == (sum(sizes), sum(sizes[:kept])), cursor


async def test_a_search_by_time_leaves_out_whole_segments(tmp_path: Path) -> None:
    """By when they were last written; an hour of a clock that was set back costs nothing."""
    folder = await rolled(tmp_path)
    for at, first in enumerate((1, 3, 5, 7)):
        stamp_s = (NOW_MS + at * 10 * HOUR_MS) / 1000
        os.utime(segment_path(folder, first), (stamp_s, stamp_s))
    reader = open_readonly(folder)

    assert reader.behind(0) == 0
    assert reader.behind(NOW_MS + HOUR_MS) == 0
    assert reader.behind(NOW_MS + HOUR_MS + 1) == 2
    assert reader.behind(NOW_MS + 21 * HOUR_MS) == 4
    assert reader.behind(NOW_MS + 500 * HOUR_MS) == 6


async def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A fault of the disk or of rights is a sentence; a newer release's record too."""
    folder = await rolled(tmp_path)
    reader = open_readonly(folder)
    segment_path(folder, 5).unlink()
    segment_path(folder, 5).symlink_to(segment_path(folder, 5))  # a loop: open fails, whoever asks
    with pytest.raises(Unavailable, match="can't be read"):
        list(reader.records())
    with pytest.raises(ConfigError, match="can't be read"):
        open_readonly(segment_path(folder, 1))


@pytest.mark.parametrize("seed", range(20))
async def test_checking_without_payloads_finds_the_same(tmp_path: Path, seed: int) -> None:
    """The fast way over good records and the thorough way name the same damage, wherever it stands."""
    rng = random.Random(seed)
    limits = settings(tmp_path)
    async with running(limits) as journal:
        for size in rng.choices((0, 10, 300, 70_000, 300_000), k=40):
            await journal.append(callback(journal.head + 1, size))
    path = segment_path(limits.dir, 1)
    data = bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data))
        if rng.random() < 0.3:
            del data[at : at + rng.choice((1, 100, 5000))]
        else:
            data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    met: list[Damage] = []
    reader = open_readonly(limits.dir)
    found = [one.position for one in reader._walk(0, MAX_POSITION, met)]

    checker = open_readonly(limits.dir)
    assert list(checker.verify()) == met
    assert checker.lost == 40 - len(found)
    for after in rng.sample(range(41), 5):
        assert [one.position for one in reader.records(after)] == [one for one in found if one > after]


async def test_a_record_that_is_not_there_is_missed(tmp_path: Path) -> None:
    """Positions are consecutive, so a file whose records are all good can still lack one."""
    folder = await crashed(tmp_path, 5)
    path = segment_path(folder, 1)
    ends = record_ends(folder, 5)
    data = path.read_bytes()
    path.write_bytes(data[: ends[1]] + data[ends[2] :])
    [damage] = open_readonly(folder).verify()

    assert (damage.size, damage.first_missing, damage.missing) == (0, 3, 1)
