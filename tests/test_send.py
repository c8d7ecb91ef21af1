"""``gateway send`` as a command: against a real gateway, and against servers that behave badly."""

import json
import shutil
import signal
import socketserver
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.catalogue import ROWS
from gateway.cli import app
from gateway.simulator.ledger import read_ledger
from tests.gateway_process import GATEWAY, Gateway, eventually
from tests.services.processes import free_ports

OK = b'{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":""}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n"
ANSWER = HEAD % (len(OK), b"") + OK
TOKEN = "a-token-that-nobody-may-read"
COUNT = 2 * len(ROWS)


class Stub(socketserver.ThreadingTCPServer):
    """A server that answers request number n (from 0) with ``answers(n)``: bytes, or None for silence."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, answers):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.requests = []
        self.connections = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/callback"


class _Handler(socketserver.StreamRequestHandler):
    def handle(self):
        with self.server.lock:
            self.server.connections += 1
        with suppress(OSError):  # the client is gone
            self._answer_all()

    def _answer_all(self):
        while line := self.rfile.readline():
            headers = []
            while (header := self.rfile.readline()) not in (b"\r\n", b""):
                headers.append(header.strip().decode())
            length = next(int(one[15:]) for one in headers if one.lower().startswith("content-length:"))
            body = self.rfile.read(length)
            with self.server.lock:
                number = len(self.server.requests)
                self.server.requests.append((line.decode().strip(), headers, body))
            answer = self.server.answers(number)
            if answer is not None:
                self.wfile.write(answer)
                if b"Connection: close" in answer:
                    return


def run(folder, *words, expect=0):
    """Run ``gateway send --json`` in *folder*; return what it printed, parsed."""
    done = subprocess.run(
        [GATEWAY, "send", "--json", *map(str, words)], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return json.loads(done.stdout) if done.stdout else done.stderr


def to(stub):
    return ("--url", stub.url, "--app", "1400000000")


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """A folder with configuration, ledger and sinks, after every command was sent twice and has arrived."""
    gateway = Gateway(tmp_path_factory.mktemp("send") / "gateway")
    try:
        gateway.start()
        gateway.summary = run(gateway.folder, "--all", "--count", COUNT, "--ledger", "ledger.jsonl")
        gateway.verdict = verify(gateway.folder, "--wait", 30)
        verify(gateway.folder, "--wait", 30, sink="exits")
        yield gateway
    finally:
        gateway.close()


@pytest.fixture
def copy(delivered, tmp_path):
    """A copy of that folder, to be damaged."""
    shutil.copytree(delivered.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("journal", "broker*"))
    return tmp_path / "copy"


def verify(folder, *words, sink="audit", expect=0):
    return run(folder, "--verify", "ledger.jsonl", "--sink", sink, *words, expect=expect)


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def test_every_command_is_accepted(delivered):
    """All of the catalogue, twice, is answered OK and none arrives as unknown or malformed."""
    types = {event["type"] for event in delivered.lines()}

    assert delivered.summary["sent"] == delivered.summary["ok"] == COUNT
    assert delivered.summary["latency_ms"]["max"] > 0
    assert types == {row.type for row in ROWS}


def test_verify_finds_everything(delivered):
    """Every callback that was acknowledged is in the sink, once, and nothing else is."""
    found = delivered.verdict

    assert (found["acknowledged"], found["arrived"]) == (COUNT, COUNT)
    assert (found["lost"], found["duplicated"], found["unexpected"]) == (0, 0, 0)


def test_a_sink_has_to_have_only_what_it_takes(delivered):
    """The sqlite sink of member exits is whole with the two of them."""
    found = verify(delivered.folder, sink="exits")

    assert (found["arrived"], found["elsewhere"], found["lost"]) == (2, COUNT - 2, 0)


def test_verify_finds_a_loss(copy):
    """A line that is missing is an acknowledged callback that is lost, told by its number."""
    path = copy / "var/events.jsonl"
    lines = lines_of(path)
    path.write_bytes(b"".join(lines[:7] + lines[8:]))
    found = verify(copy, expect=1)

    assert (found["lost"], found["arrived"]) == (1, COUNT - 1)
    assert found["lost_numbers"][0] in read_ledger(copy / "ledger.jsonl").entries


def test_verify_finds_what_came_twice_and_what_nobody_sent(copy):
    """A second line of one event is a duplicate; an event that no callback of the ledger gives is unexpected."""
    path = copy / "var/events.jsonl"
    lines = lines_of(path)
    foreign = {**json.loads(lines[0]), "id": "f" * 32, "data": {"raw": {"a": 1}}}
    path.write_bytes(b"".join([*lines, lines[3], json.dumps(foreign).encode() + b"\n"]))
    found = verify(copy)

    assert (found["duplicated"], found["unexpected"], found["lost"]) == (1, 1, 0)


def test_verify_reads_rotated_files_too(copy):
    """A jsonl sink puts full files aside; what stands there has arrived."""
    path = copy / "var/events.jsonl"
    lines = lines_of(path)
    for name, part in (("20260101T000000Z", lines[:50]), ("20260101T000000Z-1", lines[50:100])):
        path.with_name(f"events.jsonl.{name}").write_bytes(b"".join(part))
    path.write_bytes(b"".join(lines[100:]))

    assert verify(copy)["arrived"] == COUNT


def test_verify_tells_what_was_kept_though_unacknowledged(copy):
    """A timeout, a refusal, an answer nobody saw: kept all the same is good news, not a fault."""
    path = copy / "ledger.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    answers = [line for line in lines if "answer" in line]
    answers[0]["answer"], answers[1]["answer"] = "timeout", "journal_full"
    lines.remove(answers[2])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = verify(copy)

    assert (found["acknowledged"], found["refused"], found["unanswered"]) == (COUNT - 3, 1, 2)
    assert (found["kept_unacknowledged"], found["lost"], found["unexpected"]) == (3, 0, 0)


def test_what_waits_in_the_queue_is_not_lost(tmp_path):
    """Without a worker everything stands in the sink's queue; --queue finds it there."""
    gateway = Gateway(tmp_path / "gateway")
    try:
        gateway.start("serve")
        run(gateway.folder, "--all", "--ledger", "ledger.jsonl")
        verify(gateway.folder, expect=1)
        found = eventually(
            lambda: (v := verify_or_none(gateway.folder)) and v["queued"] == len(ROWS) and v, "queued"
        )
    finally:
        gateway.close()

    assert (found["lost"], found["arrived"]) == (0, 0)


def verify_or_none(folder):
    done = subprocess.run(
        [GATEWAY, "send", "--json", "--verify", "ledger.jsonl", "--sink", "audit", "--queue"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return json.loads(done.stdout) if done.returncode == 0 else None


def test_a_redacting_app_is_proved_to_the_last_callback(tmp_path):
    """Its events have no body, and some ids depend on when they were received: each is found all the same."""
    app = {"redact": {"operator": "drop", "from": "hash", "message": "drop"}, "redact_key": "k" * 16}
    gateway = Gateway(tmp_path / "gateway", apps={"1400000000": app}, journal={"id_window_s": 3})
    try:
        gateway.start()
        run(gateway.folder, "--all", "--ledger", "ledger.jsonl")
        found = verify(gateway.folder, "--wait", 30)
        lines = gateway.lines()
    finally:
        gateway.close()

    assert (found["acknowledged"], found["arrived"]) == (len(ROWS), len(ROWS))
    assert (found["lost"], found["duplicated"], found["unexpected"]) == (0, 0, 0)
    assert sum(event["timesource"] == "received" for event in lines) > 5
    assert not any("raw" in event["data"] for event in lines)


def test_a_signed_app_takes_what_its_token_signed(tmp_path):
    """The configuration's token signs by default; another one, or none, is refused by its token and exit code 1."""
    gateway = Gateway(tmp_path / "gateway", apps={"1400000000": {"tokens": [TOKEN]}})
    try:
        gateway.start()
        signed = run(gateway.folder, "--count", 5)
        wrong = run(gateway.folder, "--count", 3, "--token", "another-token-altogether", expect=1)
        unsigned = run(gateway.folder, "--count", 2, "--token", "", expect=1)
    finally:
        gateway.close()

    assert signed["ok"] == 5
    assert wrong["refused"] == {"bad_signature": 3}
    assert unsigned["refused"] == {"bad_signature": 2}


def test_kill_9_of_the_sender_leaves_a_readable_ledger(tmp_path):
    """Everything that was acknowledged stands in it, and arrives; the rest is an intent without answer."""
    gateway = Gateway(tmp_path / "gateway")
    path = gateway.folder / "ledger.jsonl"
    try:
        gateway.start()
        sender = subprocess.Popen(
            [GATEWAY, "send", "--rate", "300", "--duration", "60", "--ledger", path], cwd=gateway.folder
        )
        eventually(lambda: path.exists() and path.read_bytes().count(b'"answer"') > 50, "fifty answers")
        sender.send_signal(signal.SIGKILL)
        sender.wait(10)
        found = verify(gateway.folder, "--wait", 30)
    finally:
        gateway.close()

    assert found["acknowledged"] > 50
    assert (found["lost"], found["unexpected"]) == (0, 0)


def test_a_server_that_never_answers_is_a_timeout(tmp_path):
    """Each attempt waits its time, the same body is sent again as often as --retry says, and it shows."""
    with Stub(lambda number: None) as stub:
        words = ("--count", 3, "--connections", 3, "--timeout", 0.5, "--retry", 1)
        summary = run(tmp_path, *to(stub), *words, "--ledger", "l", expect=1)

    assert (summary["timeouts"], summary["ok"], summary["repeats"]) == (3, 0, 3)
    assert eventually(lambda: len(stub.requests) == 6, "six requests")
    assert len({body for _, _, body in stub.requests}) == 3
    assert [entry.answer for entry in read_ledger(tmp_path / "l").entries.values()] == ["timeout"] * 3


def test_a_retry_on_timeout_may_be_answered(tmp_path):
    """The first attempt stays silent, the second is acknowledged: the callback is."""
    with Stub(lambda number: None if number == 0 else ANSWER) as stub:
        summary = run(tmp_path, *to(stub), "--timeout", 1, "--retry", 2)

    assert (summary["ok"], summary["repeats"]) == (1, 1)


def test_an_answer_that_comes_late_belongs_to_nobody(tmp_path):
    """What arrives after the deadline is not taken for the next callback's answer."""

    def slow(number):
        if number == 0:
            time.sleep(1.5)
        return ANSWER

    with Stub(slow) as stub:
        summary = run(tmp_path, *to(stub), "--count", 2, "--connections", 1, "--timeout", 0.7, expect=1)

    assert (summary["ok"], summary["timeouts"]) == (1, 1)


def test_a_rate_is_kept(tmp_path):
    """Rate times duration callbacks go out, not one more, and the summary tells how late."""
    with Stub(lambda number: ANSWER) as stub:
        summary = run(tmp_path, *to(stub), "--rate", 200, "--duration", 0.5, "--connections", 4)

    assert summary["sent"] == summary["ok"] == len(stub.requests) == 100
    assert summary["behind"] == 0
    assert summary["late_ms"]
    assert stub.connections <= 4


def test_a_rate_that_can_not_be_kept_is_told(tmp_path):
    """A server that is too slow leaves callbacks unsent: they are counted, and the exit code is 1."""
    with Stub(lambda number: time.sleep(0.2) or ANSWER) as stub:
        words = ("--rate", 100, "--duration", 0.5, "--connections", 1, "--timeout", 0.5)
        summary = run(tmp_path, *to(stub), *words, expect=1)

    assert summary["behind"] > 0
    assert summary["sent"] + summary["behind"] == 50


def test_the_request_is_tencents(tmp_path):
    """Host and Content-Length are the only headers, and connections are kept."""
    with Stub(lambda number: ANSWER) as stub:
        run(tmp_path, *to(stub), "--count", 20, "--connections", 2, "--seed", 5)
        run(tmp_path, *to(stub), "--count", 20, "--connections", 1, "--seed", 5)
    line, headers, body = stub.requests[0]

    assert line.startswith(
        "POST /callback?SdkAppid=1400000000&CallbackCommand=Group.CallbackAfterMemberExit&"
    )
    assert [header.split(":")[0] for header in headers] == ["Host", "Content-Length"]
    assert json.loads(body)["CallbackCommand"] == "Group.CallbackAfterMemberExit"
    assert stub.connections == 3
    assert {one for _, _, one in stub.requests[:20]} == {one for _, _, one in stub.requests[20:]}


def test_a_server_that_closes_each_connection_loses_nothing(tmp_path):
    """Connection: close is heeded: the next callback takes a new connection."""
    closing = HEAD % (len(OK), b"Connection: close\r\n") + OK
    with Stub(lambda number: closing) as stub:
        assert run(tmp_path, *to(stub), "--count", 10, "--connections", 2)["ok"] == 10


def test_nobody_listening_is_a_connection_error(tmp_path):
    """It is told apart from refusals and timeouts."""
    url = f"http://127.0.0.1:{free_ports(1)[0]}/"
    summary = run(tmp_path, "--url", url, "--app", "1", "--count", 3, expect=1)

    assert summary["connection_errors"] == 3
    done = CliRunner().invoke(app, ["send", "--url", url, "--app", "1"])
    assert f"Nothing speaks HTTP at {url}: does the gateway run there?" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--command", "No.Such"), "--command"),
        (("--all", "--command", "State.StateChange"), "--all and --command"),
        (("--ledger", "taken"), "taken exists"),
        (("--sink", "audit"), "belong to --verify"),
        (("--url", "http://127.0.0.1/?a=b"), "--url"),
        (("--app", "x"), "--app"),
        (("--app", "77"), "no app 77"),
        (("--verify", "taken", "--sink", "audit"), "not a ledger"),
        (("--verify", "taken", "--sink", "none"), "audit, exits"),
        (("--verify", "gone", "--sink", "audit"), "No such file"),
        (("--rate", "0"), "rate"),
    ],
)
def test_wrong_options_have_exit_code_2(tmp_path, monkeypatch, words, says):
    """And a sentence; nothing was sent."""
    folder = Gateway(tmp_path / "gateway").folder
    (folder / "taken").write_text("{}\n")
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, ["send", *words])

    assert done.exit_code == 2
    assert says in done.output


def test_an_interrupt_prints_the_summary(tmp_path):
    """Ctrl-C ends a run with what was counted so far, and exit code 130."""
    with Stub(lambda number: ANSWER) as stub:
        words = [GATEWAY, "send", "--json", *to(stub), "--rate", "100", "--duration", "60"]
        sender = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE)
        eventually(lambda: len(stub.requests) > 10, "ten requests")
        sender.send_signal(signal.SIGINT)
        printed, _ = sender.communicate(timeout=30)

    assert sender.returncode == 130
    assert json.loads(printed)["ok"] > 5


def test_without_json_the_summary_is_for_people(tmp_path):
    """Sent, answered, refused, timed out, latency, and the seed that repeats it."""
    with Stub(lambda number: ANSWER) as stub:
        done = subprocess.run(
            [GATEWAY, "send", *to(stub), "--seed", "9"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert done.returncode == 0
    assert "answered OK        1" in done.stdout
    assert "p99.9" in done.stdout
    assert done.stdout.endswith("seed               9\n")
    assert not Path(tmp_path / "var").exists()
