"""The jsonl sink: whole lines, one writer, nothing acknowledged is lost."""

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.config import JsonlSink
from gateway.errors import Unavailable
from gateway.event import Event
from gateway.sinks import lines
from gateway.sinks.lines import LineFile
from tests.sink_events import exit_event
from tests.sink_places import JsonlPlace


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@contextmanager
def opened(path: Path, rotate_bytes: int = 0, now_s: Any = time.time, **settings: Any) -> Iterator[LineFile]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_MB", 1)
        config = JsonlSink(kind="jsonl", path=path, rotate_mb=rotate_bytes, **settings)
        file = LineFile(config, "audit", now_s)
        file.open()
        try:
            yield file
        finally:
            file.close()


async def test_a_line_is_the_event_byte_for_byte(tmp_path: Path) -> None:
    """Only line breaks between tokens become spaces; order is the batch's."""
    place = JsonlPlace(tmp_path)
    pretty = Event(b'{\r\n "id": "1",\n "data": "\\u0000\\ud83d\\ude00\xc3\xa9" }', {"id": "1"})
    plain = exit_event("2")
    sink = place.sink()
    await sink.open()
    await sink.write([pretty, plain])
    await sink.close()

    assert (place.folder / "events.jsonl").read_bytes() == (
        b'{   "id": "1",  "data": "\\u0000\\ud83d\\ude00\xc3\xa9" }\n' + plain.body + b"\n"
    )


async def test_a_second_writer_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    """Two writers would mix their lines; the sentence names the file and what holds it."""
    place = JsonlPlace(tmp_path)
    first, second = place.sink(), place.sink()
    await first.open()
    with pytest.raises(Unavailable, match=r"locked: .*events\.jsonl is written by another process") as caught:
        await second.open()
    await first.close()
    await second.open()
    await second.close()

    assert caught.value.reason == "locked"


def test_the_file_is_its_owners_alone(path: Path) -> None:
    """Events hold what people said and did."""
    with opened(path) as file:
        file.append([b"{}"])

    assert path.stat().st_mode & 0o777 == 0o600


def test_a_torn_last_line_is_cut(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The lines before it stay, and the log says how many bytes went."""
    path.write_bytes(b'{"id":"1"}\n{"id":"2')
    with caplog.at_level(logging.WARNING), opened(path) as file:
        file.append([b'{"id":"3"}'])

    assert path.read_bytes() == b'{"id":"1"}\n{"id":"3"}\n'
    assert "cut 8 bytes" in caplog.text


@pytest.mark.parametrize("torn", [b'{"id":"' + b"x" * 200_000, b"\0" * 4096], ids=["long", "zeros"])
@pytest.mark.parametrize("before", [b"", b'{"id":"1"}\n'], ids=["alone", "behind another"])
def test_a_torn_line_is_cut_whatever_the_crash_left(path: Path, before: bytes, torn: bytes) -> None:
    """Longer than one block of reading, or blocks that a file system never wrote."""
    path.write_bytes(before + torn)
    with opened(path):
        pass

    assert path.read_bytes() == before


def test_a_whole_event_that_lacks_its_line_break_is_kept(path: Path) -> None:
    """A JSON object is never the beginning of another one, so nothing of it is missing."""
    path.write_bytes(b'{"id":"1"}')
    with opened(path) as file:
        file.append([b'{"id":"2"}'])

    assert path.read_bytes() == b'{"id":"1"}\n{"id":"2"}\n'


def test_a_file_of_something_else_is_left_alone(path: Path) -> None:
    """A wrong path in the configuration destroys nothing."""
    path.write_bytes(b"listen:\n  port: 80")
    with pytest.raises(Unavailable, match="foreign_file"), opened(path):
        pass

    assert path.read_bytes() == b"listen:\n  port: 80"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused(path: Path, make: object) -> None:
    """A named pipe would block, a folder can't be written."""
    make(path)  # type: ignore[operator]
    with pytest.raises(Unavailable, match=r"foreign_file|io_error"), opened(path):
        pass


def test_a_full_file_is_put_aside(path: Path) -> None:
    """No file outgrows the bound, no name is taken twice, no event is lost, the lock stays."""
    bodies = [f'{{"id":"{number:03d}"}}'.encode() for number in range(20)]
    with opened(path, rotate_bytes=40) as file:
        for body in bodies:
            file.append([body])
        with pytest.raises(Unavailable, match="locked"), opened(path):
            pass

    kept = [one for one in path.parent.iterdir() if one.name.startswith("events.jsonl.2")]
    files = [path, *kept]
    assert len(kept) == 6
    assert all(one.stat().st_size <= 40 for one in files)
    assert sorted(line for one in files for line in one.read_bytes().splitlines()) == bodies


def test_one_batch_above_the_bound_stays_together(path: Path) -> None:
    """A batch is one write, so it may exceed the bound alone; an empty file is not put aside."""
    with opened(path, rotate_bytes=10) as file:
        file.append([b'{"id":"1"}', b'{"id":"2"}'])

    assert sorted(one.name for one in path.parent.iterdir()) == ["events.jsonl", "events.jsonl.lock"]


@pytest.mark.parametrize("rotate_mb", [0, 256])
async def test_without_need_nothing_is_put_aside(tmp_path: Path, rotate_mb: int) -> None:
    """0 means never."""
    place = JsonlPlace(tmp_path)
    sink = place.sink(rotate_mb=rotate_mb)
    await sink.open()
    for number in range(3):
        await sink.write([exit_event(str(number))])
    await sink.close()

    assert sorted(one.name for one in place.folder.iterdir()) == ["events.jsonl", "events.jsonl.lock"]


def test_a_file_that_another_program_moved_is_followed_by_a_new_one(path: Path) -> None:
    """logrotate renames; the next batch must not vanish into the old file."""
    with opened(path) as file:
        file.append([b'{"id":"1"}'])
        path.rename(path.with_name("old"))
        file.append([b'{"id":"2"}'])

    assert path.with_name("old").read_bytes() == b'{"id":"1"}\n'
    assert path.read_bytes() == b'{"id":"2"}\n'


def test_a_folder_that_was_emptied_has_one_writer_again(path: Path) -> None:
    """With the file the lock is gone; the first to come back takes both, the other waits."""
    with opened(path) as file:
        path.unlink()
        path.with_name("events.jsonl.lock").unlink()
        with opened(path) as other:
            with pytest.raises(Unavailable, match="locked"):
                file.append([b'{"id":"1"}'])
            other.append([b'{"id":"2"}'])

    assert path.read_bytes() == b'{"id":"2"}\n'


def test_a_file_that_another_program_truncated_is_gone_on_with(path: Path) -> None:
    """logrotate's copytruncate leaves no hole."""
    with opened(path) as file:
        file.append([b'{"id":"1"}'])
        os.truncate(path, 0)
        file.append([b'{"id":"2"}'])

    assert path.read_bytes() == b'{"id":"2"}\n'


def test_a_write_that_did_not_fit_leaves_whole_lines(path: Path) -> None:
    """The kernel takes a part of the batch and then no more; the part is taken back."""
    with opened(path) as file:
        file.append([b'{"id":"1"}'])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30, hard))
        try:
            with pytest.raises(Unavailable, match="disk_full"):
                file.append([b'{"id":"2"}', b'{"id":"3"}'])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        left = path.read_bytes()
        with pytest.raises(Unavailable, match="not_open"):
            file.append([b'{"id":"2"}'])
        file.open()
        file.append([b'{"id":"2"}'])

    assert left == b'{"id":"1"}\n'
    assert path.read_bytes() == b'{"id":"1"}\n{"id":"2"}\n'


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.EIO, "io_error"), (errno.ENOSPC, "disk_full"), (errno.EROFS, "no_rights")]
)
def test_lines_that_may_not_be_on_disk_are_not_claimed(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    """After a failed fsync the batch is taken back and the file opened anew before the next."""

    def fail(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    with opened(path) as file:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(Unavailable) as caught:
                file.append([b'{"id":"1"}'])
        file.open()
        file.append([b'{"id":"1"}'])

    assert caught.value.reason == reason
    assert path.read_bytes() == b'{"id":"1"}\n'


def test_a_file_that_can_not_be_put_aside_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch waits until rotation works again."""

    def fail(old: Path, new: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with opened(path, rotate_bytes=15) as file:
        file.append([b'{"id":"1"}'])
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", fail)
            with pytest.raises(Unavailable, match="no_rights"):
                file.append([b'{"id":"2"}'])
        file.open()
        file.append([b'{"id":"2"}'])

    assert path.read_bytes() == b'{"id":"2"}\n'
    assert len(list(path.parent.glob("events.jsonl.2*"))) == 1


WRITER = """
import json, sys
from pathlib import Path
from gateway.config import JsonlSink
from gateway.sinks.lines import LineFile
settings = json.loads(sys.argv[2])
file = LineFile(JsonlSink(kind="jsonl", path=Path(sys.argv[1]), **settings), "audit")
file.open()
for number in range(int(sys.argv[3]), 10**9):
    file.append([b'{"id":"%d","pad":"%s"}' % (number * 3 + at, b"x" * 50_000) for at in range(3)])
    print(number * 3 + 2, flush=True)
"""


def killed_writer(path: Path, batches: int, first: int = 0, **settings: Any) -> int:
    """Let a process write, kill it after so many batches; return the last number that it acknowledged."""
    command = [sys.executable, "-c", WRITER, str(path), json.dumps(settings), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(batches):
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        return max(acknowledged, *(int(line) for line in writer.stdout), 0)


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_a_killed_writer_loses_nothing_that_it_acknowledged(path: Path, fsync: str) -> None:
    """kill -9 in the middle of a batch: whole lines only, each acknowledged one among them, the lock free."""
    acknowledged = killed_writer(path, 20, fsync=fsync)
    with path.open("ab") as file:
        file.write(b'{"id":"torn","pad":"xxx')
    with opened(path):
        pass

    lines = path.read_bytes().splitlines()
    assert all(line.startswith(b'{"id":"%d"' % number) for number, line in enumerate(lines))
    assert all(line.endswith(b"}") for line in lines)
    assert len(lines) > acknowledged
