"""Files that a jsonl sink puts aside: by size and age, compressed, thinned out; every line in one of them."""

import asyncio
import gzip
import logging
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Unavailable
from gateway.simulator.lines import LineFiles
from gateway.sinks import closed, lines
from tests.sink_events import exit_event
from tests.sink_places import JsonlPlace
from tests.test_sink_jsonl import killed_writer, opened

HOUR_S = 3600


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def body(number: int) -> bytes:
    return b'{"id":"%04d"}' % number


def aside(path: Path) -> list[Path]:
    """Return the files put aside, in order."""
    return sorted(one for one in path.parent.iterdir() if one.name.startswith(f"{path.name}.2"))


def put_aside(path: Path, *times: str, lines: int = 3) -> list[Path]:
    """Make files as they stand there when they were put aside at *times*."""
    made = []
    for at, time in enumerate(times):
        one = path.with_name(f"{path.name}.{time}")
        one.write_bytes(b"".join(body(at * lines + number) + b"\n" for number in range(lines)))
        made.append(one)
    return made


def all_lines(path: Path) -> list[bytes]:
    """Return what a reader finds in all files, plain or compressed, each once."""
    found: list[bytes] = []
    LineFiles(path).read(found.append)
    return sorted(line.rstrip(b"\n") for line in found)


class Clock:
    def __init__(self) -> None:
        self.s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.s


def test_an_old_file_is_put_aside_before_the_next_line(path: Path) -> None:
    """Its age counts from its first line."""
    clock = Clock()
    with opened(path, now_s=clock, rotate_h=1) as file:
        file.append([body(1)])
        clock.s += HOUR_S - 1
        file.append([body(2)])
        assert aside(path) == []
        clock.s += 1
        file.append([body(3)])

    [old] = aside(path)
    assert old.read_bytes().splitlines() == [body(1), body(2)]
    assert path.read_bytes().splitlines() == [body(3)]


def test_an_old_file_is_put_aside_though_nothing_comes(path: Path) -> None:
    """Whoever picks up the files of each hour need not wait for the next event; an empty one stays."""
    clock = Clock()
    with opened(path, now_s=clock, rotate_h=1) as file:
        assert file.chores() is None
        file.append([body(1)])
        assert file.chores() == HOUR_S
        clock.s += HOUR_S
        assert file.chores() is None
        clock.s += HOUR_S
        assert file.chores() is None

    assert [one.read_bytes() for one in aside(path)] == [body(1) + b"\n"]
    assert path.read_bytes() == b""


def test_the_age_is_known_after_a_restart(path: Path) -> None:
    """Else a gateway that restarts each night would never put a daily file aside."""
    clock = Clock()
    with opened(path, now_s=clock, rotate_h=24) as file:
        file.append([body(1)])
    clock.s += 23 * HOUR_S
    with opened(path, now_s=clock, rotate_h=24) as file:
        file.append([body(2)])
        assert file.chores() == HOUR_S
    clock.s += HOUR_S
    with opened(path, now_s=clock, rotate_h=24) as file:
        file.append([body(3)])

    assert len(aside(path)) == 1


def test_a_file_of_unknown_age_begins_with_its_last_line(path: Path) -> None:
    """One that stood there before the key did."""
    path.write_bytes(body(1) + b"\n")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    clock = Clock()
    with opened(path, now_s=clock, rotate_h=1) as file:
        assert file.chores() == HOUR_S


def test_a_clock_that_is_set_back_puts_nothing_off_for_ever(path: Path) -> None:
    """A file that would begin in the future begins now."""
    clock = Clock()
    with opened(path, now_s=clock, rotate_h=1) as file:
        file.append([body(1)])
    clock.s -= 1000 * HOUR_S
    with opened(path, now_s=clock, rotate_h=1) as file:
        assert file.chores() == HOUR_S


async def test_the_sink_does_its_chores_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer wakes it, also when no event comes any more."""
    is_synced, loop = asyncio.Event(), asyncio.get_running_loop()
    sync = os.fsync

    def note(fd: int) -> None:
        sync(fd)
        if os.path.samestat(os.fstat(fd), os.stat(place.config.path)):
            loop.call_soon_threadsafe(is_synced.set)

    place = JsonlPlace(tmp_path)
    sink = place.sink(fsync="interval")
    await sink.open()
    monkeypatch.setattr(lines, "SYNC_S", 0.01)
    monkeypatch.setattr(os, "fsync", note)
    await sink.write([exit_event("1")])
    await asyncio.wait_for(is_synced.wait(), 30)
    await sink.close()

    assert sink._timer is None


@pytest.fixture
def synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes that the file had when it was synced."""
    sizes: list[int] = []
    sync = os.fsync

    def note(fd: int) -> None:
        sync(fd)
        if path.exists() and os.path.samestat(os.fstat(fd), os.stat(path)):
            sizes.append(os.fstat(fd).st_size)

    monkeypatch.setattr(os, "fsync", note)
    return sizes


def test_fsync_always_is_before_append_returns(path: Path, synced: list[int]) -> None:
    """What is acknowledged survives the machine."""
    with opened(path) as file:
        file.append([body(1)])
        assert synced == [14]
        file.append([body(2)])
        assert synced == [14, 28]


def test_fsync_interval_is_within_a_second(
    path: Path, synced: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for all that came meanwhile; the last ones before the file is put aside or closed."""
    assert lines.SYNC_S == 1
    monkeypatch.setattr(lines, "SYNC_S", 1000)
    with opened(path, fsync="interval") as file:
        file.append([body(1)])
        file.append([body(2)])
        due_s = file.chores()
        assert synced == []
        assert due_s is not None
        assert 0 < due_s <= 1000
        monkeypatch.setattr(lines, "SYNC_S", 0)
        assert file.chores() is None
        assert synced == [28]
        monkeypatch.setattr(lines, "SYNC_S", 1000)
        file.append([body(3)])

    assert synced == [28, 42]


def test_fsync_interval_comes_before_rotation(path: Path, synced: list[int]) -> None:
    """A file that was put aside is whole on disk, too."""
    with opened(path, rotate_bytes=20, fsync="interval") as file:
        file.append([body(1)])
        file.append([body(2)])
        assert synced == [14]


def test_fsync_never_is_the_systems_affair(path: Path, synced: list[int]) -> None:
    """The operator has chosen so."""
    with opened(path, fsync="never", rotate_bytes=20) as file:
        file.append([body(1)])
        file.append([body(2)])
        assert file.chores() is None

    assert synced == []


def test_a_late_fsync_that_fails_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The lines were acknowledged; nobody can take that back, so the log tells it."""

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with opened(path, fsync="interval") as file:
        file.append([body(1)])
        monkeypatch.setattr(lines, "SYNC_S", 0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(Unavailable, match="io_error"):
                file.chores()
        with pytest.raises(Unavailable, match="not_open"):
            file.append([body(2)])

    assert "fsync of" in caplog.text
    assert "may be lost" in caplog.text


def test_what_is_put_aside_is_compressed(path: Path) -> None:
    """Line for line, its owner's alone, with the time of the last line; the plain file goes."""
    with opened(path, rotate_bytes=50, gzip=True) as file:
        for number in range(20):
            file.append([body(number)])
        file.closed.wait()

    packed = aside(path)
    assert len(packed) == 6
    assert all(one.suffix == ".gz" for one in packed)
    assert all(one.stat().st_mode & 0o777 == 0o600 for one in packed)
    contents = [gzip.decompress(one.read_bytes()).splitlines() for one in packed]
    assert [body(0), body(1), body(2)] in contents
    assert all_lines(path) == [body(number) for number in range(20)]


def test_what_stood_there_before_is_compressed_too(path: Path) -> None:
    """Also files of before the key was set; those of others are left alone."""
    put_aside(path, "20260101T000000Z", "20260101T000000Z-1")
    others = [
        path.with_name(name)
        for name in ("events.jsonl.old", "events.jsonl.20260101", "other.20260101T000000Z")
    ]
    for other in others:
        other.write_text("mine")
    with opened(path, gzip=True) as file:
        file.closed.wait()

    assert [one.name for one in aside(path) if one not in others] == [
        "events.jsonl.20260101T000000Z-1.gz",
        "events.jsonl.20260101T000000Z.gz",
    ]
    assert all(other.read_text() == "mine" for other in others)


def test_without_the_key_nothing_is_compressed(path: Path) -> None:
    """And nothing removed."""
    made = put_aside(path, "20200101T000000Z", "20260101T000000Z")
    with opened(path) as file:
        file.closed.wait()

    assert aside(path) == made


@pytest.mark.parametrize("step", ["write", "fsync", "rename", "unlink", "kill"])
def test_a_crash_at_any_step_loses_and_doubles_nothing(
    path: Path, step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At each step every line is found once, and the next start finishes what was begun."""
    put_aside(path, "20260101T000000Z")
    expected = [body(number) for number in range(3)]
    with monkeypatch.context() as patch:
        fail_at(patch, step)
        with opened(path, gzip=True) as file:
            file.closed.wait()
        assert all_lines(path) == expected
    with opened(path, gzip=True) as file:
        file.closed.wait()

    assert all_lines(path) == expected
    assert [one.name for one in aside(path)] == ["events.jsonl.20260101T000000Z.gz"]
    assert ("can't be compressed or removed" in caplog.text) is (step != "kill")


def fail_at(patch: pytest.MonkeyPatch, step: str) -> None:
    """Let one step of compressing fail, or leave what a kill before the last one leaves."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    def only_part(one: Callable[..., Any], suffix: str) -> Callable[..., Any]:
        return lambda path, *rest, **more: (fail if str(path).endswith(suffix) else one)(path, *rest, **more)

    match step:
        case "write":
            patch.setattr(gzip.GzipFile, "write", fail)
        case "fsync":
            patch.setattr(os, "utime", fail)
        case "rename":
            patch.setattr(os, "rename", fail)
        case "unlink":
            patch.setattr(Path, "unlink", only_part(Path.unlink, "Z"))
        case "kill":
            compress = closed.ClosedFiles._compress
            patch.setattr(closed.ClosedFiles, "_compress", lambda self, base: compress(self, base) and False)


def test_a_torn_part_is_made_anew(path: Path) -> None:
    """A crash in the middle of compressing leaves a part that nobody reads."""
    [old] = put_aside(path, "20260101T000000Z")
    part = old.with_name(f"{old.name}.gz.part")
    part.write_bytes(b"\x1f\x8b half")
    assert len(all_lines(path)) == 3
    with opened(path, gzip=True) as file:
        file.closed.wait()

    assert not part.exists()
    assert len(all_lines(path)) == 3


@pytest.mark.parametrize("content", [b"\x1f\x8b half", gzip.compress(b'{"id":"0000"}\n'), b""])
def test_a_compressed_file_that_is_not_whole_costs_nothing(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever compresses by hand may be interrupted: the plain file stays, and the log says so."""
    [old] = put_aside(path, "20260101T000000Z")
    old.with_name(f"{old.name}.gz").write_bytes(content)
    with caplog.at_level(logging.WARNING), opened(path, gzip=True) as file:
        file.closed.wait()

    assert old.exists()
    assert f"{old.name}.gz is not whole, so {old.name} stays beside it" in caplog.text


def test_both_are_put_right_without_the_key_too(path: Path) -> None:
    """Whoever switched it off in that moment has one of the two, not both."""
    [old] = put_aside(path, "20260101T000000Z")
    old.with_name(f"{old.name}.gz").write_bytes(gzip.compress(old.read_bytes()))
    with opened(path) as file:
        file.closed.wait()

    assert [one.suffix for one in aside(path)] == [".gz"]


def test_closing_does_not_wait_for_a_large_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up, leaves nothing behind, and begins anew."""
    put_aside(path, "20260101T000000Z", lines=5)
    monkeypatch.setattr(closed, "_CHUNK_BYTES", 14)
    is_inside, may_go_on = threading.Event(), threading.Event()
    write = gzip.GzipFile.write

    def slow(self: gzip.GzipFile, data: Any) -> int:
        is_inside.set()
        assert may_go_on.wait(30)
        return write(self, data)

    with monkeypatch.context() as patch, opened(path, gzip=True) as file:
        patch.setattr(gzip.GzipFile, "write", slow)
        assert is_inside.wait(30)
        file.closed._must_stop.set()
        may_go_on.set()
        file.close()

    assert [one.name for one in aside(path)] == ["events.jsonl.20260101T000000Z"]


def test_only_the_newest_are_kept(path: Path) -> None:
    """As many as keep_files says, plain and compressed alike, by their time and number."""
    put_aside(path, "20260101T000000Z", *(f"20260101T000001Z{end}" for end in ("", "-1", "-2", "-10")))
    with opened(path, gzip=True) as file:
        file.closed.wait()
    with opened(path, keep_files=2) as file:
        file.closed.wait()

    assert [one.name.removeprefix("events.jsonl.") for one in aside(path)] == [
        "20260101T000001Z-10.gz",
        "20260101T000001Z-2.gz",
    ]


def test_old_ones_are_removed(path: Path) -> None:
    """By the time at which they were put aside, which stands in their names."""
    now = datetime.now(UTC)
    times = [f"{now - timedelta(days=days):%Y%m%dT%H%M%SZ}" for days in (30, 8, 6, 0)]
    put_aside(path, *times, "99999999T999999Z")
    with opened(path, keep_d=7) as file:
        file.append([body(1)])
        file.closed.wait()

    assert [one.name.removeprefix("events.jsonl.") for one in aside(path)] == times[2:]
    assert path.exists()


def test_names_are_not_taken_twice(path: Path) -> None:
    """Neither the plain nor the compressed file of the same second is overwritten."""
    with opened(path, rotate_bytes=10, gzip=True) as file:
        for number in range(30):
            file.append([body(number)])
            if number % 3 == 0:
                file.closed.wait()
        file.closed.wait()

    assert all_lines(path) == [body(number) for number in range(30)]


def test_a_reader_sees_each_line_once_while_files_are_compressed(path: Path) -> None:
    """Where it stopped in the plain file it goes on in the compressed one."""
    reader, found = LineFiles(path), []
    with opened(path, rotate_bytes=50, gzip=True) as file:
        for number in range(40):
            file.append([body(number)])
            if number % 7 == 0:
                reader.read(found.append)
            if number % 5 == 0:
                file.closed.wait()
        file.closed.wait()
    reader.read(found.append)
    reader.read(found.append)

    assert sorted(line.rstrip(b"\n") for line in found) == [body(number) for number in range(40)]


def test_kills_lose_and_double_nothing(path: Path) -> None:
    """kill -9 while files are put aside and compressed: each acknowledged line is found, and none twice."""
    acknowledged = -1
    for round_ in range(6):
        first = acknowledged // 3 + 1
        acknowledged = killed_writer(path, 10 + 3 * round_, first, rotate_mb=1, gzip=True)
    with opened(path, rotate_bytes=0, gzip=True) as file:
        file.closed.wait()
    ids = [int(line.split(b'"')[3]) for line in all_lines(path)]

    assert set(range(acknowledged + 1)) <= set(ids)
    assert len(ids) - len(set(ids)) <= 6 * 3  # the batch that was killed comes again
    assert len(aside(path)) >= 5
    assert all(one.suffix == ".gz" for one in aside(path))
