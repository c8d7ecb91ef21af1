"""``gateway journal stat | list | show | verify`` on real journals: what they say, and that they change nothing."""

import json
import os
import pty
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli.journal import looking
from gateway.journal import JournalReader, readonly
from gateway.normalise import normalise
from gateway.record import HEADER_BYTES, pack
from tests.gateway_process import GATEWAY
from tests.journal_folder import APP, EXIT, NOW_MS, JournalFolder, callback

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r\n"
PUSH = (Path(__file__).parent / "samples/callbacks/Push.OfflinePush.json").read_bytes()
MB = 1024 * 1024


@pytest.fixture
def folder(tmp_path: Path) -> JournalFolder:
    return JournalFolder(tmp_path)


def rolled(folder: JournalFolder, confirm: int = 0) -> list[int]:
    """Fill three segments with two callbacks each, the last with one more; return the segments' sizes."""
    folder.sections["journal"]["segment_mb"] = 1
    folder.write()
    folder.store([callback(n, body=b'{"n":%d,"x":"%s"}' % (n, b"x" * 400_000)) for n in range(1, 6)], confirm)
    return [path.stat().st_size for path in folder.segments()]


def test_stat_says_what_waits_and_how_much_room_is_left(folder: JournalFolder) -> None:
    """All figures of the journal, as the metrics of a gateway would show them."""
    now_s = time.time()
    sizes = rolled(folder, confirm=3)
    [found] = folder.lines("stat")
    text = folder.run("stat").stdout

    assert len(found.pop("id")) == 16
    assert found.pop("disk_free_bytes") > 0
    assert abs(found.pop("oldest_waiting_s") - (now_s - NOW_MS / 1000 - 4)) < 60
    assert [found.pop(name)[:3] for name in ("begun", "last_written")] == ["202", "202"]
    assert found == {
        "dir": str(folder.journal),
        "first": 1,
        "head": 5,
        "cursor": 3,
        "waiting": 2,
        "holes": 0,
        "set_aside_pieces": 0,
        "set_aside_bytes": 0,
        "segments": 3,
        "bytes": sum(sizes),
        "retained_bytes": sizes[0],
        "max_bytes": 4096 * MB,
        "room_bytes": 4096 * MB - sum(sizes[1:]),
        "min_free_bytes": 0,
    }
    assert "first 1, head 5, cursor 3" in text
    assert "2 callbacks for the broker's confirm, the oldest for " in text
    assert "4,095 MB more may wait (journal.max_mb 4,096)" in text
    folder.sections["journal"]["min_free_mb"] = 10**9
    folder.write()
    assert folder.lines("stat")[0]["room_bytes"] == sizes[0]


def test_stat_counts_holes_and_what_was_set_aside(
    folder: JournalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """waiting = head - cursor - holes; when too much waits to look at, it says so instead of a number."""
    rolled(folder, confirm=2)
    folder.flip(HEADER_BYTES + 100, segment=1)
    (folder.journal / "damaged").mkdir()
    (folder.journal / "damaged" / "1-64.bin").write_bytes(b"torn")
    [found] = folder.lines("stat")
    text = folder.run("stat").stdout
    monkeypatch.setattr(looking, "_READ_MAX_BYTES", 0)
    [unread] = folder.lines("stat")
    for path in folder.segments()[1:]:
        path.write_bytes(bytes(path.stat().st_size))
    assert "3 callbacks for the broker's confirm" in folder.run("stat").stdout

    assert (found["waiting"], found["holes"], found["set_aside_pieces"], found["set_aside_bytes"]) == (
        2,
        1,
        1,
        4,
    )
    assert "1 positions of what waits are damaged" in text
    assert (unread["waiting"], unread["holes"]) == (3, None)
    assert "gateway journal verify" in folder.run("stat").stdout


def test_stat_of_an_empty_journal(folder: JournalFolder) -> None:
    """Nothing was stored yet: no oldest, no times, no division by anything."""
    folder.store([])
    [found] = folder.lines("stat")

    assert (found["head"], found["waiting"], found["oldest_waiting_s"], found["begun"]) == (0, 0, None, None)
    assert "0 callbacks" in folder.run("stat").stdout


MIXED = [
    callback(1),
    callback(2, "Group.CallbackAfterNewMemberJoin"),
    callback(3, app_id="14"),
    callback(4, "State.StateChange", verified=False),
    callback(5),
    callback(6, query=f"SdkAppid={APP}"),
]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [1, 2, 3, 4, 5, 6]),
        (["--since", "2023-11-14T22:13:23"], [3, 4, 5, 6]),
        (["--until", "2023-11-14T22:13:23"], [1, 2]),
        (["--since", "2023-11-14T22:13:22", "--until", "2023-11-14T22:13:24"], [2, 3]),
        (["--since", "1h"], []),
        (["--command", EXIT], [1, 3, 5, 6]),
        (["--command", "Group.*"], [1, 2, 3, 5, 6]),
        (["--command", "group.*"], []),
        (["--command", "*StateChang?"], [4]),
        (["--app", "14"], [3]),
        (["--app", "1"], []),
        (["--from", "4"], [4, 5, 6]),
        (["--to", "2"], [1, 2]),
        (["--from", "3", "--to", "3"], [3]),
        (["--from", "7"], []),
        (["--waiting"], [3, 4, 5, 6]),
        (["--waiting", "--command", EXIT, "--app", APP], [5, 6]),
        (["--waiting", "--to", "1"], []),
        (["--limit", "2"], [1, 2]),
        (["--limit", "2", "--newest"], [5, 6]),
        (["--limit", "2", "--newest", "--command", EXIT], [5, 6]),
        (["--limit", "3", "--newest", "--to", "4"], [2, 3, 4]),
        (["--limit", "0", "--newest"], [1, 2, 3, 4, 5, 6]),
    ],
)  # fmt: skip
def test_list_filters(folder: JournalFolder, words: list[str], expected: list[int]) -> None:
    """Each filter alone and together; a command that stands only in the body is found as well."""
    folder.store(MIXED, confirm=2)

    assert folder.positions(*words) == expected


def test_list_newest_over_several_segments(folder: JournalFolder) -> None:
    """It reads from the end, and still gives them in order."""
    rolled(folder)

    assert folder.positions("--newest", "--limit", "4") == [2, 3, 4, 5]
    assert folder.positions("--newest", "--limit", "9") == [1, 2, 3, 4, 5]
    assert folder.positions("--newest", "--limit", "1", "--from", "2", "--to", "3") == [3]


def test_list_shows_one_line_a_callback_and_no_body(folder: JournalFolder) -> None:
    """Position, time, app, command, bytes, verified, peer; the rest is counted on standard error."""
    folder.store(MIXED, confirm=2)
    done = folder.run("list", "--limit", "4")
    first, *_, fourth = done.stdout.splitlines()

    size = str(len(MIXED[0].body))
    assert first.split() == ["1", "2023-11-14T22:13:21.000Z", APP, EXIT, size, "verified", "192.0.2.1"]
    assert fourth.split()[3:6] == ["State.StateChange", str(len(MIXED[3].body)), "unsigned"]
    assert "u1" not in done.stdout
    assert "the first 4; there are more" in done.stderr
    assert "there are more" not in folder.run("list", "--limit", "6").stderr
    assert "No callback matches." in folder.run("list", "--app", "1").stderr


def test_what_a_stranger_sent_does_nothing_to_the_terminal(folder: JournalFolder) -> None:
    """Commands, apps, peers, queries and bodies come with their control characters escaped."""
    hostile = callback(
        1, "X%1B%5B2J%9B", body=HOSTILE.encode() + b'{"a":"\xff\xc2\x9b"}', peer=HOSTILE, app_id=HOSTILE,
        query="CallbackCommand=X%1B%5B2J&x=" + HOSTILE + "\udcff",
    )  # fmt: skip
    folder.store([hostile, callback(2, body=b'{"CallbackCommand":"x","Name":"\xc2\x9b2J\xe2\x80\xae\x7f"}')])

    for words in (["list"], ["list", "--json"], ["show", "1"], ["show", "2"], ["show", "2", "--json"]):
        text = folder.run(*words).stdout
        is_exact = "--json" in words and "show" in words
        assert all(char.isprintable() or char == "\n" for char in text) or is_exact, words
    assert r"X\x1b[2J" in folder.run("list").stdout
    assert r"\u202e" in folder.run("show", "2").stdout


@pytest.mark.parametrize(
    "words",
    [["show", "1"], ["show", "1", "--body"], ["show", "1", "--event"], ["show", "1", "--json"], ["export"], ["export", "--events"]],
)  # fmt: skip
def test_on_a_terminal_every_way_of_showing_is_escaped(folder: JournalFolder, words: list[str]) -> None:
    """What is exact in a file or a pipe is escaped on a real terminal."""
    body = '{"CallbackCommand":"C.X","Name":"\x9b2J\u202e\x7f","More":"ok"}'.encode()
    folder.store([callback(1, "C.X", body=body)])
    shown = on_a_terminal(folder, "journal", *words)

    assert "ok" in shown
    assert not set(shown) & {"\x9b", "\u202e", "\x7f", "\x1b"}


def on_a_terminal(folder: JournalFolder, *words: str, err: bool = False) -> str:
    """Run a command whose standard output (with *err* its standard error) is a terminal; return what that got."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"}
    with subprocess.Popen(
        [GATEWAY, *words, "--config", str(folder.path)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL if err else follower,
        stderr=follower if err else subprocess.DEVNULL, env=environment,
    ) as running:  # fmt: skip
        os.close(follower)
        got = b""
        try:
            while part := os.read(leader, 65536):
                got += part
        except OSError:  # the other side was closed
            pass
        assert running.wait(60) in (0, 1)
    os.close(leader)
    return got.decode()


def test_show_says_all_that_was_stored(folder: JournalFolder) -> None:
    """Its fields, its body, its event, whether the broker has it; what it may hold goes to standard error."""
    journal_id = folder.store([callback(1), callback(2)], confirm=1)
    done = folder.run("show", "2")

    assert f"2 of {journal_id}, waiting for the broker" in done.stdout
    assert "confirmed by the broker" in folder.run("show", "1").stdout
    assert "recipe 1, window 10 s" in done.stdout
    assert "ClientIP=192.0.2.9" in done.stdout
    assert '"Operator_Account": "u2"' in done.stdout
    assert '"type":"im.group.member.exited"' in done.stdout
    assert "personal data included" in done.stderr
    assert "journal.retain_h (168 h)" in done.stderr
    assert "redact rules of today's configuration" in done.stderr


def test_show_gives_the_exact_bytes_of_a_body(folder: JournalFolder) -> None:
    """Whatever they are, and however many."""
    bodies = [b"\x00\xff\x1b[2J\r\n\t", b'{"x":"' + b"y" * (1024 * 1024 - 10) + b'"}', "群\u202e".encode()]
    folder.store([callback(n, body=body) for n, body in enumerate(bodies, 1)])
    for position, body in enumerate(bodies, 1):
        assert folder.run("show", str(position), "--body").stdout_bytes == body
    text = folder.run("show", "2").stdout

    assert len(text) < 20_000
    assert "1,044,478 characters more" in text


@pytest.mark.parametrize(
    ("stored", "count"),
    [
        (callback(1), 1),
        (callback(1, "Push.OfflinePush", body=PUSH), 2),
        (callback(1, body=b"{ not JSON"), 1),
        (callback(1, "New.Thing", id_window_s=3600), 1),
    ],
)  # fmt: skip
def test_show_gives_the_events_as_they_were_published(folder: JournalFolder, stored, count: int) -> None:
    """Byte for byte as the forwarder makes them, one a line, by the recipe and window stored with it."""
    journal_id = folder.store([stored])
    expected = [event.body for event in normalise(stored, f"{journal_id}.1")]
    done = folder.run("show", "1", "--event")
    [found] = folder.lines("show", "1")

    assert len(expected) == count
    assert done.stdout_bytes == b"".join(body.replace(b"\n", b" ") + b"\n" for body in expected)
    assert found["events"] == [json.loads(body) for body in expected]
    assert (found["position"], found["journal"], found["query"]) == (1, journal_id, stored.query)
    assert found["body"].encode() == stored.body


def test_show_redacts_events_and_not_the_journal(folder: JournalFolder) -> None:
    """Events follow today's configuration; the callback is what it was."""
    folder.store([callback(1)])
    folder.sections["apps"] = {APP: {"redact": {"members": "drop", "operator": "drop"}}}
    folder.write()

    assert "u1" not in folder.run("show", "1", "--event").stdout
    assert '"u1"' in folder.run("show", "1", "--body").stdout


def test_show_takes_the_position_of_an_event(folder: JournalFolder) -> None:
    """As it stands in the sink; one of another journal is refused."""
    journal_id = folder.store([callback(1), callback(2)])

    assert "u2" in folder.run("show", f"{journal_id}.2.0", "--body").stdout
    assert "u1" in folder.run("show", f"{journal_id}.1", "--body").stdout
    for place in ("0123456789abcdef.1.0", "x", "1.2.3.4", "-1", "²", "9" * 5000):
        assert "POSITION" in folder.run("show", place, expect=2).stderr


def test_show_of_what_is_not_there(folder: JournalFolder) -> None:
    """No longer kept, not yet used, damaged: each is said."""
    rolled(folder, confirm=4)
    folder.segments()[0].unlink()
    folder.flip(HEADER_BYTES + 100, segment=0)

    said = folder.run("show", "2", expect=1).stderr
    assert "reaches back to 2023-11-14T22:13:24.000Z (position 4); asked from position 2" in said
    assert "last position in use is 5" in folder.run("show", "6", expect=1).stderr
    assert "damaged" in folder.run("show", "3", expect=1).stderr
    assert "last position" not in folder.run("show", "0", expect=1).stderr
    for path in folder.segments():
        path.unlink()
    assert "The journal keeps nothing at present" in folder.run("show", "1", expect=1).stderr


def test_verify_of_a_sound_journal(folder: JournalFolder) -> None:
    """Every record is counted; exit code 0."""
    sizes = rolled(folder)
    [found] = folder.lines("verify")

    assert "5 good records in 3 segments" in folder.run("verify").stdout
    assert (found["good"], found["bytes"], found["damages"], found["lost"]) == (5, sum(sizes), 0, 0)


def test_verify_names_file_offset_bytes_and_positions(folder: JournalFolder) -> None:
    """Each damage has a line; exit code 1."""
    rolled(folder)
    folder.flip(HEADER_BYTES + 100, segment=1)
    folder.flip(10, segment=2)
    done = folder.run("verify", expect=1)
    found = [json.loads(line) for line in folder.run("verify", "--json", expect=1).stdout.splitlines()]

    size = HEADER_BYTES + len(pack(callback(3, body=b'{"n":3,"x":"%s"}' % (b"x" * 400_000))))
    second, third = folder.segments()[1:]
    assert f"DAMAGED  {second}: {size:,} bytes at offset 64; positions 3 to 3 are lost" in done.stdout
    assert f"DAMAGED  {third}: 64 bytes at offset 0; no position is lost" in done.stdout
    assert "4 good records" in done.stdout
    assert "2 damaged places, 1 positions lost" in done.stdout
    assert "docs/operations.md" in done.stderr
    assert found[0] == {
        "file": str(second), "offset": 64, "bytes": size, "lost": 1, "first_lost": 3, "last_lost": 3,
    }  # fmt: skip
    assert (found[1]["file"], found[1]["lost"], found[1]["first_lost"]) == (str(third), 0, None)
    assert (found[2]["damages"], found[2]["lost"], found[2]["good"]) == (2, 1, 4)


def test_verify_of_files_that_are_gone(folder: JournalFolder) -> None:
    """Waiting callbacks before the first file are lost; they are no good records."""
    rolled(folder, confirm=1)
    folder.segments()[0].unlink()
    done = folder.run("verify", expect=1)

    assert "positions 2 to 2 are lost" in done.stdout
    assert "3 good records" in done.stdout


def test_a_torn_tail_is_told_and_no_damage(folder: JournalFolder) -> None:
    """A crash leaves one, and a running journal seems to have one while it writes."""
    folder.store([callback(1)])
    with folder.segments()[-1].open("ab") as file:
        file.write(b"half a record")
    done = folder.run("verify")

    assert "13 bytes behind the last record" in done.stdout
    assert "no damage" in done.stdout
    assert folder.lines("verify")[0]["torn_tail_bytes"] == 13


def trim_when_opened(monkeypatch: pytest.MonkeyPatch, folder: JournalFolder, count: int) -> None:
    """Remove the first *count* segments as soon as a command has opened the journal, as a gateway would."""
    real = JournalReader.__init__

    def opened(self: JournalReader, path: Path) -> None:
        real(self, path)
        for segment in self.segments[:count]:
            segment.path.unlink(missing_ok=True)

    monkeypatch.setattr(readonly.JournalReader, "__init__", opened)


def test_segments_that_go_meanwhile_are_said_and_no_damage(
    folder: JournalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway trims while a command reads."""
    rolled(folder, confirm=4)
    trim_when_opened(monkeypatch, folder, 1)
    done = folder.run("list", "--json")
    other = JournalFolder(folder.folder / "other")
    rolled(other, confirm=4)
    checked = other.run("verify")

    assert [json.loads(line)["position"] for line in done.stdout.splitlines()] == [3, 4, 5]
    assert "2 callbacks were removed by the gateway while this read the journal" in done.stderr
    assert "2 records were removed by the gateway meanwhile" in checked.stdout
    assert "3 good records" in checked.stdout


def test_wrong_use_is_a_sentence_and_2(folder: JournalFolder) -> None:
    """Nothing is a traceback."""
    folder.store([callback(1)])

    assert "--since: yesterday is not a time" in folder.run("list", "--since", "yesterday", expect=2).stderr
    assert "nothing can match" in folder.run("list", "--since", "1h", "--until", "2h", expect=2).stderr
    assert "nothing can match" in folder.run("list", "--from", "3", "--to", "2", expect=2).stderr
    assert "choose one" in folder.run("show", "1", "--body", "--event", expect=2).stderr
    assert "holds no journal" in JournalFolder(folder.folder / "new").run("stat", expect=2).stderr


def test_list_says_what_is_no_longer_kept(folder: JournalFolder) -> None:
    """Only where it was asked for."""
    rolled(folder, confirm=4)
    folder.segments()[0].unlink()

    assert "(position 3); asked from position 1." in folder.run("list", "--from", "1").stderr
    assert (
        "asked from 2023-11-14T22:13:22.000Z." in folder.run("list", "--since", "2023-11-14T22:13:22").stderr
    )
    assert "reaches back" not in folder.run("list", "--since", "2023-11-14T22:13:23").stderr
    assert "reaches back" not in folder.run("list", "--from", "3").stderr
    assert "reaches back" not in folder.run("list").stderr


def test_nothing_is_changed(folder: JournalFolder) -> None:
    """Not a byte, not a time of change, no file more, even where there is damage."""
    rolled(folder, confirm=2)
    folder.flip(HEADER_BYTES + 100, segment=1)
    before = folder.state()
    commands: list[Callable[[], object]] = [
        lambda: folder.run("stat"),
        lambda: folder.run("list", "--newest"),
        lambda: folder.run("show", "1"),
        lambda: folder.run("verify", expect=1),
        lambda: folder.run("replay", "--from", "1", "--dry-run", "--json"),
        lambda: folder.run("export", expect=1),
    ]
    for command in commands:
        command()

        assert folder.state() == before


def test_a_bar_shows_on_a_terminal_only(folder: JournalFolder) -> None:
    """On standard error, and it takes nothing of standard output away."""
    folder.store([callback(n) for n in range(3)])

    assert "3/3" in on_a_terminal(folder, "journal", "verify", err=True)
    assert folder.run("verify").stderr == ""
