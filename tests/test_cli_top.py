"""gateway top: the overview in a terminal, from real processes."""

import io
import os
import pty
import signal
import subprocess

import pytest
from rich.console import Console

from gateway.cli.top import page, within
from tests.gateway_process import GATEWAY, eventually, gateways


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a Gateway in its own folder."""
    with gateways(tmp_path) as build:
        yield build


def told_of(**changes):
    """Return an overview as the API tells it, of a gateway that has done nothing yet."""
    now = {
        "at_s": 1000.0,
        "apps": {"1": {"last_s": 0.0, "stored": 0.0, "skew_s": 0.0}},
        "requests": {"stored": 0, "probes": 0, "refused": {}},
        "answers": {"count": 0, "buckets": {}},
        "journal": {"waiting": 0, "oldest_s": 0, "waiting_bytes": 0, "capacity_bytes": 1 << 20, "is_full": 0},
        "broker": {"connected": {}, "published": 0, "unconfirmed": 0, "unrouted": 0},
        "sinks": {},
    }
    about = {"version": "1", "serves": True, "works": [], "sinks": ["a"], **changes.pop("about", {})}
    return {
        "about": about,
        "level": "green",
        "causes": [],
        "now": {**now, **changes.pop("now", {})},
        "minute": None,
        **changes,
    }


def shown(*told, faults=()):
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(page({f"127.0.0.1:{at}": one for at, one in enumerate(told)}, faults))
    return console.export_text()


def test_what_is_not_well_stands_above_the_figures():
    """With its level in words; the worst of all processes is the page's, and each cause stands there once."""
    cause = {"level": "red", "text": "The journal is full.", "page": ""}
    said = shown(told_of(), told_of(level="red", causes=[cause]), told_of(level="red", causes=[cause]))

    assert said.lstrip().startswith("red")
    assert "Mend this" in said
    assert said.count("The journal is full.") == 1
    assert said.index("The journal is full.") < said.index("callbacks")


def test_sinks_of_gateway_and_worker_are_one_row_each():
    """The gateway knows what waits, the worker what it does with it."""
    here = told_of(now={"sinks": {"a": {"waiting": 7.0}}})
    worker = told_of(
        about={"serves": False, "works": ["a"]},
        now={
            "sinks": {
                "a": {
                    "waiting": 5.0,
                    "written": 1234.0,
                    "is_available": 0.0,
                    "away": {"since_s": 1, "reason": "disk"},
                }
            }
        },
    )
    for order in ((here, worker), (worker, here)):
        said = shown(*order)
        [row] = [line for line in said.splitlines() if line.strip().startswith("a ")]

        assert row.split()[:6] == ["a", "away:", "disk", "1,234", "5", "–"]


def test_names_are_text_and_no_markup():
    """A sink or an app can't colour the page."""
    assert "[red]x" in shown(told_of(about={"sinks": ["[red]x"]}))


@pytest.mark.parametrize(("share", "said"), [(0.5, "≤ 1 ms"), (0.9, "≤ 5 ms"), (0.99, "more than 5 s")])
def test_answer_times_are_told_from_buckets(share, said):
    """Of the last minute: what was counted before does not count."""
    before = {"answers": {"count": 100, "buckets": {"0.001": 0, "0.005": 0, "+Inf": 100}}}
    now = {"answers": {"count": 110, "buckets": {"0.001": 6, "0.005": 9, "+Inf": 110}}}

    assert within(now, before, share) == said
    assert within(before, before, share) == ""


def test_a_gateway_at_work(make):
    """Once, off a terminal: what came in, what was written, and that all is well."""
    gateway = make()
    gateway.start("run")
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(3))
    eventually(lambda: len(gateway.lines()) == 3, "three in the sink")
    said = eventually(
        lambda: (text := gateway.command("top", "--once")) and "3 stored" in text and text, "three stored"
    )

    assert f"run 127.0.0.1:{gateway.admin_port}" in said
    assert "App 1400000000: last callback" in said
    [row] = [line for line in said.splitlines() if line.startswith(" audit")]
    assert row.split()[:4] == ["audit", "takes", "events", "3"]


def test_nothing_runs(make):
    """The command says where it looked."""
    assert "no gateway answers at 127.0.0.1:" in make().command("top", expect=1)


def test_on_a_terminal_it_goes_on_until_it_is_interrupted(make):
    """It is drawn anew, says so when the gateway goes, and Ctrl-C is no fault."""
    gateway = make()
    process = gateway.start("run")
    ours, theirs = pty.openpty()
    top = subprocess.Popen(
        [GATEWAY, "top", "--every", "0.2"], cwd=gateway.folder, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "50"},
    )  # fmt: skip
    try:
        os.close(theirs)
        text = b""
        while text.count(b"callbacks") < 3:
            text += os.read(ours, 65536)
        gateway.stop(process)
        while b"Nothing runs here any more" not in text:
            text += os.read(ours, 65536)
        top.send_signal(signal.SIGINT)

        assert top.wait(20) == 0
    finally:
        top.kill()
        top.wait()
        os.close(ours)
