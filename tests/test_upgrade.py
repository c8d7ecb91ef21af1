"""What an earlier release left behind, a later one goes on with: nothing lost, nothing twice, the same ids.

That each format refuses what a newer release wrote stands with its own tests: journal, embedded broker, sinks.
"""

import json
import sqlite3
import tarfile

import pytest

from tests.gateway_process import Gateway, eventually
from tests.releases import FOLDER, events

ARCHIVES = sorted(FOLDER.glob("*.tar.gz"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def left(request, tmp_path):
    """A gateway whose folder is what that release left; and the events as that release made them."""
    # Why: the archive is older than what is retained by default.
    gateway = Gateway(tmp_path / "gateway", journal={"retain_h": 800_000})
    with tarfile.open(request.param) as packed:
        packed.extractall(gateway.folder, filter="data")
    yield gateway, json.loads((gateway.folder / "events.json").read_text())
    gateway.close()


def rows(gateway):
    with sqlite3.connect(gateway.folder / "var/exits.db") as database:
        found = database.execute("SELECT id FROM events").fetchall()
    database.close()
    return sorted(one for (one,) in found)


def test_an_upgrade_goes_on_where_the_older_release_stopped(left):
    """What waited in the journal and in the broker reaches the sinks, what they had stays, ids are those of before."""
    gateway, made = left
    ids = sorted(event["id"] for event in made)
    assert [line["id"] for line in gateway.lines()] == [made[0]["id"]]
    gateway.start("run")
    eventually(lambda: rows(gateway) == ids, "all rows")
    eventually(lambda: sorted(line["id"] for line in gateway.lines()) == ids, "all lines, each once")

    assert [line["position"] for line in gateway.lines()] == [event["position"] for event in made]
    assert gateway.sender().post(4)
    eventually(lambda: len(rows(gateway)) == 4, "a new one comes behind them")


def test_a_replay_after_an_upgrade_gives_the_same_ids(left):
    """Recipe and window are stored with the callback, so what is published again is what the sinks know."""
    gateway, made = left

    assert [event["id"] for event in events(gateway)] == [event["id"] for event in made]
    assert [event["recordedtime"] for event in events(gateway)] == [event["recordedtime"] for event in made]


def test_every_release_is_kept():
    """There is at least the first."""
    assert "0.1.0.tar.gz" in [path.name for path in ARCHIVES]
