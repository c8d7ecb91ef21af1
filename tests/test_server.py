"""The callback port under random scripts of callers, on both event loops, plain and by TLS.

Whatever they do: each whole request of a caller who listens gets its defined answer, in order; everything is
counted once; memory, places and connections come back; no word of a stranger is logged.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import random
import socket
import ssl
import struct

import pytest
import trustme
import uvloop

from gateway.answer import LEGACY_OK, OK, REFUSALS
from gateway.outcome import Answer, Outcome
from gateway.server.wire import Wire
from tests.callback_port import BODY, COMMAND, callback_port

MARK = "STRANGER"
TARGET = f"/callback?SdkAppid=1&{COMMAND}&x={MARK}".encode()
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def request(method=b"POST", target=TARGET, body=BODY, *headers, version=b"1.1"):
    lines = [b"%s %s HTTP/%s" % (method, target, version), b"Host: x", *headers]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def chunked(rng, body=BODY, end=b"0\r\n\r\n"):
    head = request(b"POST", TARGET, None, b"Transfer-Encoding: chunked")
    pieces = []
    while body:
        size = rng.randrange(1, 40)
        pieces.append(b"%x\r\n%s\r\n" % (len(body[:size]), body[:size]))
        body = body[size:]
    return head + b"".join(pieces) + end


UPGRADE = (b"Connection: Upgrade", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")
LARGE = b'{"x":"' + b"a" * 90_000 + b'"}'
GOES_ON = {
    "callback": (200, lambda rng: request()),
    "empty lines": (200, lambda rng: b"\r\n\r\n" + request()),
    "chunked": (200, chunked),
    "large": (200, lambda rng: request(body=LARGE)),
    "large and chunked": (200, lambda rng: chunked(rng, LARGE[:9000] + b'"}')),
    "probe": (200, lambda rng: request(b"GET", b"/callback", None)),
    "HEAD": (200, lambda rng: request(b"HEAD", b"/callback", None)),
    "absolute": (200, lambda rng: request(target=b"http://" + MARK.encode() + TARGET)),
    "expects": (200, lambda rng: request(b"POST", TARGET, BODY, b"Expect: 100-continue")),
    "old": (
        200,
        lambda rng: request(b"POST", TARGET, BODY, b"Connection: keep-alive", version=b"1.0"),
    ),
    "no path": (404, lambda rng: request(target=b"/STRANGER", body=b"x" * rng.randrange(3000))),
    "no path, chunked": (404, lambda rng: chunked(rng).replace(b"/callback", b"/STRANGER")),
    "no JSON": (400, lambda rng: request(body=b"STRANGER")),
    "no app": (403, lambda rng: request(target=b"/callback?SdkAppid=STRANGER&" + COMMAND.encode())),
    "PUT": (405, lambda rng: request(b"PUT")),
    "asterisk": (404, lambda rng: request(b"OPTIONS", b"*", None)),
    "gzip": (400, lambda rng: request(b"POST", TARGET, BODY, b"Content-Encoding: gzip")),
}
ENDS = {
    "close": (200, lambda rng: request(b"POST", TARGET, BODY, b"Connection: close")),
    "old, ends": (200, lambda rng: request(version=b"1.0")),
    "h2c": (200, lambda rng: request(b"POST", TARGET, BODY, *UPGRADE)),
    "websocket": (200, lambda rng: request(b"GET", b"/callback", None, UPGRADE[0], b"Upgrade: websocket")),
    "CONNECT": (404, lambda rng: request(b"CONNECT", b"STRANGER:443", None)),
    "too large": (413, lambda rng: request(body=b"x" * 300_000)),
}
BREAKS = {
    "faulty chunk": (400, lambda rng: chunked(rng, end=b"STRANGER\r\n")),
    "noise": (400, lambda rng: b"STRANGER\r\n\r\n"),
    "preface": (400, lambda rng: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "no host": (400, lambda rng: request().replace(b"Host: x\r\n", b"")),
    "odd target": (400, lambda rng: request(target=b"https://[v1.STRANGER]@/")),
    "many headers": (400, lambda rng: request(b"POST", TARGET, BODY, *[b"X: STRANGER"] * 500)),
    "long line": (400, lambda rng: request(target=TARGET + b"a" * 300_000)),
    "two lengths": (400, lambda rng: request(b"POST", TARGET, BODY, b"Content-Length: 3")),
}
ALL = {**GOES_ON, **ENDS, **BREAKS}


class Script:
    """Requests of one connection, and what they have to get."""

    def __init__(self, rng):
        self.names = rng.choices(list(GOES_ON), k=rng.choice((0, 1, 2, 5, 40, 90)))
        self.names += rng.choices(list(ENDS) + list(BREAKS), k=rng.randrange(2))
        if not self.names:
            self.names = ["callback"]
        parts = [ALL[name][1](rng) for name in self.names]
        self.sent = b"".join(parts)
        self.statuses = [ALL[name][0] for name in self.names]
        self.is_ended = self.names[-1] not in GOES_ON
        self.is_broken = self.names[-1] in BREAKS
        if self.is_ended and not self.is_broken and rng.randrange(2):
            self.sent += request()  # nobody answers it; the parser takes it for bad HTTP
            self.is_broken = True

    def allows(self, statuses):
        """Say whether these are the answers; HTTP that is none takes those down that came with it."""
        if statuses == self.statuses:
            return True
        return (
            self.is_broken and statuses[-1:] == [400] and statuses[:-1] == self.statuses[: len(statuses) - 1]
        )


def pieces(rng, sent):
    """Cut *sent* anywhere."""
    kind = rng.randrange(4)
    if kind == 0:
        return [sent]
    if kind == 1 and len(sent) < 2000:
        return [sent[at : at + 1] for at in range(len(sent))]
    cuts = sorted(rng.randrange(len(sent) + 1) for _ in range(rng.randrange(1, 12)))
    return [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]


async def read_status(reader, is_head):
    """Return the status of the next answer, None at the end."""
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as rest:
            assert rest.partial == b""
            return None
        status = int(head.split()[1])
        if status != 100:
            break
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    if not is_head or status != 200:
        await reader.readexactly(length)
    return status


class Callers:
    """Plays scripts against a port; *context* is that of TLS."""

    def __init__(self, port, seed, context):
        self.port, self.context = port, context
        self.rng = random.Random(seed)

    async def connect(self):
        return await asyncio.open_connection(
            "localhost", self.port.port, ssl=self.context, limit=2**20, family=socket.AF_INET
        )

    async def play(self, script):
        """Send all of it in pieces, and take every answer."""
        reader, writer = await self.connect()
        cut = pieces(self.rng, script.sent)

        async def send():
            with contextlib.suppress(ConnectionError):
                for piece in cut:
                    if writer.transport.is_closing():
                        break
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if self.context is None and not len(cut) % 3:
                    writer.write_eof()

        sending = asyncio.ensure_future(send())
        statuses = []
        with contextlib.suppress(ConnectionError):
            while len(statuses) < len(script.statuses) or script.is_ended:
                at = min(len(statuses), len(script.names) - 1)
                status = await read_status(reader, script.names[at] == "HEAD")
                if status is None:
                    break
                statuses.append(status)
        sending.cancel()
        writer.close()
        told = list(itertools.zip_longest(script.names, script.statuses, statuses))
        assert script.allows(statuses), (told, [len(one) for one in cut])

    async def misbehave(self, script):
        """Send some of it, at times too slowly, and go: reset, half-closed, closed, without reading."""
        rng = self.rng
        sent = script.sent[: rng.randrange(len(script.sent) + 1)]
        try:
            reader, writer = await self.connect()
        except OSError:  # turned away
            return
        with contextlib.suppress(OSError, RuntimeError, asyncio.IncompleteReadError):
            for piece in pieces(rng, sent):
                if writer.transport.is_closing():
                    break
                writer.write(piece)
                await asyncio.sleep(rng.choice((0, 0, 0, 0.01)))
            await self.leave(reader, writer)
        writer.transport.abort() if rng.randrange(2) else writer.close()

    async def leave(self, reader, writer):
        how = self.rng.choice(("wait", "end", "one answer", "end and go", "reset", "go"))
        if how in ("end", "end and go") and self.context is None:
            writer.write_eof()
        if how in ("wait", "end"):
            await reader.read()
        elif how == "one answer":
            await read_status(reader, is_head=False)
        elif how == "reset":
            never = struct.pack("ii", 1, 0)
            with contextlib.suppress(AttributeError):  # lost already
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, never)


def assert_counts(port):
    """Everything that was begun is counted once; what is stored is in the journal; all room is there again."""
    value = port.value
    stored = value("gateway_callbacks_stored_total", app="1") + value(
        "gateway_requests_hangups_total", stored="yes"
    )
    refused = sum(
        value("gateway_requests_refused_total", reason=one) for one in (*REFUSALS, "before_unstored")
    )
    answered = value("gateway_requests_answered_total")
    probes = value("gateway_requests_probes_total")

    assert answered == refused + probes + value("gateway_callbacks_stored_total", app="1")
    assert stored == port.journal.head
    assert (port.server.memory.used_bytes, value("gateway_requests_inflight")) == (0, 0)
    assert (port.server.open_connections, port.server._per_peer, port.server._peers) == (0, {}, {})


async def none_left(port):
    async with asyncio.timeout(10):
        while (
            port.server.connections
            or port.server.memory.used_bytes
            or port.value("gateway_requests_inflight")
        ):
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(params=["plain", "TLS"])
def tls(request, tmp_path, authority):
    """Return settings of the port and the context of its callers."""
    if request.param == "plain":
        return {}, None
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued = authority.issue_cert("localhost")
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return {"tls_cert": cert, "tls_key": key}, context


@pytest.fixture
def seed():
    """A new one each time; it is printed with a failure."""
    found = int(os.environ.get("SERVER_SEED", random.randrange(2**32)))
    print(f"SERVER_SEED={found}")
    return found


def on(loop, work):
    """Run *work* on that kind of event loop."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(work())


ROUNDS = int(os.environ.get("SERVER_ROUNDS", 40))


@pytest.mark.parametrize("loop", LOOPS)
def test_who_asks_and_listens_gets_every_answer(tmp_path, tls, loop, seed, caplog, capfd):
    """However the requests are cut and mixed, and whatever ends the connection."""
    caplog.set_level(logging.DEBUG)
    listen = {"max_body_bytes": 200_000, "max_connections_per_peer": 1000, **tls[0]}

    async def work():
        async with callback_port(tmp_path, listen) as port:
            callers = Callers(port, seed, tls[1])
            async with asyncio.timeout(60):
                for _ in range(max(1, ROUNDS // 8)):
                    await asyncio.gather(*(callers.play(Script(callers.rng)) for _ in range(8)))
            await none_left(port)
            assert_counts(port)

    on(loop, work)
    assert MARK not in caplog.text + "".join(capfd.readouterr())
    assert [
        one for one in caplog.records if one.levelno >= logging.WARNING and "path" not in one.getMessage()
    ] == []


async def confirm_at_times(port, rng):
    while True:
        await asyncio.sleep(rng.choice((0.01, 0.01, 0.01, 0.15)))
        port.journal.confirm(port.journal.head)


@pytest.mark.parametrize("ack_after", ["journaled", "confirmed"])
@pytest.mark.parametrize("loop", LOOPS)
def test_whatever_callers_do_everything_is_counted_once(
    tmp_path, tls, loop, ack_after, seed, monkeypatch, caplog, capfd
):
    """Resets, half-closed sides, slowness, eviction, bounds that are reached: nothing stays taken."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("gateway.server.connection._LINGER_S", 0.2)
    listen = {
        "max_body_bytes": 200_000,
        "max_connections": 12,
        "max_connections_per_peer": 14,
        "max_inflight": 8,
        "max_inflight_mb": 1,
        "header_timeout_s": 0.2,
        "body_timeout_s": 0.2,
        "keepalive_timeout_s": 0.3,
        "ack_after": ack_after,
        "answer_deadline_ms": 100,
        **tls[0],
    }

    async def work():
        async with callback_port(tmp_path, listen) as port:
            callers = Callers(port, seed, tls[1])
            async with asyncio.timeout(60):
                confirming = asyncio.ensure_future(confirm_at_times(port, callers.rng))
                for _ in range(max(1, ROUNDS // 16)):
                    await asyncio.gather(*(callers.misbehave(Script(callers.rng)) for _ in range(16)))
                confirming.cancel()
            await none_left(port)
            assert_counts(port)

    on(loop, work)
    assert MARK not in caplog.text + "".join(capfd.readouterr())
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []


@contextlib.asynccontextmanager
async def caller_of(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.transport.abort()


async def statuses_of(reader, number):
    return [await read_status(reader, is_head=False) for _ in range(number)]


async def test_a_burst_behind_a_body_that_came_late_is_answered(tmp_path):
    """The parser counts a request whose turn came before its body as one ahead, and keeps back one sooner."""
    async with callback_port(tmp_path) as port, caller_of(port) as (reader, writer):
        late = request()
        writer.write(late[:-1])
        while all(one.is_idle for one in port.server.connections):
            await asyncio.sleep(0)
        writer.write(late[-1:])
        assert await statuses_of(reader, 1) == [200]
        writer.write(request() * 70)

        assert await statuses_of(reader, 70) == [200] * 70


@pytest.mark.parametrize("headers", [UPGRADE, (UPGRADE[0], b"Upgrade: websocket")])
async def test_an_upgrade_is_the_last_request(tmp_path, headers):
    """The parser drops what came with it; its sender learns by the end of the connection what was not taken."""
    async with callback_port(tmp_path) as port, caller_of(port) as (reader, writer):
        writer.write(request(b"POST", TARGET, BODY, *headers) + request() * 2)
        answers = await reader.read()

        assert answers.count(b"HTTP/1.1 200 OK\r\nConnection: close\r\n") == answers.count(b"HTTP/1.1") == 1
        assert port.journal.head == 1


async def test_a_target_that_the_parser_trips_over_is_bad_http(tmp_path, caplog):
    """An address that is none raises something of its own kind in there; it is answered, counted, not logged."""
    async with callback_port(tmp_path) as port, caller_of(port) as (reader, writer):
        writer.write(request(target=b"https://[v1.STRANGER]@/"))

        assert await statuses_of(reader, 2) == [400, None]
        assert port.value("gateway_requests_refused_total", reason="bad_http") == 1
    assert MARK not in caplog.text


@pytest.mark.parametrize("is_waiting", [True, False])
async def test_a_faulty_body_that_nobody_wanted_ends_the_connection(tmp_path, is_waiting):
    """Nothing can be told of what comes after it: the next request meets no deaf ear, but the end."""
    async with callback_port(tmp_path) as port, caller_of(port) as (reader, writer):
        refused = request(b"POST", b"/none", None, b"Transfer-Encoding: chunked")
        writer.write((request() if is_waiting else b"") + refused)
        if not is_waiting:
            assert await statuses_of(reader, 1) == [404]
        while all(one.is_idle for one in port.server.connections):
            await asyncio.sleep(0)
        writer.write(b"zz\r\n" + request())
        rest = [200, 404, None] if is_waiting else [None]

        assert await statuses_of(reader, len(rest)) == rest


async def test_the_answer_survives_what_comes_after_bad_http(tmp_path):
    """Its sender, who is still sending, reads it and the end, not a reset."""
    async with callback_port(tmp_path) as port, caller_of(port) as (reader, writer):
        writer.write(b"noise\r\n\r\n")
        (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 400")
        assert (await reader.read()).startswith(b"{")  # up to the end
        for _ in range(20):
            writer.write(b"more" * 1000)
            await writer.drain()
            await asyncio.sleep(0.001)

        assert len(port.server.connections) == 1  # until its sender ends too
        writer.close()
        await none_left(port)


async def test_the_answer_to_bad_http_waits_for_its_sender_for_a_moment(tmp_path, monkeypatch):
    """Not for ever."""
    monkeypatch.setattr("gateway.server.connection._LINGER_S", 0.05)
    async with callback_port(tmp_path) as port, caller_of(port) as (reader, writer):
        writer.write(b"noise\r\n\r\n")
        assert await statuses_of(reader, 2) == [400, None]

        await none_left(port)


async def test_a_refusal_that_comes_before_an_expected_body_is_the_last(tmp_path):
    """Its caller may send the body, or the next request; nobody could tell them apart."""
    async with callback_port(tmp_path) as port, caller_of(port) as (reader, writer):
        head = request(b"POST", b"/none", BODY, b"Expect: 100-continue").removesuffix(BODY)
        writer.write(head)

        assert b"\r\nConnection: close\r\n" in await reader.readuntil(b"\r\n\r\n")


async def silent(port, sent, *, ends):
    """Connect with small buffers, send *sent*, end this side if so asked, and read nothing."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(caller, ("127.0.0.1", port.port))
    async with asyncio.timeout(5):
        while not port.server.connections:
            await asyncio.sleep(0.001)
    (connection,) = port.server.connections
    served = connection.transport.get_extra_info("socket")
    served.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await loop.sock_sendall(caller, sent)
    if ends:
        caller.shutdown(socket.SHUT_WR)
    return caller, connection


@pytest.mark.parametrize("ends", [True, False])
async def test_a_last_answer_that_nobody_takes_is_cut_too(tmp_path, ends):
    """A connection that ends with less than 64 KiB to be taken would else stand as long as its caller likes."""
    async with callback_port(tmp_path, {"body_timeout_s": 0.2}) as port:
        probes = request(b"GET", b"/callback", None) * 150  # some 40 KiB of answers
        caller, _ = await silent(
            port, probes + request(b"GET", b"/callback", None, b"Connection: close"), ends=ends
        )

        await none_left(port)
        caller.close()


async def test_a_burst_of_probes_leaves_others_their_turns(tmp_path):
    """Thousands fit one read; they are answered in turns, all of them."""
    async with callback_port(tmp_path) as port, caller_of(port) as (reader, writer):
        turns = []

        def turn():
            done = port.value("gateway_requests_probes_total")
            turns.append(done)
            if done < 1000:
                asyncio.get_running_loop().call_soon(turn)

        turn()
        writer.write(request(b"GET", b"/callback", None) * 1000)

        assert await statuses_of(reader, 1000) == [200] * 1000
        assert max(b - a for a, b in itertools.pairwise(turns)) <= 64


async def test_stopping_waits_for_nobody_who_is_gone(tmp_path):
    """A caller that hangs up amid its body holds nothing up, and is counted."""
    async with callback_port(tmp_path) as port, caller_of(port) as (_, writer):
        writer.write(request()[:-1])
        while all(one.is_idle for one in port.server.connections):
            await asyncio.sleep(0)
        ending = asyncio.ensure_future(port.server.shutdown(60))
        await asyncio.sleep(0)
        writer.transport.abort()

        async with asyncio.timeout(5):
            await ending
        assert_counts(port)


async def test_a_body_that_does_not_come_by_the_end_is_counted(tmp_path):
    """Its caller gets no answer, so it counts as a hang-up; its room is there again."""
    async with callback_port(tmp_path) as port, caller_of(port) as (_, writer):
        writer.write(request()[:-1])
        while all(one.is_idle for one in port.server.connections):
            await asyncio.sleep(0)
        await port.server.shutdown(0.05)
        await none_left(port)

        assert port.value("gateway_requests_hangups_total", stored="no") == 1
        assert_counts(port)


async def test_what_had_no_head_takes_no_time(tmp_path):
    """Bad HTTP and heads that never came whole stay out of the answers' times."""
    async with callback_port(tmp_path, {"header_timeout_s": 0.05}) as port:
        for sent in (b"noise\r\n\r\n", b"POST / HT"):
            async with caller_of(port) as (reader, writer):
                writer.write(sent)
                await statuses_of(reader, 2)

        assert port.value("gateway_requests_answered_total") == 2
        assert port.value("gateway_answer_seconds_count") == 0


def test_answers_that_look_alike_are_made_once():
    """A thousand apps cost no more than one: their answers differ only in whose they are."""
    wire = Wire()
    first, second = (Answer(200, OK, Outcome("stored", app_id)) for app_id in ("14", "15"))
    other = Answer(200, LEGACY_OK, Outcome("stored", "14"))

    assert wire.write(first, False, False, False) is wire.write(second, False, False, False)
    assert wire.write(other, False, False, False).endswith(LEGACY_OK)
