"""Bad input: whatever comes, each request gets its answer, and nothing that was stored is lost or in the way.

`make test` fuzzes for some seconds with a new seed each time, `make fuzz SECONDS=600 SEED=7` for longer. The
seed is printed; an input that fails is kept under var/fuzz.
"""

import asyncio
import contextlib
import json
import os
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from random import Random, SystemRandom

import pytest
from jsonschema import Draft202012Validator

from gateway.answer import LATE, LEGACY_OK, OK, REFUSALS
from gateway.callback import Accepted, AppRule, Probe, Rules, decide
from gateway.errors import Refused
from gateway.event import Event, one_line, parse_json, without_nul
from gateway.journal.readonly import open_readonly
from gateway.normalise import ID_RECIPE, normalise
from gateway.record import pack, unpack
from gateway.redact import Redaction
from gateway.schema import event_schema, event_types
from gateway.sinks.rows import shape
from tests.fuzz.generator import (
    ABSURD_HEADERS,
    MAX_BODY_BYTES,
    NUMBERS,
    OPEN_APP,
    SIGNED_APP,
    TOKEN,
    Case,
    Pairs,
    body_of,
    dump,
    http_case,
    nest,
    query_of,
    request,
    retyped,
    with_header,
)
from tests.gateway_process import Gateway, eventually

SEED = os.environ.get("SEED") or str(SystemRandom().randrange(10**9))
SECONDS = float(os.environ.get("FUZZ_SECONDS") or 4)
KEPT = Path("var/fuzz")
BATCH, AT_ONCE = 256, 128
MEMORY_MB = 64
"""How much more the process may hold at the end of a run than after its first 10 s. Seen: 4 to 18 MB."""
ANSWERS = {(row.status, row.token) for row in (*REFUSALS.values(), LATE) if row.status != 500}
EXIT = "Group.CallbackAfterMemberExit"
VALIDATORS = {name: Draft202012Validator(event_schema(name)) for name in event_types()}
RULES = Rules(
    apps={
        OPEN_APP: AppRule(OPEN_APP, "/callback", ()),
        SIGNED_APP: AppRule(SIGNED_APP, "/signed", (TOKEN,)),
    },
    paths=frozenset({"/callback", "/signed"}),
    signature_window_s=10**9,
    id_recipe=ID_RECIPE,
    id_window_s=10,
)
REDACTION = Redaction.of(
    {
        **dict.fromkeys(("operator", "clientip", "message.elements"), "drop"),
        **dict.fromkeys(("accounts", "members", "from", "group_id"), "hash"),
    },
    "k" * 16,
)

pytestmark = pytest.mark.timeout(120 + 3 * SECONDS)


def fail(name, number, sent, why):
    """Keep the input that failed, and show it with what gives it again."""
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / f"{SEED}-{name.replace(' ', '-')}-{number}.bin"
    path.write_bytes(sent)
    shown = sent.hex() if len(sent) <= 4096 else f"{sent[:4096].hex()}… ({len(sent)} bytes)"
    pytest.fail(f"{why}\nSEED={SEED}, {name} {number}, kept in {path}:\n{shown}", pytrace=False)


# One body through the pure stages


def judged(body, command, *, signed=False):
    """Return the callback of *body*, or None when it is refused or a probe."""
    path = "/signed" if signed else "/callback"
    try:
        decision = decide(
            RULES, "POST", path, query_of(command, signed=signed), "", body, "127.0.0.1", 1_670_574_414_123
        )
    except Refused as refused:
        assert refused.reason == "malformed_body"
        assert not signed
        return None
    assert_is_ok(decision.answer)
    if isinstance(decision, Probe):
        return None
    assert isinstance(decision, Accepted)
    assert unpack(pack(decision.callback)) == decision.callback
    return decision.callback


def assert_is_ok(answer):
    read = json.loads(answer)
    assert answer in (OK, LEGACY_OK) or (read["ActionStatus"], read["ErrorCode"]) == ("OK", 0)


def assert_event_is_sound(event, *, with_schema):
    """Every later stage can read it: parser, log line, database, schema."""
    parsed = Event.parse(event.body)
    assert re.fullmatch("[0-9a-f]{32}", parsed.id)
    assert (parsed.type, parsed.app_id) == (event.type, event.app_id)
    line = one_line(event.body)
    assert b"\n" not in line
    assert b"\r" not in line
    assert parse_json(line, 66) == parsed.attributes
    json.loads(line.decode("utf-8"), parse_int=str)
    stored = without_nul(line)
    assert b"\\u0000" not in stored.replace(b"\\\\", b"")
    parse_json(stored, 66)
    for name in ("subject", "partitionkey", "command", "clientip", "platform"):
        value = parsed.attributes.get(name, "")
        assert len(value.encode()) <= 255
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", value)
    assert len(event.routing_key.encode()) <= 255
    rows, failures = shape([parsed])
    assert not failures
    assert len(rows) == 1
    if with_schema:
        VALIDATORS[event.type].validate(parsed.attributes)


def assert_body_is_harmless(body, command, *, signed=False, redaction=None, with_schema=True):
    """Return the events of *body*, each of them sound, the same each time, and quickly made."""
    started_s = time.thread_time()
    callback = judged(body, command, signed=signed)
    if callback is None:
        return []
    how = {} if redaction is None else {"redaction": redaction}
    events = normalise(callback, "j.1", **how)
    assert time.thread_time() - started_s < 2, "takes longer than the sender waits"
    again = normalise(callback, "j.1", **how)
    assert [event.body for event in again] == [event.body for event in events]
    assert len({event.attributes["position"] for event in events}) == len(events) >= 1
    for event in events[:3]:
        assert_event_is_sound(event, with_schema=with_schema and len(event.body) < 100_000)
    return events


def test_bodies_by_structure():
    """Types swapped, keys dropped, doubled, renamed, nested, huge, broken: all become events or a refusal."""
    print(f"SEED={SEED}")
    ends_s = time.monotonic() + SECONDS / 3
    number = stored = 0
    while time.monotonic() < ends_s:
        rng = Random(f"{SEED}/body/{number}")
        command, body = body_of(rng)
        why = ""
        signed, redaction = rng.random() < 0.3, REDACTION if rng.random() < 0.2 else None
        try:
            stored += bool(
                assert_body_is_harmless(
                    body, command, signed=signed, redaction=redaction, with_schema=number % 4 == 0
                )
            )
        except Exception as error:  # noqa: BLE001 - whatever escapes is the finding
            why = f"{type(error).__name__}: {error}"[:2000]
        if why:
            fail("body", number, body, f"{why}\ncommand {command!r}")
        number += 1
    print(f"{number} bodies, {stored} of them stored")
    assert stored > number / 3


def test_a_value_in_another_shape_shares_nothing_with_the_first():
    """Else a later change of the one breaks the other, and the generator with it."""
    for seed in range(100):
        first = Pairs([["a", Pairs([["b", 1]])], ["c", [2]]])
        before = dump(first)
        stack = [retyped(Random(seed), first)]
        while stack:
            one = stack.pop()
            if isinstance(one, list):
                stack.extend(one)
                one.clear()

        assert dump(first) == before


# Requests at a real process


class Target:
    """A running gateway, everything of which ends up in both sinks, and what was seen of it so far."""

    def __init__(self, folder):
        everything = {"events": ["#"]}
        self.gateway = Gateway(
            folder,
            listen={
                "header_timeout_s": 0.4,
                "body_timeout_s": 0.5,
                # Why not less: on a busy machine a client may take that long to write after it has connected.
                "keepalive_timeout_s": 1,
                "signature_window_s": 10**9,
                "max_body_bytes": MAX_BODY_BYTES,
            },
            apps={OPEN_APP: {"path": "/callback"}, SIGNED_APP: {"path": "/signed", "tokens": [TOKEN]}},
            sinks={
                "audit": {"kind": "jsonl", "path": "var/events.jsonl", "rotate_mb": 0, **everything},
                "exits": {"kind": "sqlite", "path": "var/exits.db", **everything},
            },
        )
        self.process = self.gateway.start("run")
        self.checked = self.read_to = self.log_at = 0
        self.expected, self.in_jsonl = set(), set()

    def assert_is_calm(self):
        """It runs, and logged no error."""
        assert self.process.poll() is None, "the process ended"
        with (self.gateway.folder / "0-run.err").open("rb") as log:
            log.seek(self.log_at)
            lines = log.read().split(b"\n")[:-1]
        self.log_at += sum(len(line) + 1 for line in lines)
        bad = [line for line in lines if b'"level": "error"' in line or b'"level": "critical"' in line]
        strange = [line for line in lines if not line.startswith(b"{")]
        assert not bad + strange, b"\n".join((bad + strange)[:20]).decode("utf-8", "replace")

    def assert_counts_hold(self):
        """answered = refused + probes + stored; stored + hang-ups after storing = head."""

        def sums():
            found = self.gateway.metrics()

            def total(name):
                return sum(value for key, value in found.items() if key.startswith(f"gateway_{name}"))

            stored = total("callbacks_stored_total")
            answered = total("requests_refused_total") + total("requests_probes_total") + stored
            head = found["gateway_journal_head_position"]
            return [
                (total("requests_answered_total"), answered),
                (stored + found["gateway_requests_hangups_total{stored=yes}"], head),
                (0, total("requests_inflight")),
                (0, found["gateway_requests_refused_total{reason=internal_error}"]),
                (0, found.get("gateway_publish_failures_total", 0)),
            ]

        last = [(0, 1)]

        def holds():
            last[:] = sums()
            return all(left == right for left, right in last)

        with contextlib.suppress(AssertionError):
            eventually(holds, "the counts", 10)
        assert all(left == right for left, right in last), last

    def assert_all_arrived(self):
        """Every callback in the journal becomes events that both sinks have, and nothing else is there."""
        journal = open_readonly(self.gateway.folder / "var/journal")
        for record in journal.records(self.checked):
            for event in normalise(record.callback, f"{journal.id}.{record.position}"):
                self.expected.add(event.id)
            self.checked = record.position
        eventually(lambda: self._jsonl() >= self.expected, "all events in the jsonl sink")
        eventually(lambda: self._sqlite() >= len(self.expected), "all events in the sqlite sink")
        assert self.in_jsonl == self.expected
        with closing(self._database()) as database:
            assert {one for (one,) in database.execute("SELECT id FROM events")} == self.expected
        parked = {k: v for k, v in self.gateway.metrics().items() if "sink_parked" in k and v}
        assert not parked

    def _jsonl(self):
        path = self.gateway.folder / "var/events.jsonl"
        if path.exists():
            with path.open("rb") as file:
                file.seek(self.read_to)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self.in_jsonl.add(Event.parse(line).id)
                    self.read_to += len(line)
        return self.in_jsonl

    def _database(self):
        return sqlite3.connect(f"file:{self.gateway.folder}/var/exits.db?mode=ro", uri=True, timeout=30)

    def _sqlite(self):
        with closing(self._database()) as database:
            return database.execute("SELECT count(*) FROM events").fetchone()[0]

    def memory_mb(self):
        """Return its resident memory, 0 where this system does not tell."""
        path = Path(f"/proc/{self.process.pid}/status")
        found = re.search(r"VmRSS:\s+(\d+)", path.read_text()) if path.exists() else None
        return int(found[1]) / 1024 if found else 0

    async def play(self, case):
        """Send *case* and return its answers, each of them one of the design."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        received, is_reset = bytearray(), False

        async def listen():
            nonlocal is_reset
            try:
                while data := await reader.read(65536):
                    received.extend(data)
                    if case.answers is not None and len(answers_of(received, case.sent)) >= case.answers:
                        return
            except ConnectionError:
                is_reset = True

        listening = asyncio.ensure_future(listen())
        try:
            with contextlib.suppress(ConnectionError):
                for at, part in enumerate(case.parts):
                    if at and case.pause_s:
                        await asyncio.sleep(case.pause_s)
                    writer.write(part)
                    await writer.drain()
            if not case.hangs_up:
                async with asyncio.timeout(
                    30
                ):  # the deadlines are below a second; this is for a busy machine
                    await listening
        except TimeoutError:
            raise AssertionError(f"neither answered nor closed, {len(received)} bytes came") from None
        finally:
            listening.cancel()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        answers = answers_of(received, case.sent, may_be_cut=is_reset or case.hangs_up)
        if case.answers is not None and not any(one[1].get("connection") == "close" for one in answers):
            assert len(answers) == case.answers, f"{len(answers)} answers for {case.answers} requests"
        return answers

    def post(self, body, command=EXIT, *, signed=False):
        """Post one body in good form; return status and token, "" of a 200."""
        path = "/signed" if signed else "/callback"
        sent = request(f"{path}?{query_of(command, signed=signed)}", body)
        [answer] = asyncio.run(self.play(Case("one", [sent], answers=1)))
        return status_of(answer)


def answers_of(received, sent, *, may_be_cut=True):
    """Return (status, headers, body) of each answer in *received*; each must be one of the design."""
    rest, answers = bytes(received), []
    while rest:
        head, end, rest = rest.partition(b"\r\n\r\n")
        if not end:
            assert may_be_cut, head
            break
        match = re.match(rb"HTTP/(?:1\.[01]|0\.9) (\d{3}) ", head)
        assert match, head[:200]
        status = int(match[1])
        if status == 100:
            continue
        headers = {
            name.lower(): value for name, value in re.findall(r"^([\w-]+): (.*?)\r?$", head.decode(), re.M)
        }
        length = int(headers["content-length"])
        body, rest = rest[:length], rest[length:]
        if body.startswith(b"HTTP/") or (not body and b"HEAD" in sent.upper()):
            body, rest = b"", body + rest  # the answer to a HEAD
        elif len(body) < length:
            assert may_be_cut, (head, body)
            break
        assert headers["content-type"] == "application/json", headers
        if body:
            read = json.loads(body)
            if status == 200:
                assert_is_ok(body)
            else:
                assert (read["ActionStatus"], read["ErrorCode"]) == ("FAIL", status), body
                assert (status, read["ErrorInfo"]) in ANSWERS, body
        assert status != 503 or "retry-after" in headers
        answers.append((status, headers, body))
    return answers


def status_of(answer):
    status, _, body = answer
    return status, "" if status == 200 else json.loads(body)["ErrorInfo"]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """One process for all tests of this file: what one of them sends, the next ones have to live with."""
    found = Target(tmp_path_factory.mktemp("fuzz"))
    yield found
    code = found.gateway.stop(found.process)
    found.gateway.close()
    assert code == 0


@pytest.fixture(autouse=True)
def _is_well_afterwards(request):
    """After each test with a process: no error logged, counts hold, everything stored has arrived."""
    yield
    if "target" in request.fixturenames:
        target = request.getfixturevalue("target")
        target.assert_is_calm()
        target.assert_counts_hold()
        target.assert_all_arrived()
        target.assert_is_calm()


async def play_all(target, cases):
    """Play *cases*, AT_ONCE side by side; return the number and the fault of the first that fails, or None."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def play(case):
        async with turn:
            return await target.play(case)

    done = await asyncio.gather(*map(play, cases), return_exceptions=True)
    return next(((at, one) for at, one in enumerate(done) if isinstance(one, BaseException)), None)


def complaint(target):
    """Return what the process complains of since the last look, "" for nothing."""
    try:
        target.assert_is_calm()
    except AssertionError as error:
        return str(error)
    return ""


def culprit(target, cases):
    """Play *cases* one by one; return the place of the first after which an error is logged, or -1."""
    for at, case in enumerate(cases):
        with contextlib.suppress(AssertionError, OSError):
            asyncio.run(target.play(case))
        time.sleep(0.1)
        if complaint(target):
            return at
    return -1


def test_requests_by_structure(target):
    """Cut, doubled, changed, chunked, pipelined, slow, absurd: each answer is one of the design, none is 5xx."""
    print(f"SEED={SEED}")
    ends_s = time.monotonic() + SECONDS * 2 / 3
    settle_s = time.monotonic() + 10
    number, first_mb = 0, 0.0
    while time.monotonic() < ends_s:
        cases = [http_case(Random(f"{SEED}/http/{at}")) for at in range(number, number + BATCH)]
        fault = asyncio.run(play_all(target, cases))
        if fault is not None:
            at, error = fault
            fail(cases[at].name, number + at, cases[at].sent, f"{type(error).__name__}: {error}")
        if why := complaint(target):
            at = culprit(target, cases)
            sent = cases[at].sent if at >= 0 else b"\n\n".join(case.sent for case in cases)
            fail("logged", number + max(at, 0), sent, why)
        number += BATCH
        if time.monotonic() > settle_s:
            target.assert_counts_hold()
            target.assert_all_arrived()
            first_mb = first_mb or target.memory_mb()
            settle_s = time.monotonic() + 10
    grown_mb = target.memory_mb() - first_mb if first_mb else 0
    print(f"{number} connections, {target.memory_mb():.0f} MB, {grown_mb:+.0f} MB since the first 10 s")
    assert target.post(b"{}") == (200, "")
    assert grown_mb < MEMORY_MB


def test_deep_nesting(target):
    """64 deep is taken; deeper is refused from a stranger and kept as malformed from a verified sender."""
    for depth in (63, 64, 65, 1000, 300_000):
        for inner in (b"1", b'"\\ud800"', b"1" * 30, b'"x", ' if depth > 64 else b'"x"'):
            body = b'{"GroupId":"deep","x":' + nest(depth - 1, inner).text + b"}"
            expected = (200, "") if depth <= 64 else (400, "malformed_body")
            assert (depth, target.post(body)) == (depth, expected)
            assert target.post(body, signed=True) == (200, "")
            assert_body_is_harmless(body, EXIT)
            assert_body_is_harmless(body, EXIT, signed=True)


def test_huge_numbers(target):
    """Wherever a number, a time or an id may stand."""
    row = b",".join(
        b'"%s":%%b' % name
        for name in (b"EventTime", b"MsgTime", b"MsgSeq", b"GroupId", b"Operator_Account", b"ExitMemberList")
    )
    for number in (*NUMBERS, b"1" * 100_000, b"1" + b"0" * 400 + b".5", b"1e" + b"9" * 5000):
        body = b"{" + row % ((number,) * 6) + b"}"
        assert (number[:40], target.post(body)) == (number[:40], (200, ""))
        for event in assert_body_is_harmless(body, EXIT):
            assert event.type == "im.group.member.exited"


def test_strings_of_a_mebibyte(target):
    """Plain, escaped and in every place that becomes part of an address or an id."""
    units = [b"a", b"\\u0000\\\\", b"\\ud800", "中".encode()]
    names = [b"GroupId", b"EventTime", b"ExitMemberList", b"Unknown"]
    for unit, name in zip(units, names, strict=True):
        body = b'{"%b":"%b"}' % (name, unit * (1_048_576 // len(unit)))
        assert (unit, name, target.post(body)) == (unit, name, (200, ""))
        assert_body_is_harmless(body, EXIT)
    body = b'{"' + b"K" * 1_048_576 + b'":1}'
    assert target.post(body) == (200, "")
    assert_body_is_harmless(body, EXIT)


def test_a_hundred_thousand_keys(target):
    """All in one object, at the top and further in, under names that are shortened or cleaned."""
    for name, around in (
        ("k%d", b"{%b}"),
        ("A_B_C%d", b'{"GroupInfo":{%b}}'),
        ("\\u0000%d_", b'{"MsgBody":[{"MsgType":"x","MsgContent":{%b}}]}'),
    ):
        keys = b",".join(b'"%b":%d' % (name.replace("%d", str(at)).encode(), at) for at in range(100_000))
        body = around % keys
        assert len(body) < MAX_BODY_BYTES
        assert target.post(body) == (200, "")
        started_s = time.thread_time()
        [event] = normalise(judged(body, EXIT), "j.1")
        assert time.thread_time() - started_s < 2
        assert Event.parse(event.body).id == event.id
        assert body in event.body
        assert event.body.count(b":99999") == 2


def test_duplicate_keys(target):
    """The last one counts, as everywhere in this project; raw keeps all of them."""
    body = b'{"GroupId":"a","GroupId":"b","CallbackCommand":"x","CallbackCommand":[],"GroupId":"c"}'
    assert target.post(body) == (200, "")
    [event] = assert_body_is_harmless(body, EXIT)
    assert event.attributes["subject"] == "group/c"
    assert body in event.body
    body = b"{" + b",".join([b'"GroupId":"a"'] * 100_000) + b"}"
    assert target.post(body) == (200, "")
    assert_body_is_harmless(body, EXIT)


def test_invalid_utf8(target):
    """Refused from a stranger, kept as malformed from a verified sender."""
    for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe4\xb8", b"\x80"):
        for body in (b'{"GroupId":"%b"}' % bad, b'{"%b":1}' % bad, b'{"a":1}' + bad, bad + b'{"a":1}'):
            assert target.post(body) == (400, "malformed_body")
            assert target.post(body, signed=True) == (200, "")
            [event] = assert_body_is_harmless(body, EXIT, signed=True)
            assert event.type == "im.malformed"


async def test_chunked_requests(target):
    """A byte a chunk, extensions and trailers are taken; what is no chunk is 400 and closed."""
    path = f"/callback?{query_of(EXIT)}"
    good = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in b'{"GroupId":"chunked"}') + b"0\r\nX: 1\r\n\r\n"
    sent = request(path, good, framing="Transfer-Encoding: chunked")
    answers = await target.play(Case("chunked", [sent * 3], answers=3))
    assert [answer[0] for answer in answers] == [200] * 3
    for bad in (b"zz\r\n{}", b"-2\r\n{}\r\n0\r\n\r\n", b"3\r\n{}\r\n0\r\n\r\n", b"f" * 30 + b"\r\n{}"):
        sent = request(path, bad, framing="Transfer-Encoding: chunked")
        answers = await target.play(Case("chunked", [sent]))
        assert (bad, [answer[0] for answer in answers]) in ((bad, [400]), (bad, [413]), (bad, [408]))


async def test_pipelined_requests(target):
    """A hundred at once, good and bad, are answered in their order."""
    good, bad = request(f"/callback?{query_of(EXIT)}", b'{"a":1}'), request("/none", b"{}")
    answers = await target.play(Case("pipelined", [(good + bad) * 50], answers=100))
    assert [answer[0] for answer in answers] == [200, 404] * 50


async def test_slow_bodies(target):
    """Dribbled bodies get 408 in time and hold up nobody."""
    sent = request(f"/callback?{query_of(EXIT)}", b'{"a":' + b" " * 40 + b"1}")
    slow = [Case("slow", [sent[:-45], *(b" " for _ in range(5))], pause_s=0.15) for _ in range(20)]
    playing = asyncio.gather(*(target.play(case) for case in slow))
    await asyncio.sleep(0.1)
    started_s = time.monotonic()
    [answer] = await target.play(Case("quick", [sent], answers=1))
    quick_s = time.monotonic() - started_s
    assert [[status_of(one) for one in answers] for answers in await playing] == [[(408, "too_slow")]] * 20
    assert answer[0] == 200
    assert quick_s < 2


async def test_absurd_headers(target):
    """Taken or refused, with and without a length of our own beside it; the next caller is served."""
    cases = [
        Case(name, [with_header(lines, is_framed=is_framed)])
        for name, lines in ABSURD_HEADERS.items()
        for is_framed in (True, False)
    ]
    answers = await asyncio.gather(*map(target.play, cases))
    told = {
        (case.name, answer[0])
        for case, all_answers in zip(cases, answers, strict=True)
        for answer in all_answers
    }
    assert {status for _, status in told} <= {200, 400, 408, 413}
    assert {name for name, _ in told} == set(ABSURD_HEADERS)
    for name in ("two lengths", "negative length", "NUL", "long value", "many", "very many", "gzip"):
        assert (name, 200) not in told
    good = Case("good", [request(f"/callback?{query_of(EXIT)}", b'{"a":1}')], answers=1)
    assert [answer[0] for answer in await target.play(good)] == [200]


def test_what_later_stages_cannot_like_blocks_nothing_behind_it(target):
    """Bodies meant for normaliser, broker and sinks, each followed by a good one, which arrives."""
    member = b'{"GroupId":%b,"ExitMemberList":%b,"EventTime":%b,"Operator_Account":%b}'
    long, nul, lone = b'"' + b"x" * 70_000 + b'"', b'"\\u0000"', b'"\\ud800"'
    push = (
        b'{"Events":['
        + b",".join(b'{"n":%d}' % at for at in range(100))
        + b'],"Big":"'
        + b"b" * 10_000
        + b'"}'
    )
    bodies = [
        *(member % ((odd,) * 4) for odd in (long, nul, lone, b"1e308", b"[[]]", b"{}", b"null", b"1" * 40, b"-1")),
        member % (b'"g"', b"[" + b",".join([b'{"Member_Account":"m"}'] * 30_000) + b"]", b"1", b'"o"'),
        b'{"EventTime":253402300799999,"MsgTime":253402300799}',
    ]  # fmt: skip
    good = []
    for at, body in enumerate(bodies):
        assert target.post(body) == (200, "")
        good.append(b'{"GroupId":"behind %d","EventTime":1670574414123}' % at)
        assert target.post(good[-1]) == (200, "")
    for command in ("Push.AllMemberPush", "\x00\x01", "A" * 2000, "x.*.#"):
        assert target.post(push, command) == (200, "")
    good.append(b'{"GroupId":"last","EventTime":1670574414123}')
    assert target.post(good[-1]) == (200, "")
    target.assert_all_arrived()
    with (target.gateway.folder / "var/events.jsonl").open("rb") as file:
        subjects = {Event.parse(line).attributes["subject"] for line in file if b'"group/' in line[:400]}
    assert {f"group/{json.loads(body)['GroupId']}" for body in good} <= subjects
