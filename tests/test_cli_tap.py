"""gateway tap: events as they go out, from a real gateway, with either broker."""

import contextlib
import json
import os
import signal
import subprocess

import pytest

from tests.gateway_process import GATEWAY, eventually, gateways


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a Gateway in its own folder."""
    with gateways(tmp_path) as build:
        yield build


@pytest.fixture(params=["embedded", "rabbitmq"])
def broker(request):
    """Return ``broker`` of the configuration."""
    if request.param == "embedded":
        return {"url": "embedded:var/broker.db"}
    return {"url": request.getfixturevalue("amqp_url")}


@contextlib.contextmanager
def tap(gateway, *options):
    """Run the command until the block ends; yields it once it follows."""
    said = gateway.folder / f"tap-{len(list(gateway.folder.glob('tap-*')))}.err"
    with said.open("wb") as errors:
        running = subprocess.Popen(
            [GATEWAY, "tap", *options], cwd=gateway.folder, stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
    try:
        eventually(lambda: "following" in said.read_text() or running.poll() is not None, "tap follows")
        yield running
    finally:
        running.kill()
        running.wait()
        running.stdout.close()


def test_events_are_followed_as_they_go_out(make, broker):
    """From the moment it began, in order; with the filters, and whoever looks, nothing is bound for it."""
    gateway = make(broker=broker)
    gateway.start("serve")
    sender = gateway.sender()
    sender.post(0)
    eventually(lambda: gateway.metrics()["gateway_events_published_total"] == 1, "one that nobody follows")
    with (
        tap(gateway, "--limit", "3") as every,
        tap(
            gateway,
            "--subject",
            "group/@TGS#2*",
            "--type",
            "im.group.*",
            "--app",
            "1400000000",
            "--limit",
            "1",
        ) as some,
    ):
        for number, group in enumerate(("@TGS#1", "@TGS#2J", "@TGS#1"), 1):
            sender.post(number, GroupId=group)
        lines = every.communicate(timeout=30)[0].splitlines()
        chosen = some.communicate(timeout=30)[0].splitlines()

        assert (every.returncode, some.returncode) == (0, 0)
    assert [line.split("  ")[3] for line in lines] == ["group/@TGS#1", "group/@TGS#2J", "group/@TGS#1"]
    assert all(line.split("  ")[1:3] == ["im.group.member.exited", "1400000000"] for line in lines)
    assert chosen == [lines[1]]
    shown = gateway.command("topology", "show")
    assert "tap" not in shown


def test_whole_events_are_json_and_hide_what_people_wrote(make):
    """As the console does; with show_content they hold it."""
    for shows, texts in ((False, False), (True, True)):
        gateway = make(console={"show_content": shows})
        gateway.start("run")
        with tap(gateway, "--whole", "--limit", "1") as running:
            gateway.sender().post(1, GroupName="a name that people gave")
            event = json.loads(running.communicate(timeout=30)[0])

        assert event["type"] == "im.group.member.exited"
        assert event["data"]["members"] == ["u1"]
        assert ("a name that people gave" in json.dumps(event)) == texts


def test_what_strangers_name_does_nothing_to_a_terminal(make):
    """Control characters in a group's id are shown as escapes; JSON is ASCII."""
    gateway = make()
    gateway.start("run")
    for options in ((), ("--json",)):
        with tap(gateway, "--limit", "1", *options) as running:
            gateway.sender().post(len(options), GroupId="@TGS#\x1b[2J\u202e")
            said = running.communicate(timeout=30)[0]

        assert said.endswith("\n")
        assert said[:-1].isprintable()


def test_the_end_of_the_gateway_is_a_fault_and_ctrl_c_is_none(make):
    """Whoever pipes it into something learns that it saw not everything."""
    gateway = make()
    process = gateway.start("run")
    with tap(gateway) as interrupted:
        interrupted.send_signal(signal.SIGINT)
        assert interrupted.wait(20) == 0
    with tap(gateway) as left_alone:
        gateway.stop(process)

        assert left_alone.wait(30) == 1


def test_a_reader_that_ends_is_no_fault(make):
    """`gateway tap | head -1`."""
    gateway = make()
    gateway.start("run")
    with tap(gateway) as running:
        sender = gateway.sender()
        sender.post(1)
        assert running.stdout.readline()
        running.stdout.close()
        sender.post(2)

        assert running.wait(20) == 0
    assert "Traceback" not in (gateway.folder / "tap-0.err").read_text()


def test_nothing_runs_here(make):
    """A worker publishes nothing, so it is not asked."""
    assert "no gateway answers at 127.0.0.1:" in make().command("tap", expect=1)
