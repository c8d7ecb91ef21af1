"""The callback port, over real sockets and a real journal: every answer, every limit, no word of a stranger's."""

import asyncio
import contextlib
import json
import logging
import re
import socket
import threading
import time
from pathlib import Path

import pytest
from aiohttp import web

from gateway import receiver
from gateway.answer import OK
from gateway.config import Config
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.receiver import Receiver
from gateway.server import FrontServer
from gateway.signature import sign

SAMPLE = (Path(__file__).parent / "samples/callbacks/Group.CallbackAfterMemberExit.json").read_bytes()
TOKEN = "a-token-of-the-console"
MARK = "STRANGER"
COMMAND = "CallbackCommand=Group.CallbackAfterMemberExit"
QUERY = f"SdkAppid=1400000000&{COMMAND}&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI"
SIGNED = f"SdkAppid=1400000001&{COMMAND}"
APPS = {
    "1400000000": {"path": "/callback"},
    "1400000001": {"path": "/signed", "tokens": ["old-token-of-the-console", TOKEN]},
    "1400000002": {"path": "/"},
}


class Front:
    """A running receiver and a raw client of it."""

    def __init__(self, port, journal, metrics, server):
        self.port, self.journal, self.metrics, self.server = port, journal, metrics, server

    async def raw(self, *parts, pause_s=0.0, timeout_s=5.0):
        """Send *parts*, read until the server closes or an answer is whole; return status, headers, body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause_s)
            async with asyncio.timeout(timeout_s):
                return await read_answer(reader)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def post(self, target, body=SAMPLE, *headers):
        return await self.raw(request("POST", target, body, *headers))

    def counts(self):
        """Return (answered, refused by reason, probes, stored, hang-ups)."""
        list(self.metrics.registry.collect())  # what a reader of all does
        refused = {
            one.labels["reason"]: one.value
            for metric in self.metrics.requests_refused.collect()
            for one in metric.samples
            if one.name.endswith("_total") and one.value
        }
        return value(self.metrics.requests_answered), refused, value(self.metrics.requests_probes)

    async def stored(self):
        return [one.callback for one in self.journal.read(0, 1000, 10**9)]


def value(metric):
    return sum(
        one.value for found in metric.collect() for one in found.samples if one.name.endswith("_total")
    )


def request(method, target, body=b"", *headers):
    lines = [f"{method} {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def read_answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status = int(head.split()[1])
    headers = {k.lower(): v for k, v in re.findall(r"^([\w-]+): (.*?)\r$", head, re.M)}
    if status == 100:
        return await read_answer(reader)
    return status, headers, await reader.readexactly(int(headers["content-length"]))


def signed(token=TOKEN, skew_s=0):
    now = str(int(time.time()) + skew_s)
    return f"{SIGNED}&Sign={sign(token, now)}&RequestTime={now}"


def refusal(status, token):
    return {"ActionStatus": "FAIL", "ErrorCode": status, "ErrorInfo": token}


@pytest.fixture
async def start(tmp_path):
    """Return a function that starts a receiver with the given listen settings."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(max_connections=100, journal=None, apps=None, answers=None, **listen):
            config = Config.model_validate(
                {
                    "listen": listen,
                    "apps": apps or APPS,
                    "answers": answers or {},
                    "journal": {"dir": tmp_path / "journal", "min_free_mb": 0, **(journal or {})},
                }
            )
            metrics = Metrics()
            opened = Journal.open(config.journal, metrics)
            stack.push_async_callback(opened.close)
            receiver = Receiver(config, opened, metrics)
            server = FrontServer(receiver, config.listen, receiver, max_connections)
            runner = web.ServerRunner(server, shutdown_timeout=1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            stack.push_async_callback(runner.cleanup)
            return Front(runner.addresses[0][1], opened, metrics, server)

        yield begin


async def test_the_documented_sample_is_answered_ok_and_stored(start):
    """The page's request gets exactly the page's answer, and the journal has it as it came."""
    front = await start()

    status, headers, body = await front.post(f"/callback?{QUERY}")

    assert (status, body, headers["content-type"]) == (200, OK, "application/json")
    [callback] = await front.stored()
    assert callback.body == SAMPLE
    assert (callback.app_id, callback.query, callback.peer) == ("1400000000", QUERY, "127.0.0.1")
    assert not callback.verified


async def test_a_signed_callback_is_stored_verified_and_without_its_sign(start):
    """Pitfall 21: the query holds the credential; Sign goes no further than the check."""
    front = await start()

    status, _, body = await front.post(f"/signed?{signed()}")

    assert (status, body) == (200, OK)
    [callback] = await front.stored()
    assert callback.verified
    assert "sign" not in callback.query.lower()
    assert "RequestTime" in callback.query


@pytest.mark.parametrize("path", ["/callback", "/signed", "/"])
@pytest.mark.parametrize(
    ("method", "query", "body"),
    [
        ("GET", "", b""),
        ("HEAD", "", b""),
        ("POST", "", b""),
        ("POST", "", b" {} "),
        ("POST", "SdkAppid=9", b"{}"),
        ("GET", "CallbackCommand=", b""),
        ("POST", "SdkAppid=9&CallbackCommand=", b"{}"),
    ],
)
async def test_probes_are_answered_and_not_stored(start, path, method, query, body):
    """Pitfall 19: the console's check of the URL succeeds whatever it sends without a command."""
    front = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(request(method, f"{path}?{query}", body, "Connection: close"))
    answer = await reader.read()
    writer.close()

    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"\r\n\r\n" if method == "HEAD" else OK)
    assert await front.stored() == []
    assert front.counts() == (1, {}, 1)


deep = b'{"a":' * 65 + b"1" + b"}" * 65
BAD = {
    "no Sign": ("POST", f"/signed?{SIGNED}", SAMPLE, [], 401, "bad_signature", "no_signature"),
    "wrong Sign": ("POST", f"/signed?{SIGNED}&Sign={MARK}&RequestTime=1", SAMPLE, [], 401, "bad_signature",
                   "bad_signature"),
    "old Sign": ("POST", "stale", SAMPLE, [], 401, "bad_signature", "stale_signature"),
    "unknown app": ("POST", f"/callback?SdkAppid=77{MARK}&{COMMAND}", SAMPLE, [], 403, "unknown_app", None),
    "no app": ("POST", f"/callback?{COMMAND}&x={MARK}", SAMPLE, [], 403, "unknown_app", None),
    "app of another path": ("POST", f"/?{QUERY}&{MARK}", SAMPLE, [], 403, "unknown_app", None),
    "app twice": ("POST", f"/callback?{QUERY}&sdkAppId={MARK}", SAMPLE, [], 400, "ambiguous_query", None),
    "command twice": ("POST", f"/callback?{QUERY}&%43allbackCommand={MARK}", SAMPLE, [], 400, "ambiguous_query",
                      None),
    "not JSON": ("POST", f"/callback?{QUERY}", MARK.encode(), [], 400, "malformed_body", None),
    "empty with command": ("POST", f"/callback?{QUERY}&{MARK}", b"", [], 400, "malformed_body", None),
    "JSON array": ("POST", f"/callback?{QUERY}", b'["STRANGER"]', [], 400, "malformed_body", None),
    "NaN": ("POST", f"/callback?{QUERY}", b'{"STRANGER":NaN}', [], 400, "malformed_body", None),
    "bad UTF-8": ("POST", f"/callback?{QUERY}", b'{"STRANGER":"\xff"}', [], 400, "malformed_body", None),
    "nested too deep": ("POST", f"/callback?{QUERY}", deep, [f"X: {MARK}"], 400, "malformed_body", None),
    "gzip": ("POST", f"/callback?{QUERY}", SAMPLE, ["Content-Encoding: gzip", f"X: {MARK}"], 400, "encoded_body",
             None),
    "gzip said last": ("POST", f"/callback?{QUERY}", SAMPLE, ["Content-Encoding: identity", "Content-Encoding: gzip",
                       f"X: {MARK}"], 400, "encoded_body", None),
    "too large": ("POST", f"/callback?{QUERY}", MARK.encode() * 200, [], 413, "body_too_large", None),
    "PUT": ("PUT", f"/callback?{QUERY}&{MARK}", SAMPLE, [], 405, "method_not_allowed", None),
    "GET with command": ("GET", f"/callback?{QUERY}&{MARK}", b"", [], 405, "method_not_allowed", None),
    "no such path": ("POST", f"/{MARK}?SdkAppid=9&{COMMAND}", SAMPLE, [], 404, "not_found", None),
    "path of no app": ("POST", f"/other{MARK}?{QUERY}", SAMPLE, [], 404, "not_found", None),
    "path with a dot": ("GET", f"/callback/../{MARK}", b"", [], 404, "not_found", None),
    "long header": ("POST", f"/callback?{QUERY}", SAMPLE, [f"X: {MARK * 2000}"], 400, "bad_http", None),
    "long line": ("POST", f"/callback?{QUERY}&x={MARK * 2000}", SAMPLE, [], 400, "bad_http", None),
    "two lengths": ("POST", f"/callback?{QUERY}", SAMPLE, ["Content-Length: 5", f"X: {MARK}"], 400, "bad_http",
                    None),
    "unknown coding": ("POST", f"/callback?{QUERY}", SAMPLE, [f"Transfer-Encoding: {MARK}"], 400, "bad_http", None),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_bad_requests_get_their_exact_answer_and_leave_no_text(start, name, caplog, capfd):
    """Pitfall 5: each refusal is JSON with its status and token; nothing is stored, nothing of it is logged."""
    caplog.set_level(logging.DEBUG)
    method, target, body, headers, status, token, reason = BAD[name]
    target = f"/signed?{signed(skew_s=-120)}" if target == "stale" else target
    front = await start(max_body_bytes=1024)

    answer = await front.raw(request(method, target, body, *headers))

    assert (answer[0], json.loads(answer[2])) == (status, refusal(status, token))
    assert answer[1]["content-type"] == "application/json"
    assert await front.stored() == []
    assert front.counts() == (1, {reason or token: 1}, 0)
    logged = caplog.text + "".join(capfd.readouterr())
    assert MARK not in logged
    assert TOKEN not in logged


@pytest.mark.parametrize(
    "noise", [b"STRANGER\r\n\r\n", b"\x16\x03\x01\x02\x00STRANGER\r\n\r\n", b"GET / SPDY/9\r\n\r\n"]
)
async def test_what_is_not_http_gets_json_too(start, noise, caplog, capfd):
    """Even for bytes that are no HTTP the answer is our JSON, and the log stays clean."""
    caplog.set_level(logging.DEBUG)
    front = await start()

    status, _, body = await front.raw(noise)

    assert (status, json.loads(body)) == (400, refusal(400, "bad_http"))
    assert front.counts() == (1, {"bad_http": 1}, 0)
    assert MARK not in caplog.text + "".join(capfd.readouterr())


async def test_a_malformed_body_of_a_verified_sender_is_kept(start):
    """What the real sender means is ours to look at, even when it is not JSON."""
    front = await start()

    status, _, body = await front.post(f"/signed?{signed()}", b"not json")

    assert (status, body) == (200, OK)
    assert [one.body for one in await front.stored()] == [b"not json"]


async def test_a_large_body_is_refused_before_it_is_read(start):
    """413 comes by Content-Length, without a byte of the body."""
    front = await start(max_body_bytes=1024)
    head = f"POST /callback?{QUERY} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode()

    status, headers, _ = await front.raw(head)

    assert status == 413
    assert headers["connection"] == "close"


async def test_a_chunked_body_is_counted_as_it_comes(start):
    """Without Content-Length the limit holds all the same; below it the body is taken."""
    front = await start(max_body_bytes=1024)
    head = f"POST /callback?{QUERY} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"

    assert (await front.raw(head, chunk, chunk, chunk))[0] == 413
    assert (await front.raw(head, b"%x\r\n" % len(SAMPLE), SAMPLE, b"\r\n0\r\n\r\n"))[0] == 200
    assert (await front.raw(head, b"zz\r\n"))[0] == 400


async def test_a_faulty_chunk_is_answered_at_once(start):
    """Also when good ones came before it; nobody waits for the rest of such a body."""
    front = await start(body_timeout_s=60)
    head = f"POST /callback?{QUERY} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n"
    answer = await front.raw(head.encode(), b"zz\r\n", pause_s=0.05)

    assert (answer[0], json.loads(answer[2])) == (400, refusal(400, "bad_http"))
    assert await front.stored() == []
    assert front.counts() == (1, {"bad_http": 1}, 0)


async def test_slow_heads_and_bodies_are_answered_408(start):
    """A sender that dribbles gets its answer and loses its connection; others are not held up."""
    front = await start(header_timeout_s=0.1, body_timeout_s=0.1)
    head = f"POST /callback?{QUERY} HTTP/1.1\r\nHost: x\r\nContent-Length: 400\r\n".encode()

    slow_head = await front.raw(head)
    slow_body = await front.raw(head + b"\r\n{")
    good = await front.post(f"/callback?{QUERY}")

    assert [slow_head[0], slow_body[0], good[0]] == [408, 408, 200]
    assert json.loads(slow_head[2]) == json.loads(slow_body[2]) == refusal(408, "too_slow")
    assert front.counts()[1] == {"slow_head": 1, "slow_body": 1}


async def test_a_head_in_pieces_within_the_deadline_is_fine(start):
    """Cut anywhere, a request is the same request."""
    front = await start(header_timeout_s=2)
    whole = request("POST", f"/callback?{QUERY}", SAMPLE)

    answer = await front.raw(whole[:30], whole[30:150], whole[150:-20], whole[-20:], pause_s=0.02)

    assert answer[0] == 200


async def test_an_idle_connection_is_closed_after_the_keepalive(start):
    """Without a byte, too."""
    front = await start(keepalive_timeout_s=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)

    async with asyncio.timeout(5):
        rest = await reader.read()
    writer.close()

    assert rest == b""


async def test_a_head_that_has_begun_is_not_idle(start):
    """The connection does not end under a request because it had been idle for long before."""
    front = await start(keepalive_timeout_s=0.2, header_timeout_s=5)
    sent = request("POST", f"/callback?{QUERY}", SAMPLE)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(sent[:20])
    await asyncio.sleep(0.4)
    writer.write(sent[20:])

    async with asyncio.timeout(5):
        assert (await read_answer(reader))[0] == 200
        assert await reader.read() == b""  # and idle from then on
    writer.close()


async def test_keepalive_and_pipelining_keep_order(start):
    """Several requests on one connection are answered in their order."""
    front = await start()
    good, bad = request("POST", f"/callback?{QUERY}", SAMPLE), request("POST", "/none", b"{}")
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write((good + bad) * 20)

    statuses = [(await read_answer(reader))[0] for _ in range(40)]
    writer.close()

    assert statuses == [200, 404] * 20
    assert len(await front.stored()) == 20


async def test_any_number_of_pipelined_requests_is_answered(start):
    """More than are parsed ahead, answered at once or after the journal's word, whole and in pieces."""
    front = await start()
    kinds = [
        request("POST", f"/callback?{QUERY}", SAMPLE),
        request("GET", "/callback"),
        request("POST", "/none", b"{}" * 9),
    ]
    sent = b"".join(kinds[number % 3] for number in range(99)) + kinds[2] * 100
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    for at in range(0, len(sent), 7001):
        writer.write(sent[at : at + 7001])
        await asyncio.sleep(0)

    async with asyncio.timeout(20):
        statuses = [(await read_answer(reader))[0] for _ in range(199)]
    writer.close()

    assert statuses == [200, 200, 404] * 33 + [404] * 100
    assert len(await front.stored()) == 33


async def test_large_bodies_behind_each_other_are_taken_one_by_one(start):
    """What waits for its turn is not read ahead, and nothing stalls."""
    front = await start(max_inflight_mb=1)
    big = request("POST", f"/callback?{QUERY}", b'{"x":"' + b"a" * 700_000 + b'"}')
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(big * 6)

    async with asyncio.timeout(20):
        statuses = [(await read_answer(reader))[0] for _ in range(6)]
    writer.close()

    assert statuses == [200] * 6


async def test_a_connection_goes_on_behind_a_body_that_nobody_wanted(start):
    """A refusal by the head alone is answered at once; the body is thrown away and the next request is good."""
    front = await start()
    good = request("POST", f"/callback?{QUERY}", SAMPLE)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    refused = request("POST", "/none", b"x" * 300_000)
    writer.write(refused[:200])
    first = (await read_answer(reader))[0]
    writer.write(refused[200:] + good)
    async with asyncio.timeout(5):
        second = (await read_answer(reader))[0]
    writer.close()

    assert (first, second) == (404, 200)


async def test_a_body_that_nobody_wanted_has_to_end(start, monkeypatch):
    """Its sender sees the answer, and loses the connection when it does not come to an end."""
    monkeypatch.setattr("gateway.server.connection._LINGER_S", 0.1)
    front = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(request("POST", "/none", b"x" * 1000)[:200])

    async with asyncio.timeout(5):
        assert (await read_answer(reader))[0] == 404
        assert await reader.read() == b""
    writer.close()


async def test_half_a_head_behind_a_request_has_a_deadline_too(start):
    """It came while its predecessor was under way."""
    front = await start(header_timeout_s=0.1, keepalive_timeout_s=60)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(request("POST", "/none", b"x" * 10)[:-1])
    first = (await read_answer(reader))[0]
    writer.write(b"x")
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.write(b"POST /callback HTTP/1.1\r\nHo")
    async with asyncio.timeout(5):
        second = (await read_answer(reader))[0]
    writer.close()

    assert (first, second) == (404, 408)


async def test_what_is_under_way_at_the_end_is_answered(start):
    """Stopping waits for a body that is coming, and for what the journal has; idle connections end at once."""
    front = await start()
    whole = request("POST", f"/callback?{QUERY}", SAMPLE)
    idle, nobody = await asyncio.open_connection("127.0.0.1", front.port)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(whole[:-5])
    async with asyncio.timeout(5):
        while not any(not one.is_idle for one in front.server.connections):
            await asyncio.sleep(0.01)
    front.server.pre_shutdown()
    ending = asyncio.ensure_future(front.server.shutdown(5))
    async with asyncio.timeout(5):
        assert await idle.read() == b""
        writer.write(whole[-5:])
        status, headers, _ = await read_answer(reader)
        await ending
    for one in (nobody, writer):
        one.close()

    assert (status, headers["connection"]) == (200, "close")
    assert len(await front.stored()) == 1


async def test_a_bug_of_ours_is_answered_500_and_named(start, monkeypatch, caplog):
    """Whoever asked gets an answer, the log says where, and the next caller is served."""
    front = await start()
    with monkeypatch.context() as patch:
        patch.setattr(receiver, "decide_body", lambda *given: 1 / 0)
        status, headers, body = await front.post(f"/callback?{QUERY}")

    assert (status, json.loads(body), headers["connection"]) == (500, refusal(500, "internal_error"), "close")
    assert "ZeroDivisionError" in caplog.text
    assert (await front.post(f"/callback?{QUERY}"))[0] == 200


async def test_at_the_limit_the_longest_idle_connection_goes(start):
    """A newcomer always gets in; the one that has been silent longest makes room."""
    front = await start(max_connections=3)
    idle = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(3)]
    for reader, writer in (idle[1], idle[0]):  # the third has been silent for longest then
        writer.write(request("POST", f"/callback?{QUERY}", SAMPLE))
        await read_answer(reader)

    assert (await front.post(f"/callback?{QUERY}"))[0] == 200
    async with asyncio.timeout(5):
        assert await idle[2][0].read() == b""
    for reader, writer in idle[:2]:
        writer.write(request("POST", f"/callback?{QUERY}", SAMPLE))
        assert (await read_answer(reader))[0] == 200
    for _, writer in idle:
        writer.close()
    assert value(front.metrics.connections_evicted) == 1


async def test_strangers_make_room_before_a_sender_does(start):
    """A flood of connections that say nothing does not cut off the one that callbacks come by."""
    front = await start(max_connections=3)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(request("POST", f"/callback?{QUERY}", SAMPLE))
    await read_answer(reader)
    flood = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(10)]
    async with asyncio.timeout(5):
        assert await flood[0][0].read() == b""

    writer.write(request("POST", f"/callback?{QUERY}", SAMPLE))
    assert (await read_answer(reader))[0] == 200
    for _, one in (*flood, (reader, writer)):
        one.close()


async def unread(front):
    """Connect, ask for more answers than all buffers hold, and read none."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(caller, ("127.0.0.1", front.port))
    async with asyncio.timeout(5):
        while not front.server.connections:
            await asyncio.sleep(0.01)
        (connection,) = front.server.connections
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sending = asyncio.ensure_future(loop.sock_sendall(caller, request("GET", "/callback") * 3000))
        while not connection.writing_paused:
            await asyncio.sleep(0.01)
    return caller, sending


async def test_answers_that_nobody_takes_have_a_deadline(start):
    """A caller that asks and never reads does not hold its place for ever."""
    front = await start(body_timeout_s=0.2)
    caller, sending = await unread(front)
    async with asyncio.timeout(5):
        while front.server.connections:
            await asyncio.sleep(0.01)

    assert value(front.metrics.requests_hangups) == 1
    sending.cancel()
    caller.close()


async def test_answers_that_nobody_takes_make_room(start):
    """Such a connection ends at once for a new caller, with what it has not taken."""
    front = await start(max_connections=1, body_timeout_s=60)
    caller, sending = await unread(front)

    assert (await front.post(f"/callback?{QUERY}"))[0] == 200
    async with asyncio.timeout(5):
        while front.server.connections:
            await asyncio.sleep(0.01)
    sending.cancel()
    caller.close()


async def test_a_caller_that_ended_its_side_gets_its_answers(start):
    """All that it asked whole; then the connection ends, and each counts as a hang-up of its own kind."""
    front = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(request("POST", f"/callback?{QUERY}", SAMPLE) * 2 + request("GET", "/nowhere"))
    writer.write_eof()

    assert [(await read_answer(reader))[0] for _ in range(3)] == [200, 200, 404]
    assert await reader.read() == b""
    assert len(await front.stored()) == 2
    assert front.counts() == (0, {}, 0)
    assert front.metrics.registry.get_sample_value("gateway_requests_hangups_total", {"stored": "yes"}) == 2
    assert front.metrics.registry.get_sample_value("gateway_requests_hangups_total", {"stored": "no"}) == 1
    writer.close()


async def test_a_caller_that_ended_its_side_in_a_body_is_gone(start):
    """Nothing more can come of it, so nobody waits for the rest."""
    front = await start(body_timeout_s=60)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    whole = request("POST", f"/callback?{QUERY}", SAMPLE)
    writer.write(whole[:-1])
    writer.write_eof()

    async with asyncio.timeout(5):
        assert await reader.read() == b""
    assert await front.stored() == []
    writer.close()


async def test_slow_senders_make_room_too(start):
    """Connections full of half requests do not lock the real sender out."""
    front = await start(max_connections=3, header_timeout_s=60, body_timeout_s=60)
    half = f"POST /callback?{QUERY} HTTP/1.1\r\nHost: x\r\nContent-Length: 400\r\n\r\n{{".encode()
    slow = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(3)]
    for _, writer in slow:
        writer.write(half)
        await writer.drain()

    assert (await front.post(f"/callback?{QUERY}"))[0] == 200
    for _, writer in slow:
        writer.close()


async def test_expect_100_continue_is_answered(start):
    """curl waits for it before a larger body."""
    front = await start()
    head = (
        f"POST /callback?{QUERY} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(SAMPLE)}\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(head)

    async with asyncio.timeout(5):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(SAMPLE)
        assert (await read_answer(reader))[0] == 200
    writer.close()


async def test_http_1_0_gets_no_100_continue(start):
    """It would be taken for the answer."""
    front = await start()
    sent = request("POST", f"/callback?{QUERY}", SAMPLE, "Expect: 100-continue").replace(
        b"HTTP/1.1", b"HTTP/1.0"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(sent)
    async with asyncio.timeout(5):
        assert (await reader.read()).startswith(b"HTTP/1.0 200 OK\r\n")
    writer.close()


@pytest.mark.parametrize("path", ["/~im/%E5%9B%9E", "/%7Eim/%e5%9b%9e"])
@pytest.mark.parametrize("written", ["/~im/回", "/~im/%E5%9B%9E", "/%7eim/%e5%9b%9e"])
async def test_a_path_is_the_same_in_every_spelling(start, path, written):
    """Percent-encoded by the console, by a proxy, or not; in the configuration too."""
    front = await start(apps={"1400000000": {"path": written}})

    assert (await front.post(f"{path}?{QUERY}"))[0] == 200
    assert (await front.post(f"/~im/%25E5%259B%259E?{QUERY}"))[0] == 404


async def test_a_full_journal_is_503_with_retry_after(start):
    """Refused, not dropped: nothing is stored and the sender is told when to come back."""
    front = await start(journal={"max_mb": 2}, retry_after_s=7, max_body_bytes=200_000)
    big = b'{"x":"' + b"a" * 190_000 + b'"}'
    answers = [await front.post(f"/callback?{QUERY}", big) for _ in range(12)]

    status, headers, body = answers[-1]

    assert status == 503
    assert headers["retry-after"] == "7"
    assert json.loads(body) == refusal(503, "journal_full")
    assert len(await front.stored()) == [one[0] for one in answers].count(200)


async def test_too_many_requests_under_way_are_503(start, monkeypatch):
    """The excess is refused at once instead of queueing."""
    front = await start(max_inflight=2)
    gate = asyncio.Event()
    append = front.journal.append

    def slow_append(callback, *, durable=True):
        async def later():
            await gate.wait()
            return await append(callback, durable=durable)

        return asyncio.ensure_future(later())

    monkeypatch.setattr(front.journal, "append", slow_append)
    waiting = [asyncio.ensure_future(front.post(f"/callback?{QUERY}")) for _ in range(2)]
    while front.metrics.requests_inflight.collect()[0].samples[0].value < 2:
        await asyncio.sleep(0)
    status, headers, body = await front.post(f"/callback?{QUERY}")
    gate.set()

    assert (status, json.loads(body)) == (503, refusal(503, "overloaded"))
    assert "retry-after" in headers
    assert [answer[0] for answer in await asyncio.gather(*waiting)] == [200, 200]


async def test_bodies_in_memory_are_bounded(start):
    """Together no more than max_inflight_mb; the excess is 503, and there is room again afterwards."""
    front = await start(max_inflight_mb=1)
    body = b'{"x":"' + b"a" * 700_000 + b'"}'
    whole = request("POST", f"/callback?{QUERY}", body)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(whole[:-1])  # the last byte is still to come
    await writer.drain()
    answers = []
    async with asyncio.timeout(5):
        while not answers or answers[-1][0] == 200:  # until all of the first one has been read
            answers.append(await front.post(f"/callback?{QUERY}", body))
    writer.write(whole[-1:])

    assert (answers[-1][0], json.loads(answers[-1][2])) == (503, refusal(503, "overloaded"))
    assert "retry-after" in answers[-1][1]
    assert (await read_answer(reader))[0] == 200
    for _ in range(3):
        assert (await front.post(f"/callback?{QUERY}", body))[0] == 200
    writer.close()


async def test_a_caller_that_hangs_up_is_counted_apart(start):
    """Half a body and gone: no answer, nothing stored, one hang-up."""
    front = await start()
    _, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(f"POST /callback?{QUERY} HTTP/1.1\r\nHost: x\r\nContent-Length: 400\r\n\r\n{{".encode())
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()
    async with asyncio.timeout(5):
        while value(front.metrics.requests_hangups) < 1:
            await asyncio.sleep(0.01)

    assert await front.stored() == []
    assert front.counts() == (0, {}, 0)


async def test_confirmed_answers_after_the_cursor(start):
    """ack_after confirmed: 200 only once the broker has it; past the deadline 503, and the callback is kept."""
    front = await start(ack_after="confirmed", answer_deadline_ms=300)
    late = await front.post(f"/callback?{QUERY}")
    in_time = asyncio.ensure_future(front.post(f"/callback?{QUERY}"))
    async with asyncio.timeout(5):
        await front.journal.wait_for(1)
    front.journal.confirm(2)

    assert (late[0], json.loads(late[2])) == (503, refusal(503, "not_confirmed_yet"))
    assert (await in_time)[0] == 200
    assert len(await front.stored()) == 2
    assert front.counts()[0] == 2
    assert value(front.metrics.answers_late) == 1


async def test_every_answer_is_counted_once(start):
    """answered = refused + probes + stored, over a mix of everything."""
    front = await start()
    await front.post(f"/callback?{QUERY}")
    await front.post("/callback")
    await front.post("/callback", b"{}")
    await front.post(f"/none?{QUERY}")
    await front.raw(b"noise\r\n\r\n")

    answered, refused, probes = front.counts()

    assert answered == sum(refused.values()) + probes + value(front.metrics.callbacks_stored) == 5
    assert value(front.metrics.callbacks_stored) == front.journal.head == 1


async def test_what_has_not_happened_yet_counts_as_0(start):
    """Sums and alerts need a series before its first event: an app whose callbacks never came, above all."""
    metrics = (await start()).metrics.registry

    for app_id in APPS:
        assert metrics.get_sample_value("gateway_last_callback_timestamp_seconds", {"app": app_id}) == 0
        assert metrics.get_sample_value("gateway_callbacks_stored_total", {"app": app_id}) == 0
    assert metrics.get_sample_value("gateway_requests_refused_total", {"reason": "bad_signature"}) == 0
    assert metrics.get_sample_value("gateway_requests_hangups_total", {"stored": "yes"}) == 0


async def test_the_wrong_path_is_explained_once(start, caplog):
    """The log says which path the app has, and does not repeat it for each callback."""
    front = await start()
    for _ in range(3):
        await front.post(f"/wrong{MARK}?{QUERY}")

    told = [record.getMessage() for record in caplog.records if "another path" in record.getMessage()]

    assert len(told) == 1
    assert "1400000000" in told[0]
    assert "/callback" in told[0]
    assert MARK not in told[0]


async def test_the_query_survives_raw_bytes_and_bad_escapes(start):
    """Bytes that are no UTF-8 in the target are replaced, never an error later."""
    front = await start()
    target = f"/callback?{QUERY}&x=".encode() + b"\xff%ff%00"

    answer = await front.raw(b"POST " + target + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")

    assert answer[0] in (200, 400)
    for callback in await front.stored():
        callback.query.encode()


async def test_while_draining_answers_close_their_connection(start):
    """Pitfall 22, drain gracefully: everything is still taken, and each answer says that it was the last."""
    front = await start()
    front.server.is_draining = True

    status, headers, _ = await front.post(f"/callback?{QUERY}")

    assert status == 200
    assert headers["connection"] == "close"


async def test_a_large_body_is_judged_away_from_the_loop(start, monkeypatch):
    """A megabyte of small values takes longer to read than others may be kept waiting."""
    threads = []

    def note(*args):
        threads.append(threading.current_thread() is threading.main_thread())
        return decide(*args)

    decide = receiver.decide_body
    monkeypatch.setattr(receiver, "decide_body", note)
    front = await start()
    large = b'{"a":[' + b"1," * 100_000 + b"1]}"

    assert [(await front.post(f"/callback?{QUERY}", body))[0] for body in (SAMPLE, large)] == [200, 200]
    assert threads == [True, False]


async def test_an_empty_line_after_a_request_starts_no_deadline(start):
    """Old clients end a body with a line break more; their connection stays open for the next callback."""
    front = await start(header_timeout_s=0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(request("POST", f"/callback?{QUERY}", SAMPLE))
    first = (await read_answer(reader))[0]
    writer.write(b"\r\n")
    await asyncio.sleep(0.2)
    writer.write(request("POST", f"/callback?{QUERY}", SAMPLE))
    second = (await read_answer(reader))[0]
    writer.close()

    assert (first, second) == (200, 200)
    assert front.counts()[1] == {}


async def test_one_app_over_its_rate_does_not_touch_the_others(start):
    """503 for that app only, and nothing of it is stored."""
    front = await start(
        apps={"1400000000": {"path": "/callback", "max_per_s": 2}, "1400000002": {"path": "/"}}
    )
    flood = [await front.post(f"/callback?{QUERY}") for _ in range(4)]
    other = await front.post(f"/?{QUERY.replace('1400000000', '1400000002')}")

    assert [one[0] for one in flood] == [200, 200, 503, 503]
    assert json.loads(flood[-1][2]) == refusal(503, "app_overloaded")
    assert other[0] == 200
    assert front.counts()[1] == {"app_rate": 2}


async def test_one_app_over_its_backlog_waits_for_the_broker(start):
    """Callbacks that are not confirmed yet count; the cursor makes room."""
    front = await start(apps={"1400000000": {"path": "/callback", "max_backlog_mb": 1}})
    big = b'{"x":"' + b"a" * 700_000 + b'"}'
    answers = [(await front.post(f"/callback?{QUERY}", big))[0] for _ in range(3)]
    front.journal.confirm(front.journal.head)

    assert answers == [200, 200, 503]
    assert (await front.post(f"/callback?{QUERY}"))[0] == 200


async def test_long_queries_count_for_the_backlog(start):
    """They stand in the journal like bodies, so small bodies get nobody around the bound."""
    front = await start(apps={"1400000000": {"path": "/callback", "max_backlog_mb": 1}})
    many = request("POST", f"/callback?{QUERY}&x={'a' * 7000}", b"{}") * 200
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(many)
    statuses = [(await read_answer(reader))[0] for _ in range(200)]
    writer.close()

    assert 140 <= statuses.count(200) <= 150
    assert set(statuses[150:]) == {503}


async def test_a_configured_answer_is_what_the_sender_gets(start):
    """For its command, after the callback was stored; others keep plain OK."""
    front = await start(answers={"Group.CallbackBeforeCreateGroup": {"code": 10100, "info": "no"}})
    before = QUERY.replace("Group.CallbackAfterMemberExit", "Group.CallbackBeforeCreateGroup")
    told = await front.post(f"/callback?{before}")
    plain = await front.post(f"/callback?{QUERY}")

    assert json.loads(told[2]) == {"ActionStatus": "OK", "ErrorCode": 10100, "ErrorInfo": "no"}
    assert plain[2] == OK
    assert len(await front.stored()) == 2


async def test_before_callbacks_may_be_answered_while_the_journal_is_full(start):
    """The operator's choice: users are not blocked; it is counted, and after-callbacks are refused still."""
    front = await start(journal={"max_mb": 2}, before_when_full="answer", max_body_bytes=200_000)
    big = b'{"x":"' + b"a" * 190_000 + b'"}'
    while (await front.post(f"/callback?{QUERY}", big))[0] == 200:
        pass
    stored = len(await front.stored())
    before = QUERY.replace("Group.CallbackAfterMemberExit", "Group.CallbackBeforeCreateGroup")
    told = await front.post(f"/callback?{before}", big)

    assert (told[0], told[2]) == (200, OK)
    assert (await front.post(f"/callback?{QUERY}", big))[0] == 503
    assert len(await front.stored()) == stored
    assert front.counts()[1]["before_unstored"] == 1
