"""What the journal survives: kills, torn tails, flipped bytes, lost files, and what it refuses to touch."""

import asyncio
import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import record
from gateway.callback import Callback
from gateway.errors import ConfigError, FatalError, Unavailable
from gateway.journal import Journal, open_readonly
from gateway.journal.cursor import CursorFile, Hint, Progress
from gateway.journal.files import HEADER_BYTES, META_MAGIC, SEGMENT_MAGIC, Header, segment_path
from gateway.journal.filesystem import filesystem_of, filesystem_warning
from gateway.journal.recovery import open_folder
from gateway.metrics import Metrics
from gateway.record import Salt
from tests.test_journal import (
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

COUNT = 3


async def crashed(folder: Path, count: int = COUNT) -> Path:
    """Return a folder with *count* callbacks as a killed process leaves it: nothing was closed."""
    limits = settings(folder)
    async with running(limits) as journal:
        for _ in range(count):
            await fill(journal, 1)
        shutil.copytree(limits.dir, folder / "crashed")
    return folder / "crashed"


async def rolled(folder: Path, count: int = 4) -> Path:
    """Return a cleanly closed journal of *count* segments, with two callbacks each."""
    limits = settings(folder, segment_mb=1)
    async with running(limits) as journal:
        for _ in range(count):
            await fill(journal, 2, 400_000)
    assert len(list(limits.dir.glob("*.seg"))) == count
    return limits.dir


def segment(folder: Path) -> Path:
    (path,) = folder.glob("*.seg")
    return path


def record_ends(folder: Path, count: int = COUNT) -> list[int]:
    """Return the offsets at which the first *count* records end."""
    ends = [HEADER_BYTES]
    for number in range(1, count + 1):
        ends.append(ends[-1] + record.HEADER_BYTES + len(record.pack(callback(number))))
    return ends[1:]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


async def test_a_tail_torn_at_any_byte_costs_only_what_was_torn(tmp_path: Path) -> None:
    """Whole records stay, the rest is kept aside and cut, and appending goes on."""
    source = await crashed(tmp_path)
    ends = record_ends(source)
    for cut in range(segment(source).stat().st_size):
        folder = tmp_path / f"cut{cut}"
        shutil.copytree(source, folder / "journal")
        os.truncate(segment(folder / "journal"), cut)
        whole = sum(end <= cut for end in ends)
        metrics = Metrics()
        async with running(settings(folder), metrics) as journal:
            assert (journal.head, journal.holes) == (whole, 0)
            assert await journal.append(callback(whole + 1)) == whole + 1
            assert [s.callback for s in read_all(journal)] == [callback(n) for n in range(1, whole + 2)]
            assert sample(metrics, "journal_lost_records_total") == 0
        # Without any good record the whole file is set aside, header included.
        torn = cut - ends[whole - 1] if whole else cut if cut > HEADER_BYTES else 0
        kept = list((folder / "journal" / "damaged").glob("*.bin"))
        assert [path.stat().st_size for path in kept] == ([torn] if torn > 0 else [])


async def test_a_long_torn_tail_is_gone_from_the_file(tmp_path: Path) -> None:
    """The next record stands where the tail began, with nothing of that behind it."""
    limits = settings(tmp_path / "again")
    shutil.copytree(await crashed(tmp_path), limits.dir)
    path = segment(limits.dir)
    path.write_bytes(path.read_bytes() + bytes(5000))
    async with running(limits) as journal:
        await fill(journal, 1)

        assert path.stat().st_size == record_ends(limits.dir, COUNT + 1)[-1]


async def test_a_flipped_byte_anywhere_costs_one_callback_and_is_counted(tmp_path: Path) -> None:
    """Segment, meta or cursor file: all other callbacks come out, and head = read + holes."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        await fill(journal, COUNT)
        name = journal.id
    path = segment(limits.dir)
    ends = record_ends(limits.dir)
    places = [(path.name, at) for at in range(ends[-1])]
    places += [("meta", at) for at in range(HEADER_BYTES)]
    places += [("cursor", at) for at in (*range(0, 60, 3), *range(4096, 4156, 3))]
    for number, (file, at) in enumerate(places):
        folder = tmp_path / f"flip{number}"
        shutil.copytree(limits.dir, folder / "journal")
        flip(folder / "journal" / file, at)
        hit = sum(end <= at for end in ends) + 1 if file == path.name and at >= HEADER_BYTES else 0
        metrics = Metrics()
        async with running(settings(folder), metrics) as journal:
            left = [n for n in range(1, COUNT + 1) if n != hit]
            stored = read_all(journal)
            assert [s.callback for s in stored] == [callback(n) for n in left]
            assert (journal.id, journal.head, journal.waiting) == (name, COUNT, len(left))
            # A hole right behind the cursor is passed at once.
            assert (journal.cursor, journal.holes) == ((1, 0) if hit == 1 else (0, 1 if hit else 0))
            assert sample(metrics, "journal_lost_records_total") == (1 if hit else 0)
            assert await journal.append(callback(4)) == 4
            assert positions(read_all(journal, 3)) == [4]
        if hit:
            (kept,) = (folder / "journal" / "damaged").glob("*.bin")
            assert kept.read_bytes()


async def test_damage_met_while_running_is_named_once_and_passed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One ERROR line with file, offset, bytes and positions; confirming goes on behind the hole."""
    limits = settings(tmp_path)
    metrics = Metrics()
    async with running(limits, metrics) as journal:
        await fill(journal, 6)
        ends = record_ends(limits.dir)
        flip(segment(limits.dir), ends[0] + 30)
        flip(segment(limits.dir), ends[1] + 30)
        waiting = asyncio.ensure_future(journal.confirmed(2))
        await asyncio.sleep(0)

        assert positions(read_all(journal)) == positions(read_all(journal, 0)) == [1, 4, 5, 6]
        assert (journal.holes, journal.waiting) == (2, 4)
        with pytest.raises(Unavailable, match="journal_lost"):
            await waiting
        with pytest.raises(Unavailable, match="journal_lost"):
            await journal.confirmed(3)
        journal.confirm(1)
        assert (journal.cursor, journal.holes, journal.waiting) == (3, 0, 3)
        (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
        size = ends[2] - ends[0]
        assert f"{size} bytes at offset {ends[0]}" in line
        assert "2 callbacks are lost (positions 2 to 3)" in line
        assert (limits.dir / "damaged" / f"{1:020d}-{ends[0]}.bin").stat().st_size == size
        assert sample(metrics, "journal_lost_records_total") == 2


async def test_damage_at_the_end_does_not_hold_up_the_forwarder(tmp_path: Path) -> None:
    """When the last callbacks are lost, wait_for waits for the next instead of returning for nothing."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        await fill(journal, 3)
        flip(segment(limits.dir), record_ends(limits.dir)[1] + 30)
        assert positions(read_all(journal)) == [1, 2]
        assert journal.read(2, 10, 1000) == []

        waiting = asyncio.ensure_future(journal.wait_for(2))
        await asyncio.sleep(0)
        assert not waiting.done()
        journal.confirm(2)
        assert (journal.cursor, journal.waiting, journal.oldest_waiting_ms) == (3, 0, None)
        await fill(journal, 1)
        await waiting
        assert positions(journal.read(2, 10, 1000)) == [4]


async def test_a_forged_record_in_a_damaged_body_stays_a_body(tmp_path: Path) -> None:
    """Damage in front of a body must not bring the record to life that a stranger put into it."""
    limits = settings(tmp_path)
    forged = record.encode(2, callback(666), Salt.of(bytes(16)))
    async with running(limits) as journal:
        await journal.append(Callback("1", "", b"{" + forged + b"}", "", 0, False, 1, 10))
        await fill(journal, 1)
        flip(segment(limits.dir), HEADER_BYTES + 5)

        assert [s.callback for s in read_all(journal)] == [callback(2)]


async def test_a_segment_without_a_record_is_survived(tmp_path: Path) -> None:
    """A crash right after a segment's creation leaves nothing, half a header, or just a header."""
    header = Header("00" * 8, bytes(16), 7, 0).pack(SEGMENT_MAGIC)
    for number, content in enumerate((b"", header[:20], bytes(64), bytes(200))):
        source = await crashed(tmp_path / str(number))
        shutil.move(source, tmp_path / str(number) / "again" / "journal")
        limits = settings(tmp_path / str(number) / "again")
        segment_path(limits.dir, COUNT + 1).write_bytes(content)
        async with running(limits) as journal:
            assert (journal.head, journal.holes) == (COUNT, 0)
            assert await journal.append(callback(4)) == 4
            assert positions(read_all(journal)) == [1, 2, 3, 4]


async def test_the_name_of_an_empty_segment_tells_what_was_in_use(tmp_path: Path) -> None:
    """Records that are gone from the file before it are a counted loss; their positions stay used."""
    limits = settings(tmp_path / "again")
    shutil.copytree(await crashed(tmp_path), limits.dir)
    segment_path(limits.dir, 9).write_bytes(b"")
    async with running(limits) as journal:
        assert (journal.head, journal.holes, journal.waiting) == (8, 5, 3)
        assert await journal.append(callback(9)) == 9
        assert positions(read_all(journal)) == [1, 2, 3, 9]


async def test_a_missing_segment_is_a_counted_hole(tmp_path: Path) -> None:
    """Whichever is gone: the first, one in the middle, or the last."""
    source = await rolled(tmp_path)
    for gone in range(4):
        limits = settings(tmp_path / str(gone), segment_mb=1)
        shutil.copytree(source, limits.dir)
        segment_path(limits.dir, 1 + 2 * gone).unlink()
        metrics = Metrics()
        async with running(limits, metrics) as journal:
            left = [n for n in range(1, 9) if (n - 1) // 2 != gone]

            assert positions(read_all(journal)) == left
            assert sample(metrics, "journal_lost_records_total") == 2
            assert journal.cursor == (2 if gone == 0 else 0)
            assert (journal.head, journal.waiting) == (8, 6)
            assert await journal.append(callback(9)) == 9


async def test_a_segment_that_vanishes_while_running_is_a_counted_hole(tmp_path: Path) -> None:
    """Someone removed a file under the running gateway: what it held is lost, the rest goes on."""
    limits = settings(tmp_path, segment_mb=1)
    await rolled(tmp_path)
    async with running(limits) as journal:
        segment_path(limits.dir, 3).unlink()

        assert positions(read_all(journal)) == [1, 2, 5, 6, 7, 8]
        assert journal.holes == 2


async def test_a_hole_behind_the_cursor_is_no_loss(tmp_path: Path) -> None:
    """What the broker has confirmed may be missing; opening says nothing of it."""
    limits = settings(tmp_path, segment_mb=1)
    await rolled(tmp_path)
    async with running(limits) as journal:
        journal.confirm(4)
    segment_path(limits.dir, 1).unlink()
    metrics = Metrics()
    async with running(limits, metrics) as journal:
        assert positions(read_all(journal)) == [5, 6, 7, 8]
        assert (journal.holes, sample(metrics, "journal_lost_records_total")) == (0, 0)


async def test_without_a_cursor_everything_is_sent_again(tmp_path: Path) -> None:
    """Both slots bad, or the file gone: nothing is lost, the log says what happens."""
    limits = settings(tmp_path, segment_mb=1)
    await rolled(tmp_path)
    segment_path(limits.dir, 1).unlink()
    (limits.dir / "cursor").write_bytes(b"\xff" * 9000)
    async with running(limits) as journal:
        assert (journal.cursor, journal.head, journal.holes) == (2, 8, 0)
        assert positions(read_all(journal)) == [3, 4, 5, 6, 7, 8]
        journal.confirm(5)
    (limits.dir / "cursor").unlink()
    async with running(limits) as journal:
        assert journal.cursor == 2


async def test_a_cursor_ahead_of_the_records_is_where_positions_go_on(tmp_path: Path) -> None:
    """The records it speaks of are gone, but their positions were used and are not used again."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        await fill(journal, 5)
        journal.confirm(5)
    os.truncate(segment(limits.dir), record_ends(limits.dir, 3)[2])
    async with running(limits) as journal:
        assert (journal.head, journal.cursor, journal.holes) == (5, 5, 0)
        assert await journal.append(callback(6)) == 6
        assert positions(read_all(journal)) == [6]
        assert positions(read_all(journal, 0)) == [1, 2, 3, 6]


async def test_records_lost_from_the_end_are_counted_after_a_clean_close(tmp_path: Path) -> None:
    """The cursor file also keeps the head, so a tail that is gone does not pass for one never written."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        await fill(journal, 5)
    os.truncate(segment(limits.dir), record_ends(limits.dir, 3)[2])
    async with running(limits) as journal:
        assert (journal.head, journal.holes, journal.waiting) == (5, 2, 3)
        assert await journal.append(callback(6)) == 6


async def test_nobody_is_woken_for_records_lost_from_the_end(tmp_path: Path) -> None:
    """The forwarder reads nothing behind the last good one and has to wait; else it would turn for ever."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        await fill(journal, 5)
    os.truncate(segment(limits.dir), record_ends(limits.dir, 3)[2])
    async with running(limits) as journal:
        assert positions(read_all(journal)) == [1, 2, 3]
        journal.confirm(3)
        assert (journal.cursor, journal.waiting) == (5, 0)
        waiting = asyncio.ensure_future(journal.wait_for(3))
        await asyncio.sleep(0)

        assert not waiting.done()
        assert await journal.append(callback(6)) == 6
        await waiting
        assert positions(journal.read(3, 10, 10**6)) == [6]


async def test_a_new_id_where_nothing_tells_which_positions_were_used(tmp_path: Path) -> None:
    """Id and position name a callback for ever; without segments and cursor only a new id keeps that."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        await fill(journal, 3)
        name = journal.id
    segment(limits.dir).unlink()
    async with running(limits) as journal:
        assert (journal.id, journal.head, journal.cursor) == (name, 3, 3)
    (limits.dir / "cursor").unlink()
    async with running(limits) as journal:
        assert (journal.id != name, journal.head) == (True, 0)


async def test_meta_is_rebuilt_from_a_segment_and_the_other_way_round(tmp_path: Path) -> None:
    """Id and salt stand in both; with all of them gone nothing can be checked, so nothing is started."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        await fill(journal, 3)
        name = journal.id
    (limits.dir / "meta").write_bytes(b"")
    async with running(limits) as journal:
        assert (journal.id, positions(read_all(journal))) == (name, [1, 2, 3])
    flip(segment(limits.dir), 20)
    async with running(limits) as journal:
        assert (journal.id, positions(read_all(journal))) == (name, [1, 2, 3])
        await fill(journal, 1)
    assert len(list(limits.dir.glob("*.seg"))) == 2
    (limits.dir / "meta").unlink()
    for path in limits.dir.glob("*.seg"):
        path.write_bytes(bytes(64) + path.read_bytes()[64:])
    with pytest.raises(ConfigError, match="neither meta nor any segment header"):
        Journal.open(limits, Metrics())


async def test_a_newer_format_is_refused_not_repaired(tmp_path: Path) -> None:
    """After a downgrade the older release must not cut what it does not know."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        await fill(journal, 3)
    path = segment(limits.dir)
    newer = bytearray(path.read_bytes())
    newer[8:10] = (2).to_bytes(2, "big")
    newer[60:64] = record.crc32(newer[:60]).to_bytes(4, "big")
    path.write_bytes(newer)

    with pytest.raises(ConfigError, match="format 2, written by a newer release"):
        Journal.open(limits, Metrics())
    with pytest.raises(ConfigError, match="newer release"):
        open_readonly(limits.dir)
    assert path.read_bytes() == newer


async def test_a_segment_of_another_journal_is_refused(tmp_path: Path) -> None:
    """Its positions name other callbacks."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        await fill(journal, 1)
    other = Header.fresh(0)
    foreign = Header(other.journal_id, other.salt, 50, 0).pack(SEGMENT_MAGIC)
    segment_path(limits.dir, 50).write_bytes(foreign)

    with pytest.raises(ConfigError, match="belongs to another journal"):
        Journal.open(limits, Metrics())


async def test_an_unreadable_place_for_the_copy_leaves_the_tail_in_place(tmp_path: Path) -> None:
    """Without room to keep the torn bytes they stay where they are; records follow behind them."""
    limits = settings(tmp_path / "again")
    shutil.copytree(await crashed(tmp_path), limits.dir)
    path = segment(limits.dir)
    with path.open("ab") as file:
        file.write(b"torn")
    (limits.dir / "damaged").write_text("no folder")
    async with running(limits) as journal:
        assert await journal.append(callback(4)) == 4
        assert positions(read_all(journal)) == [1, 2, 3, 4]
        assert journal.holes == 0
    assert b"torn" in path.read_bytes()


def test_the_slots_are_written_in_turn_and_a_torn_one_leaves_the_other(tmp_path: Path) -> None:
    """The valid slot with the higher generation counts; the synced one is not touched until the next sync."""
    salt = Salt.of(bytes(range(16)))

    def opened() -> Progress | None:
        file = CursorFile(tmp_path / "cursor", salt)
        file.close()
        return file.latest

    file = CursorFile(tmp_path / "cursor", salt)
    assert file.latest is None
    for number in range(1, 8):
        file.write(Progress(number * 10, number * 10, Hint(1, 1, 64)))
        file.write(Progress(number * 10 + 1, number * 10 + 1, Hint(1, 1, 64)))
        clean = (tmp_path / "cursor").read_bytes()
        assert opened() == Progress(number * 10 + 1, number * 10 + 1, Hint(1, 1, 64))
        for at in (0, 5, 12, 55):
            for slot in (0, 4096):
                torn = bytearray(clean)
                torn[slot + at] ^= 1
                (tmp_path / "cursor").write_bytes(torn)
                latest = opened()
                newest, older = number * 10 + 1, (number - 1) * 10 + 1
                assert (latest.cursor if latest else 1) in (newest, older)
        (tmp_path / "cursor").write_bytes(clean)
        file.sync()
    file.close()
    assert CursorFile(tmp_path / "cursor", Salt.of(bytes(16))).latest is None


async def test_a_hint_that_lies_is_not_believed(tmp_path: Path) -> None:
    """Where the record at the offset is another one, the segment is searched from its start."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        await fill(journal, 6)
        salt = journal._salt
    ends = record_ends(limits.dir, 6)
    for hint in (
        Hint(3, 1, ends[0]),
        Hint(3, 1, 77),
        Hint(3, 1, 10**9),
        Hint(9, 1, 64),
        Hint(2, 99, ends[0]),
    ):
        file = CursorFile(limits.dir / "cursor", salt)
        file.write(Progress(3, 6, hint))
        file.close()
        async with running(limits) as journal:
            assert (journal.head, journal.oldest_waiting_ms) == (6, callback(4).received_ms)
            assert positions(read_all(journal)) == [4, 5, 6]


async def test_read_only_beside_a_running_journal(tmp_path: Path) -> None:
    """Tools need no lock, see what is there, and do not take a write under way for damage."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        await fill(journal, 5)
        journal.confirm(2)
        with segment(limits.dir).open("ab") as file:
            file.write(record.MAGIC + b"half a record")
        reader = open_readonly(limits.dir)

        assert (reader.id, reader.head, len(reader.segments)) == (journal.id, 5, 1)
        assert [s.position for s in reader.records()] == [1, 2, 3, 4, 5]
        assert list(reader.records(3)) == read_all(journal, 3)
        assert [(d.size, d.missing) for d in reader.verify()] == [(17, 0)]
    assert open_readonly(limits.dir).cursor == 2


async def test_verify_names_every_damage(tmp_path: Path) -> None:
    """File, offset, bytes and positions of each, in the order they stand."""
    folder = await rolled(tmp_path)
    flip(segment_path(folder, 1), 64 + 1000)
    segment_path(folder, 5).unlink()
    flip(segment_path(folder, 7), 10)
    damages = list(open_readonly(folder).verify())

    one = record.HEADER_BYTES + len(record.pack(callback(1, 400_000)))
    assert [(d.path.name[:20], d.offset, d.size, d.first_missing, d.missing) for d in damages] == [
        (f"{1:020d}", 64, one, 1, 1),
        (f"{3:020d}", 64 + 2 * one, 0, 5, 2),
        (f"{7:020d}", 0, 64, 7, 0),
    ]
    assert [s.position for s in open_readonly(folder).records(0)] == [2, 3, 4, 7, 8]


def test_read_only_needs_a_journal(tmp_path: Path) -> None:
    """An empty folder, or none, is named."""
    with pytest.raises(ConfigError, match="holds no journal"):
        open_readonly(tmp_path)
    with pytest.raises(ConfigError, match="holds no journal"):
        open_readonly(tmp_path / "nowhere")
    Path(tmp_path / "meta").write_bytes(Header.fresh(0).pack(META_MAGIC))
    reader = open_readonly(tmp_path)
    assert (reader.head, reader.cursor, list(reader.records()), list(reader.verify())) == (0, 0, [], [])


async def test_opening_syncs_what_a_killed_process_left(tmp_path: Path, disk: Disk) -> None:
    """Records that were written and never synced are published only after they are durable."""
    limits = settings(tmp_path / "again")
    shutil.copytree(await crashed(tmp_path), limits.dir)
    disk.syncs = 0
    async with running(limits) as journal:
        assert (disk.syncs, journal.head) == (1, COUNT)


async def test_a_block_that_cannot_be_read_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad sector costs the callbacks on it, not the journal; it is no reason not to start."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        for _ in range(20):
            await fill(journal, 1, 1000)
    pread = os.pread

    def broken(fd: int, count: int, at: int) -> bytes:
        if at < 3 * 4096 and at + count > 2 * 4096 and os.readlink(f"/proc/self/fd/{fd}").endswith(".seg"):
            raise OSError(errno.EIO, "Input/output error")
        return pread(fd, count, at)

    monkeypatch.setattr(os, "pread", broken)
    async with running(limits) as journal:
        left = positions(read_all(journal))

        assert left[:3] == [1, 2, 3]
        assert left[-5:] == [16, 17, 18, 19, 20]
        assert 12 <= len(left) <= 16
        assert journal.waiting == len(left) == 20 - journal.holes


async def test_a_file_that_cannot_be_opened_now_may_be_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a free descriptor read raises Unavailable; nothing is skipped or counted as lost."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        await fill(journal, 3)
        with monkeypatch.context() as patch:

            def none_left(*args: object, **more: object) -> int:
                raise OSError(errno.EMFILE, "Too many open files")

            patch.setattr(os, "open", none_left)
            assert journal.oldest_waiting_ms is None
            with pytest.raises(Unavailable, match="journal_unreadable"):
                journal.read(0, 10, 1000)

        assert positions(read_all(journal)) == [1, 2, 3]
        assert journal.holes == 0


async def test_a_record_of_a_newer_format_is_fatal_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checksum is right, so it is a callback that was acknowledged; going on would lose it."""
    limits = settings(tmp_path)
    async with running(limits) as journal:
        await fill(journal, 1)
        monkeypatch.setattr(record, "VERSION", record.VERSION - 1)

        with pytest.raises(FatalError, match="format version"):
            journal.read(0, 10, 1000)


async def test_a_full_disk_does_not_keep_the_journal_shut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fills it may be the backlog: lock, cursor and torn files are done without, and forwarding goes on."""
    limits = settings(tmp_path / "again")
    shutil.copytree(await crashed(tmp_path), limits.dir)
    (limits.dir / "cursor").write_bytes(bytes(8192))
    segment_path(limits.dir, COUNT + 1).write_bytes(bytes(200))

    def full(*args: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        patch.setattr(os, "mkdir", full)
        journal = Journal.open(limits, Metrics())
    assert positions(read_all(journal)) == [1, 2, 3]
    journal.confirm(3)
    assert await journal.append(callback(4)) == 4
    await journal.close()

    assert segment_path(limits.dir, COUNT + 1).with_suffix(".bin").read_bytes() == bytes(200)
    assert open_readonly(limits.dir).cursor == 3


def test_a_cursor_that_was_not_written_leaves_the_other_slot_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The synced slot is the only one that holds; the next write may be torn, so it must not go there."""
    file = CursorFile(tmp_path / "cursor", Salt.of(bytes(16)))
    file.write(Progress(10, 10, Hint(1, 1, 64)))
    file.sync()
    synced = (tmp_path / "cursor").read_bytes()
    with monkeypatch.context() as patch:

        def full(fd: int, data: bytes, at: int) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "pwrite", full)
        file.write(Progress(20, 20, Hint(1, 1, 64)))
    file.sync()
    assert file.durable.cursor == 10
    file.write(Progress(30, 30, Hint(1, 1, 64)))
    file.close()
    now = (tmp_path / "cursor").read_bytes()

    assert now != synced
    assert [now[at : at + 64] == synced[at : at + 64] for at in (0, 4096)].count(True) == 1
    slot = next(at for at in (0, 4096) if now[at : at + 64] == synced[at : at + 64])
    assert any(synced[slot : slot + 64])


async def test_a_cursor_that_cannot_be_written_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On file systems that copy on write a full disk may refuse the cursor too: tried again, never fatal."""
    limits = settings(tmp_path)
    pwrite = os.pwrite
    refused = []
    async with running(limits) as journal:
        await fill(journal, 3)

        def full(fd: int, data: bytes, at: int) -> int:
            if not refused and os.readlink(f"/proc/self/fd/{fd}").endswith("cursor"):
                refused.append(at)
                raise OSError(errno.ENOSPC, "No space left on device")
            return pwrite(fd, data, at)

        monkeypatch.setattr(os, "pwrite", full)
        journal.confirm(3)
        await until(lambda: open_readonly(limits.dir).cursor == 3)

        assert refused
        assert not journal.failed.done()


MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:5 / /tmp rw shared:2 - tmpfs tmpfs rw
23 21 0:6 / /data rw - nfs4 server:/x rw
24 23 8:2 / /data/local\\040disk rw - xfs /dev/sdb rw
25 21 0:7 / /over rw - ext4 /dev/sdc rw
26 25 0:8 / /over rw - fuse.sshfs host: rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/journal", "ext4"),
        ("/tmp/journal", "tmpfs"),
        ("/tmpx", "ext4"),
        ("/data", "nfs4"),
        ("/data/local disk/j", "xfs"),
        ("/over/j", "fuse.sshfs"),
    ],
)
def test_the_file_system_is_that_of_the_longest_mount_point(path: str, kind: str) -> None:
    """Blanks are escaped; a later mount on the same point covers the earlier."""
    assert filesystem_of(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("tmpfs", "restart"),
        ("nfs4", "local disk"),
        ("fuse.x", "local"),
        ("overlay", "container"),
        ("xfs", ""),
    ],
)
def test_risky_file_systems_are_named(tmp_path: Path, kind: str, says: str) -> None:
    """One line that states the consequence, or none."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / / rw - {kind} none rw\n")
    warning = filesystem_warning(tmp_path, mounts)

    assert (says in warning) if warning and says else (warning is None and not says)
    assert filesystem_warning(tmp_path, tmp_path / "absent") is None


def test_opening_warns_of_a_risky_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator reads it at the start, not after the loss."""
    monkeypatch.setattr(
        "gateway.journal.recovery.filesystem_warning", lambda folder: f"{folder.name} is on nfs"
    )
    opened = open_folder(tmp_path / "journal", 0)
    opened.cursor_file.close()
    opened.lock.release()

    assert "journal is on nfs" in caplog.text


CHILD = """
import asyncio, sys
from pathlib import Path
from gateway import config
from gateway.journal import Journal
from gateway.metrics import Metrics
from tests.test_journal import callback

async def main():
    journal = Journal.open(config.Journal(dir=Path(sys.argv[1]), min_free_mb=0, segment_mb=1), Metrics())

    async def one(worker):
        while True:
            number = worker * 1_000_000 + journal.head
            position = await journal.append(callback(number, 2000))
            sys.stdout.write(f"{position} {number}\\n")
            sys.stdout.flush()

    async def forward():
        after = journal.cursor
        while True:
            await journal.wait_for(after)
            after = journal.read(after, 50, 1 << 20)[-1].position
            journal.confirm(after // 2)

    await asyncio.gather(forward(), *(one(worker) for worker in range(8)))

asyncio.run(main())
"""


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Ten lives on one folder, each killed while it writes: every acknowledged callback is there."""
    folder = tmp_path / "journal"
    acknowledged: dict[int, int] = {}
    for life in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for _ in range(50 + 97 * life):
                position, number = child.stdout.readline().split()
                assert int(position) not in acknowledged
                acknowledged[int(position)] = int(number)
            child.send_signal(signal.SIGKILL)
            for line in child.stdout:
                if line.endswith("\n") and len(line.split()) == 2:
                    acknowledged[int(line.split()[0])] = int(line.split()[1])
    stored = {one.position: one.callback for one in open_readonly(folder).records()}
    metrics = Metrics()
    async with running(settings(tmp_path, segment_mb=1), metrics) as journal:
        assert journal.head >= max(acknowledged)
        assert len(acknowledged) > 4000
        assert all(stored[position] == callback(n, 2000) for position, n in acknowledged.items())
        assert (len(stored), journal.holes) == (journal.head, 0)
        assert positions(read_all(journal)) == list(range(journal.cursor + 1, journal.head + 1))
        assert sample(metrics, "journal_lost_records_total") == 0
