"""``gateway journal export`` on real journals: exact, whole or not at all, for its owner only."""

import base64
import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest

from gateway.callback import Callback
from gateway.cli.journal import showing
from gateway.normalise import normalise
from gateway.record import HEADER_BYTES
from tests.gateway_process import GATEWAY
from tests.journal_folder import APP, EXIT, JournalFolder, callback

PUSH = (Path(__file__).parent / "samples/callbacks/Push.OfflinePush.json").read_bytes()
STORED = [
    callback(1),
    callback(2, "Push.OfflinePush", body=PUSH),
    callback(3, body=b"{ not \xff JSON", verified=False, query="a=\udc80"),
    callback(4, body='{"Name":"群\x9b\u202e"}'.encode(), app_id="14"),
]


@pytest.fixture
def folder(tmp_path: Path) -> JournalFolder:
    return JournalFolder(tmp_path)


def test_lines_give_back_what_was_stored(folder: JournalFolder) -> None:
    """Each field and each byte of each callback; bodies that are no text as base64."""
    journal_id = folder.store(STORED)
    done = folder.run("export")
    found = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.stdout.isascii()
    assert [one["position"] for one in found] == [1, 2, 3, 4]
    assert {one["journal"] for one in found} == {journal_id}
    again = [
        Callback(
            one["app"], one["query"],
            base64.b64decode(one["body_base64"]) if "body_base64" in one else one["body"].encode(),
            one["peer"], one["received_ms"], one["verified"], one["id_recipe"], one["id_window_s"],
        )
        for one in found
    ]  # fmt: skip
    assert again == STORED
    assert [one["command"] for one in found] == [EXIT, "Push.OfflinePush", "", EXIT]
    assert "personal data included" in done.stderr
    assert "4 lines of 4 callbacks" in done.stderr


def test_events_are_those_published(folder: JournalFolder) -> None:
    """Byte for byte, redacted by today's configuration."""
    journal_id = folder.store(STORED)
    expected = [
        event.body.replace(b"\n", b" ")
        for at, one in enumerate(STORED, 1)
        for event in normalise(one, f"{journal_id}.{at}")
    ]
    done = folder.run("export", "--events")
    folder.sections["apps"] = {APP: {"redact": {"members": "drop", "operator": "drop"}}}
    folder.write()

    assert done.stdout_bytes.splitlines() == expected
    assert "redact rules of today's configuration" in done.stderr
    assert "u1" not in folder.run("export", "--events").stdout


def test_filters_and_what_is_not_kept(folder: JournalFolder) -> None:
    """The same as everywhere."""
    folder.store(STORED)
    found = folder.run("export", "--app", "14")
    other = folder.run("export", "--from", "2", "--to", "3").stdout

    assert [json.loads(line)["app"] for line in found.stdout.splitlines()] == ["14"]
    assert "1 lines of 1 callbacks (positions 1 to 4)" in found.stderr
    assert [json.loads(line)["position"] for line in other.splitlines()] == [2, 3]


def test_a_file_is_the_owners_and_never_overwritten(folder: JournalFolder) -> None:
    """Mode 0600, .gz is compressed; one that is there stays unless --force says otherwise."""
    folder.store(STORED)
    plain, packed = folder.folder / "out.jsonl", folder.folder / "out.jsonl.gz"
    [said] = folder.lines("export", str(plain))
    folder.run("export", str(packed))
    expected = folder.run("export", "-").stdout_bytes

    assert said == {
        "file": str(plain),
        "first": 1,
        "last": 4,
        "callbacks": 4,
        "lines": 4,
        "lost": 0,
        "trimmed": 0,
    }
    assert plain.read_bytes() == gzip.decompress(packed.read_bytes()) == expected
    assert {path.stat().st_mode & 0o777 for path in (plain, packed)} == {0o600}
    plain.write_text("mine")
    assert "is there already; --force replaces it" in folder.run("export", str(plain), expect=2).stderr
    assert plain.read_text() == "mine"
    folder.run("export", str(plain), "--force", "--to", "1")
    assert len(plain.read_bytes().splitlines()) == 1
    dangling = folder.folder / "link"
    dangling.symlink_to(folder.folder / "nowhere")
    assert "is there already" in folder.run("export", str(dangling), expect=2).stderr
    assert not list(folder.folder.glob(".*"))


def test_a_file_that_cannot_be_finished_is_not_there(
    folder: JournalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in the middle, or an interrupt, leaves neither half a file nor what was there before changed."""
    folder.store(STORED)
    target = folder.folder / "out.jsonl"
    real = showing.whole

    for fault in (KeyboardInterrupt(), RuntimeError("a bug")):

        def broken(journal_id, stored, fault=fault):
            if stored.position == 3:
                raise fault
            return real(journal_id, stored)

        monkeypatch.setattr(showing, "whole", broken)
        with pytest.raises((AssertionError, RuntimeError)):
            folder.run("export", str(target))
        assert sorted(path.name for path in folder.folder.iterdir()) == ["config.yaml", "journal"]
    target.write_text("before")
    with pytest.raises((AssertionError, RuntimeError)):
        folder.run("export", str(target), "--force")
    assert target.read_text() == "before"


def test_a_file_that_comes_to_be_there_meanwhile_stays(
    folder: JournalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another export at the same time, say."""
    folder.store(STORED)
    target = folder.folder / "out.jsonl"
    real = showing.whole

    def late(journal_id, stored):
        target.write_text("mine")
        return real(journal_id, stored)

    monkeypatch.setattr(showing, "whole", late)

    assert "came to be there meanwhile" in folder.run("export", str(target), expect=2).stderr
    assert target.read_text() == "mine"


def test_places_that_cannot_be_written_are_named(folder: JournalFolder) -> None:
    """No folder, or a disk without room."""
    folder.store([callback(1, body=b"x" * 100_000)])

    said = folder.run("export", str(folder.folder / "none/out"), expect=1).stderr
    assert "can't be written: No such file or directory" in said
    assert "can't be written" in folder.run("export", "/proc/out.jsonl", expect=1).stderr


def test_damage_is_passed_over_and_the_exit_code_tells(folder: JournalFolder) -> None:
    """The others are written; 1 says that it is not all."""
    folder.store(STORED)
    folder.flip(HEADER_BYTES + 100)
    done = folder.run("export", expect=1)

    assert [json.loads(line)["position"] for line in done.stdout.splitlines()] == [2, 3, 4]
    assert "1 positions in this range are damaged" in done.stderr
    assert folder.run("export", "--from", "2").exit_code == 0


def test_huge_bodies_through_a_pipe_that_closes_early(folder: JournalFolder) -> None:
    """`| head -1` is no traceback; large bodies come whole."""
    folder.store([callback(n, body=b'{"x":"%s"}' % (b"y" * 1_000_000)) for n in range(1, 9)])
    words = [GATEWAY, "journal", "export", "--config", str(folder.path)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        first = running.stdout.readline()
        running.stdout.close()
        said = running.stderr.read().decode()

    assert len(json.loads(first)["body"]) == 1_000_008
    assert "Traceback" not in said
