"""``gateway dead`` with both brokers: what is shown, what goes back to its sink, what is removed, what stays."""

import asyncio
import gzip
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from typer.testing import CliRunner, Result

from gateway import build
from gateway.broker import Broker, Delivery
from gateway.cli import app
from gateway.config import Config
from gateway.event import Event
from gateway.metrics import Metrics
from tests.gateway_process import GATEWAY, eventually

T = TypeVar("T")
EXIT = "im.group.member.exited"


def event(
    number: int, type_: str = EXIT, *, app_id: str = "14", group: str = "group/@TGS#1", **data: Any
) -> Event:
    attributes = {
        "specversion": "1.0", "id": f"{number:032x}", "source": f"/tencent-im/{app_id}", "type": type_,
        "appid": app_id, "subject": group, "partitionkey": group, "data": {"n": number, **data},
    }  # fmt: skip
    return Event(json.dumps(attributes, separators=(",", ":")).encode(), attributes)


class Folder:
    """A configuration with the sinks ``crm`` (all events) and ``log``, and commands run on it in this process."""

    def __init__(self, folder: Path, broker: dict[str, Any]) -> None:
        self.folder = folder
        self.path = folder / "config.yaml"
        self.sections: dict[str, Any] = {
            "apps": {"14": {}},
            "broker": broker,
            "sinks": {
                "crm": {"kind": "sqlite", "path": str(folder / "crm.db")},
                "log": {"kind": "jsonl", "path": str(folder / "log.jsonl")},
            },
        }
        self.write()

    def write(self) -> None:
        self.path.write_text(yaml.safe_dump(self.sections))

    def run(self, *words: str, expect: int = 0, **options: Any) -> Result:
        done = CliRunner().invoke(app, ["dead", *words, "--config", str(self.path)], **options)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        assert done.exit_code == expect, done.output
        return done

    def lines(self, *words: str) -> list[Any]:
        return [json.loads(line) for line in self.run(*words, "--json").stdout.splitlines()]

    def ids(self, *words: str) -> list[int]:
        return [int(one["id"], 16) for one in self.lines("list", "--sink", "crm", "--limit", "9999", *words)]

    def on_broker(self, work: Callable[[Broker], Awaitable[T]]) -> T:
        async def run() -> T:
            broker = build.make_broker(Config(**self.sections), Metrics())
            try:
                async with asyncio.timeout(60):
                    return await work(broker)
            finally:
                await broker.close()

        return asyncio.run(run())

    def park(self, events: Sequence[Event], reason: str = "refused", sink: str = "crm") -> None:
        """Publish *events* to *sink* alone and park them."""

        async def park(broker: Broker) -> None:
            async with broker.publisher(sink) as publisher:
                await (await publisher.send(events))
            async with broker.consumer(sink, 1000) as consumer:
                left = len(events)
                while left:
                    for delivery in await consumer.take(left, 0.1):
                        await consumer.park(delivery, reason)
                        left -= 1

        self.on_broker(park)

    def taken(self, count: int, sink: str = "crm") -> list[Delivery]:
        """Take *count* events that wait for *sink*, settle them, and check that these were all."""

        async def take(broker: Broker) -> list[Delivery]:
            found: list[Delivery] = []
            async with broker.consumer(sink, 1000) as consumer:
                while len(found) < count:
                    found += await consumer.take(count - len(found), 0.1)
                await consumer.ack(found)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await consumer.take(1, 0)
            return found

        return self.on_broker(take)


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    return [int(one.message_id, 16) for one in deliveries]


@pytest.fixture(params=["embedded", "rabbitmq"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "embedded":
        return Folder(tmp_path, {"url": f"embedded:{tmp_path}/broker.db"})
    url = request.getfixturevalue("amqp_url")
    return Folder(
        tmp_path, {"url": url, "management_url": request.getfixturevalue("rabbitmq").management_url}
    )


@pytest.fixture
def embedded(tmp_path: Path) -> Folder:
    return Folder(tmp_path, {"url": f"embedded:{tmp_path}/broker.db"})


def mixed(folder: Folder) -> None:
    folder.park([event(1), event(2, "im.group.created"), event(3, app_id="15")])
    folder.park([event(4, group="c2c/a"), event(5, group="group/@TGS#2")], "key_blocked")


def test_a_list_says_why_and_never_what(folder: Folder) -> None:
    """In the order of parking; twice the same; the events stay."""
    mixed(folder)
    done = folder.run("list", "--sink", "crm")
    again = folder.run("list", "--sink", "crm")
    first, *_ = said = folder.lines("list", "--sink", "crm")

    assert [int(one["id"], 16) for one in said] == [1, 2, 3, 4, 5]
    assert {name: first[name] for name in ("type", "app", "group", "reason", "attempt")} == {
        "type": EXIT, "app": "14", "group": "group/@TGS#1", "reason": "refused", "attempt": 1,
    }  # fmt: skip
    assert first["parked"].startswith("20")
    assert first["bytes"] == len(event(1).body)
    assert done.stdout == again.stdout
    assert done.stdout.count(f"{4:032x}") == 1
    assert '"n"' not in done.stdout
    assert "Sink crm: 5, of 5 parked." in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--type", "im.group.*"], [1, 2, 3, 4, 5]),
        (["--type", "im.group.created"], [2]),
        (["--reason", "key_blocked"], [4, 5]),
        (["--group", "@TGS#1"], [1, 2, 3]),
        (["--group", "group/@TGS#2"], [5]),
        (["--app", "15"], [3]),
        (["--id", f"{3:032x}"], [3]),
        (["--since", "1h"], [1, 2, 3, 4, 5]),
        (["--until", "1h"], []),
        (["--reason", "key_blocked", "--group", "a"], [4]),
        (["--limit", "2"], [1, 2]),
    ],
)
def test_only_what_was_chosen(embedded: Folder, words: list[str], expected: list[int]) -> None:
    """By type, reason, group, app, id and the time of parking."""
    mixed(embedded)

    assert embedded.ids(*words) == expected


def test_without_a_sink_how_many_each_has(folder: Folder) -> None:
    """And where there is only one, it is meant."""
    mixed(folder)
    said = folder.run("list").stdout
    [counts] = folder.lines("list")
    del folder.sections["sinks"]["log"]
    folder.write()

    assert said.splitlines() == ["crm: 5 parked", "log: 0 parked"]
    assert counts == {"crm": 5, "log": 0}
    assert len(folder.lines("list")) == 5


def test_one_event_with_all_that_is_known(folder: Folder) -> None:
    """For people with its content on many lines, as JSON exactly."""
    folder.park([event(1, big=12345678901234567890123), event(2)])
    done = folder.run("show", f"{1:032x}", "--sink", "crm").stdout
    [said] = folder.lines("show", f"{1:032x}", "--sink", "crm")
    exact = folder.run("show", f"{1:032x}", "--sink", "crm", "--json").stdout

    assert "reason    refused" in done
    assert re.search(r"^history   20\S+Z crm refused$", done, re.MULTILINE)
    assert [one.split(" ")[1:] for one in said["history"]] == [["crm", "refused"]]
    assert '    "big": 12345678901234567890123\n' in done
    assert said["event"]["data"]["n"] == 1
    assert event(1, big=12345678901234567890123).body.decode() in exact
    folder.run("show", f"{9:032x}", "--sink", "crm", expect=1)


def test_what_is_no_event_is_shown_as_it_is(embedded: Folder) -> None:
    """Text or base64; it can be listed, exported and removed like the others."""
    embedded.park([Event(b"no json \xff", event(1).attributes), Event(b"[1]", event(2).attributes)])
    [first] = embedded.lines("show", f"{1:032x}", "--sink", "crm")
    [second] = embedded.lines("show", f"{2:032x}", "--sink", "crm")

    assert first["body_base64"] == "bm8ganNvbiD/"
    assert second["body"] == "[1]"
    assert "no JSON object" in embedded.run("show", f"{2:032x}", "--sink", "crm").stdout


def test_replay_to_that_sink_alone(folder: Folder) -> None:
    """In order, as a first attempt; the others stay parked, in order; and nobody else gets one."""
    folder.park([event(number, "im.x" if number % 3 else EXIT) for number in range(40)])
    done = folder.run("replay", "--sink", "crm", "--type", EXIT, "--rate", "0")
    found = folder.taken(14)

    assert "Replayed 14 parked events of sink crm" in done.stdout
    assert f"type {EXIT}: 14" in done.stdout
    assert numbers(found) == list(range(0, 40, 3))
    assert {one.attempt for one in found} == {1}
    assert [one.body for one in found] == [event(number).body for number in range(0, 40, 3)]
    assert folder.ids() == [number for number in range(40) if number % 3]
    assert folder.taken(0, "log") == []
    [again] = folder.lines("replay", "--sink", "crm", "--all", "--limit", "3")
    assert (again["events"], again["dry_run"]) == (3, False)
    assert numbers(folder.taken(3)) == [1, 2, 4]


def test_a_dry_run_counts_and_changes_nothing(folder: Folder) -> None:
    """Per type and reason; no --yes needed."""
    folder.park([event(1), event(2)], sink="log")
    folder.park([event(3)], "key_blocked", sink="log")
    [said] = folder.lines("replay", "--sink", "log", "--all", "--dry-run")

    assert said == {
        "sink": "log", "dry_run": True, "events": 3, "types": {EXIT: 3}, "reasons": {"refused": 2, "key_blocked": 1},
    }  # fmt: skip
    assert len(folder.lines("list", "--sink", "log")) == 3
    assert folder.taken(0, "log") == []


def test_a_sink_that_writes_again_needs_a_yes(embedded: Folder) -> None:
    """And says why."""
    embedded.park([event(1)], sink="log")
    said = embedded.run("replay", "--sink", "log", "--all", expect=2).stderr
    embedded.run("replay", "--sink", "log", "--all", "--yes")

    assert said.startswith("--yes: log (jsonl) writes an event again")
    assert len(embedded.taken(1, "log")) == 1


def test_wrong_use_is_a_sentence_and_2(embedded: Folder) -> None:
    """No choice, an unknown sink, none where there are several, times that exclude each other."""
    mixed(embedded)

    assert "say what to replay" in embedded.run("replay", "--sink", "crm", expect=2).stderr
    assert "say what to remove" in embedded.run("purge", "--sink", "crm", "--yes", expect=2).stderr
    assert "no sink 'nobody'" in embedded.run("list", "--sink", "nobody", expect=2).stderr
    assert "say of which sink" in embedded.run("purge", "--all", expect=2).stderr
    assert (
        "nothing can match"
        in embedded.run("list", "--sink", "crm", "--since", "1h", "--until", "2h", expect=2).stderr
    )
    assert "name the one event" in embedded.run("replay", "--sink", "crm", "--all", "--edit", expect=2).stderr
    assert len(embedded.ids()) == 5


def test_purge_says_how_many_and_needs_a_yes(folder: Folder) -> None:
    """Without it nothing is removed; with it what was chosen, and nothing else."""
    mixed(folder)
    dry = folder.run("purge", "--sink", "crm", "--reason", "key_blocked")
    before = folder.ids()
    done = folder.run("purge", "--sink", "crm", "--reason", "key_blocked", "--yes")

    assert "Would purge 2 parked events of sink crm" in dry.stdout
    assert "Nothing was removed" in dry.stderr
    assert before == [1, 2, 3, 4, 5]
    assert "Purged 2 parked events of sink crm" in done.stdout
    assert folder.ids() == [1, 2, 3]
    assert folder.lines("purge", "--sink", "crm", "--all", "--yes")[0]["events"] == 3
    assert folder.ids() == []
    assert "Purged nothing" in folder.run("purge", "--sink", "crm", "--all", "--yes").stdout


def test_export_leaves_them_parked(folder: Folder) -> None:
    """Whole lines in a file of the owner's, or on standard output; never over a file that is there."""
    mixed(folder)
    target = folder.folder / "dead.jsonl.gz"
    done = folder.run("export", str(target), "--sink", "crm", "--app", "14")
    lines = [json.loads(line) for line in gzip.decompress(target.read_bytes()).splitlines()]
    printed = folder.run("export", "--sink", "crm")

    assert [one["event"]["data"]["n"] for one in lines] == [1, 2, 4, 5]
    assert lines[2]["reason"] == "key_blocked"
    assert "4 parked events of sink crm" in done.stdout
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [json.loads(line)["event"]["data"]["n"] for line in printed.stdout.splitlines()] == [1, 2, 3, 4, 5]
    assert "5 parked events" in printed.stderr
    assert "is there already" in folder.run("export", str(target), "--sink", "crm", expect=2).stderr
    assert folder.ids() == [1, 2, 3, 4, 5]


def editor(folder: Folder, code: str) -> str:
    """Return a command that does *code* to the file that is edited, whose text is ``text``."""
    path = folder.folder / "editor.py"
    path.write_text(
        "import pathlib, sys\npath = pathlib.Path(sys.argv[1])\ntext = path.read_text()\n"
        f"{code}\npath.write_text(text)\n"
    )
    return f"{sys.executable} {path}"


def test_an_edited_event_goes_back(folder: Folder) -> None:
    """Edited as readable text, sent as one line; numbers that no float holds stay as they are."""
    folder.park([event(1, big=12345678901234567890123), event(2)])
    words = ["replay", "--sink", "crm", "--edit", "--id", f"{1:032x}"]
    done = folder.run(*words, "--editor", editor(folder, "text = text.replace('\"n\": 1', '\"n\": 11')"))
    [found] = folder.taken(1)

    assert "Replayed 1 edited event" in done.stdout
    assert found.body == event(1, big=12345678901234567890123).body.replace(b'"n":1,', b'"n":11,')
    assert folder.ids() == [2]
    assert folder.run(*words, "--editor", "true", expect=1).stderr.startswith("No event")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("text = text.replace('{', '', 1)", "can't be replayed"),
        ('text = text.replace(\'"n": 1\', \'"n": 1"\')', "can't be replayed"),
        ("text = text.replace('\"appid\"', '\"app\"')", "no text in appid"),
        ("text = text.replace('/tencent-im/14', '/tencent-im/15')", "source was '/tencent-im/14'"),
        ("text = text.replace('0001', '0002')", "would be another event"),
        ("sys.exit(3)", "ended with exit code 3"),
    ],
)
def test_an_edit_that_can_not_be_is_refused(embedded: Folder, code: str, said: str) -> None:
    """It must be an event still, and the same one; the parked one stays."""
    embedded.park([event(1)])
    words = ["replay", "--sink", "crm", "--edit", "--id", f"{1:032x}", "--editor", editor(embedded, code)]

    assert said in embedded.run(*words, expect=2).stderr
    assert embedded.ids() == [1]
    assert embedded.taken(0) == []


def test_an_edit_may_rename_where_told(embedded: Folder) -> None:
    """The one under the old name is gone then."""
    embedded.park([event(1)])
    change = editor(embedded, "text = text.replace('0001', '0002')")
    embedded.run("replay", "--sink", "crm", "--edit", "--rename", "--id", f"{1:032x}", "--editor", change)

    assert numbers(embedded.taken(1)) == [2]
    assert embedded.ids() == []


def test_an_edit_that_changes_nothing(embedded: Folder) -> None:
    """Nothing is replayed."""
    embedded.park([event(1)])
    done = embedded.run("replay", "--sink", "crm", "--edit", "--id", f"{1:032x}", "--editor", "true")

    assert "Nothing was changed" in done.stderr
    assert embedded.ids() == [1]


def test_gone_while_it_was_edited(embedded: Folder) -> None:
    """Somebody else was faster: nothing is replayed twice."""
    embedded.park([event(1)])
    words = [GATEWAY, "dead", "purge", "--sink", "crm", "--all", "--yes", "--config", str(embedded.path)]
    change = editor(
        embedded,
        f"import subprocess; subprocess.run({words!r}, check=True); text = text.replace('\"n\": 1', '\"n\": 2')",
    )
    done = embedded.run(
        "replay", "--sink", "crm", "--edit", "--id", f"{1:032x}", "--editor", change, expect=1
    )

    assert "not parked any more" in done.stderr
    assert embedded.taken(0) == []


def test_a_second_command_is_told_who_is_at_work(folder: Folder) -> None:
    """In another process; nothing is changed, exit code 1."""
    folder.park([event(number) for number in range(30)])
    words = [GATEWAY, "dead", "replay", "--sink", "crm", "--all", "--rate", "5", "--config", str(folder.path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        eventually(lambda: ready(folder) > 0, "some are replayed")
        said = folder.run("list", "--sink", "crm", expect=1).stderr
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)

    assert f"in the hands of gateway dead replay, process {running.pid} on " in said
    assert running.returncode == 130
    assert "Traceback" not in err
    done = int(out.split("Replayed ")[1].split(" ")[0])
    assert f"{done} events are back with their sink" in err
    assert numbers(folder.taken(done)) == list(range(done))
    assert folder.ids() == list(range(done, 30))


def ready(folder: Folder) -> int:
    async def depth(broker: Broker) -> int:
        return (await broker.depth("crm")).ready

    return folder.on_broker(depth)


def test_killed_in_the_middle(folder: Folder) -> None:
    """Nothing is lost, at worst one batch is in both places; the order of parking holds in what comes next."""
    folder.park([event(number) for number in range(60)])
    assert len(folder.ids()) == 60  # Why: on RabbitMQ, what was looked at comes back by another way
    words = [
        GATEWAY,
        "dead",
        "replay",
        "--sink",
        "crm",
        "--all",
        "--rate",
        "40",
        "--config",
        str(folder.path),
    ]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        eventually(lambda: ready(folder) > 7, "some are replayed")
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    sent = numbers(folder.taken(ready(folder)))
    eventually(
        lambda: len(folder.lines("list", "--sink", "crm", "--limit", "99")) >= 60 - len(sent), "given back"
    )
    folder.run("replay", "--sink", "crm", "--all", "--rate", "0")
    rest = numbers(folder.taken(ready(folder)))

    assert sent == list(range(len(sent)))
    assert rest == list(range(rest[0], 60))
    assert len(sent) - 4 <= rest[0] <= len(sent)
    assert folder.ids() == []


def test_a_broker_that_is_away_is_a_sentence_and_1(embedded: Folder) -> None:
    """And nothing of it is a traceback."""
    embedded.sections["broker"] = {"url": "amqp://guest:guest@127.0.0.1:1/"}
    embedded.write()

    assert "nothing listens there" in embedded.run("list", "--sink", "crm", expect=1).stderr
    said = embedded.run("replay", "--sink", "crm", "--all", expect=1).stderr
    assert "nothing listens there" in said
    assert "guest:guest" not in said
