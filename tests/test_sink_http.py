"""The http sink against real services: good ones, and some that do everything wrong."""

import asyncio
import contextlib
import json
import logging
import math
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from pydantic import SecretStr
from standardwebhooks import Webhook

from gateway import build
from gateway.config import HttpSink
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.sinks import http as subject
from gateway.sinks.http import Http
from tests.services.processes import free_ports
from tests.sink_events import cloud_event, exit_event
from tests.sink_places import SECRET, HttpPlace
from tests.webhook_service import Reply, WebhookService

OTHER_SECRET = "whsec_" + "A" * 32


@pytest.fixture
def service(webhook_service: WebhookService) -> WebhookService:
    return webhook_service


@pytest.fixture
def place(service: WebhookService) -> HttpPlace:
    return HttpPlace(service)


def of_groups(*groups: int) -> list[Event]:
    """Return events of these groups, numbered by their place."""
    return [exit_event(f"{at:032x}", group_id=f"g{group}") for at, group in enumerate(groups)]


@asynccontextmanager
async def opened(sink: Http) -> AsyncIterator[Http]:
    try:
        await sink.open()
        yield sink
    finally:
        await sink.close()


async def failure_of(sink: Http, *events: Event) -> Unavailable:
    """Return what opening *sink*, or writing *events* with it, raises."""
    with pytest.raises(Unavailable) as caught:
        async with opened(sink):
            await sink.write(events)
    return caught.value


async def test_an_event_is_one_signed_request(place: HttpPlace, service: WebhookService) -> None:
    """Structured CloudEvents, the body as it travelled, the id as the idempotency key."""
    [event] = of_groups(1)
    async with opened(place.sink(headers={"Authorization": SecretStr("Bearer x")})) as sink:
        assert await sink.write([event]) == {}
    [request] = service.requests

    assert request.body == event.body
    assert request.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert request.headers["webhook-id"] == event.id
    assert request.headers["authorization"] == "Bearer x"
    assert request.headers["user-agent"].startswith("im-callback-gateway/")
    assert request.headers["accept-encoding"] == "identity"
    assert "cookie" not in request.headers
    assert Webhook(SECRET).verify(request.body, request.headers)["id"] == event.id


async def test_a_batch_is_one_signed_request(place: HttpPlace, service: WebhookService) -> None:
    """CloudEvents' batch format; each event has its id inside."""
    events = of_groups(1, 2, 1)
    async with opened(place.sink(batch=True)) as sink:
        assert await sink.write(events) == {}
        assert await sink.write(events[:1]) == {}
    first, second = service.requests

    assert first.headers["content-type"] == "application/cloudevents-batch+json; charset=utf-8"
    assert first.ids == [event.id for event in events]
    assert json.loads(second.body) == [events[0].attributes]
    for request in service.requests:
        Webhook(SECRET).verify(request.body, request.headers)


async def test_at_a_rotation_old_and_new_secret_verify(place: HttpPlace, service: WebhookService) -> None:
    """The receiver may change over at any time."""
    async with opened(place.sink(secrets=(SecretStr(OTHER_SECRET), SecretStr(SECRET)))) as sink:
        await sink.write(of_groups(1))
    [request] = service.requests

    for secret in (SECRET, OTHER_SECRET):
        assert Webhook(secret).verify(request.body, request.headers)


async def test_a_retry_has_the_same_id_and_a_fresh_timestamp(
    place: HttpPlace, service: WebhookService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receivers refuse old timestamps, and tell copies by the id."""
    service.reply = lambda request: Reply(500)
    async with opened(place.sink()) as sink:
        with pytest.raises(Unavailable):
            await sink.write(of_groups(1))
        later_s = time.time() + 100
        monkeypatch.setattr(subject.time, "time", lambda: later_s)
        service.reply = lambda request: Reply()
        await sink.write(of_groups(1))
    first, second = service.requests

    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) in (100, 101)
    Webhook(SECRET).verify(second.body, second.headers)


def test_the_lanes_of_a_worker_know_together_what_gets_through(place: HttpPlace) -> None:
    """Each has connections of its own; that the service works they tell each other."""
    lanes = [sink for sink in build.make_sinks("hook", place.config, 3) if isinstance(sink, Http)]

    assert len(set(lanes)) == 3
    assert len({id(sink._memory) for sink in lanes}) == 1


async def test_events_go_in_order_by_one_connection(place: HttpPlace, service: WebhookService) -> None:
    """A worker has several lanes for more at once."""
    events = of_groups(*(at % 10 for at in range(60)))
    async with opened(place.sink()) as sink:
        assert await sink.write(events) == {}

    assert service.taken_ids == [event.id for event in events]
    assert service.most_at_once == 1
    assert len({request.connection for request in service.requests}) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_service_that_asks_to_wait_stops_the_whole_sink(
    place: HttpPlace, service: WebhookService, status: int
) -> None:
    """Nothing more is sent, what was taken is settled, and the wait is passed on for all others."""
    events = of_groups(*range(20))
    service.reply = lambda request: (
        Reply(status, {"Retry-After": "17"}) if len(service.requests) > 5 else Reply()
    )
    async with opened(place.sink()) as sink:
        failures = await sink.write(events)

    assert service.taken_ids == [event.id for event in events[:5]]
    assert len(service.requests) == 6
    assert {
        at: (type(why), why.reason, getattr(why, "wait_s", 0)) for at, why in failures.items()
    } == dict.fromkeys(range(5, 20), (Unavailable, f"http_{status}", 17))


async def test_the_wait_is_capped(place: HttpPlace, service: WebhookService) -> None:
    """A service can't put the sink to sleep for a day."""
    service.reply = lambda request: Reply(429, {"Retry-After": "86400"})

    assert (await failure_of(place.sink(retry_after_cap_s=60), *of_groups(1))).wait_s == 60


async def test_gone_is_for_good(place: HttpPlace, service: WebhookService) -> None:
    """410: the worker stops until a restart, and is loud about it."""
    service.reply = lambda request: Reply(410)
    failure = await failure_of(place.sink(), *of_groups(1, 2, 3))

    assert failure.wait_s == math.inf
    assert "wants no events any more" in failure.detail
    assert len(service.requests) == 1


async def test_what_is_refused_for_good_is_named_and_the_others_go(
    place: HttpPlace, service: WebhookService
) -> None:
    """Those behind it, too."""
    events = of_groups(1, 1, 2, 1)
    service.reply = lambda request: Reply(422 if request.ids == [events[1].id] else 200)
    async with opened(place.sink()) as sink:
        failures = await sink.write(events)

    assert {at: (type(why), why.reason) for at, why in failures.items()} == {1: (Poison, "http_422")}
    assert sorted(service.taken_ids) == [events[0].id, events[2].id, events[3].id]


async def test_a_batch_that_is_refused_is_halved(place: HttpPlace, service: WebhookService) -> None:
    """Until the events that are refused stand alone; the others are taken once."""
    events = of_groups(*range(100))
    bad = {events[at].id for at in (0, 41, 42, 99)}
    service.reply = lambda request: Reply(400 if bad & set(request.ids) else 200)
    async with opened(place.sink(batch=True)) as sink:
        failures = await sink.write(events)

    assert set(failures) == {0, 41, 42, 99}
    assert service.taken_ids == [event.id for event in events if event.id not in bad]


@pytest.mark.parametrize("status", [401, 403, 404, 405, 500, 502])
async def test_what_all_events_meet_parks_none(
    place: HttpPlace, service: WebhookService, status: int
) -> None:
    """An expired credential, a moved path, a broken release: the sink waits, however often it tries."""
    service.reply = lambda request: Reply(status)
    async with opened(place.sink()) as sink:
        for _ in range(10):
            with pytest.raises(Unavailable) as caught:
                await sink.write(of_groups(*range(30)))

    assert caught.value.reason == f"http_{status}"


@pytest.mark.parametrize("status", [403, 500])
async def test_what_one_event_meets_holds_up_no_other_for_long(
    place: HttpPlace, service: WebhookService, status: int
) -> None:
    """A firewall dislikes its text, or it trips a bug: after some tries it comes again later by itself."""
    events = of_groups(1, 2, 1, 3)
    service.reply = lambda request: Reply(status if events[0].id in request.ids else 200)
    async with opened(place.sink()) as sink:
        left = events
        for _ in range(4):
            with contextlib.suppress(Unavailable):
                failures = await sink.write(left)
                left = [left[at] for at in sorted(failures)]
            assert left == [events[0], events[2]], "overtaken too early"
        failures = await sink.write(left)

    assert {at: why.reason for at, why in failures.items()} == {0: f"http_{status}"}
    assert isinstance(failures[0], Unavailable)
    assert sorted(service.taken_ids) == [events[1].id, events[2].id, events[3].id]


async def test_no_redirect_is_followed(service: WebhookService, place: HttpPlace) -> None:
    """Not to the metadata of a cloud, not to a service of our own, not with another method."""
    with WebhookService() as inner:
        for target in ("http://169.254.169.254/latest/meta-data/", inner.url, "/other"):
            for status in (301, 302, 303, 307, 308):
                service.reply = lambda request, s=status, t=target: Reply(s, {"Location": t})
                failure = await failure_of(place.sink(), *of_groups(1))
                assert failure.reason == "redirected"
                assert "set url" in failure.detail
        assert inner.requests == []
    assert all(request.ids for request in service.requests)
    assert len(service.requests) == 15


async def test_no_cookie_is_kept(place: HttpPlace, service: WebhookService) -> None:
    """A request says nothing about earlier ones."""
    service.reply = lambda request: Reply(200, {"Set-Cookie": "a=b; Path=/"})
    async with opened(place.sink()) as sink:
        await sink.write(of_groups(1, 1))

    assert all("cookie" not in request.headers for request in service.requests)


async def test_proxies_of_the_environment_are_not_used(
    place: HttpPlace, service: WebhookService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would see the events, and lead around the look at addresses."""
    with WebhookService() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with opened(place.sink()) as sink:
            await sink.write(of_groups(1))

        assert proxy.requests == []
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "127.1", "0x7f000001", "2130706433", "[::ffff:127.0.0.1]", "0.0.0.0"],
)
async def test_an_inner_address_gets_no_connection(host: str) -> None:
    """However it is written, unless the configuration allows its network."""
    accepted = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        writer.close()

    async with await asyncio.start_server(count, ["127.0.0.1", "::1"], 0) as server:
        port = server.sockets[0].getsockname()[1]
        failure = await failure_of(sink_at(f"http://{host}:{port}/", allow_networks=("192.0.2.0/24",)))

    assert failure.reason == "forbidden_address"
    assert accepted == 0


async def test_a_name_that_moves_inside_is_refused_when_it_does(
    service: WebhookService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that is connected to is looked at, each time, not one that was resolved before."""
    answers = ["127.0.0.1", "127.0.0.1", "127.0.0.2"]
    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name == "rebind.test":
            return real(answers.pop(0) if len(answers) > 1 else answers[0], *rest, **more)
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    sink = sink_at(f"http://rebind.test:{service.port}/", allow_networks=("127.0.0.1/32",))
    async with opened(sink):
        assert await sink.write(of_groups(1)) == {}
        service.deafen()
        with socket.create_server(("127.0.0.2", service.port)) as inner:
            inner.settimeout(0.2)
            assert sink._session is not None
            sink._session.connector.clear_dns_cache()  # type: ignore[union-attr]
            with pytest.raises(Unavailable) as written:
                await sink.write(of_groups(2))
            with pytest.raises(Unavailable) as again:
                await sink.open()
            with pytest.raises(TimeoutError):
                inner.accept()

    assert (written.value.reason, again.value.reason) == ("forbidden_address", "forbidden_address")


def sink_at(url: str, **changes: Any) -> Http:
    fields = {"secrets": [SECRET], "allow_networks": ("127.0.0.0/8",), "timeout_s": 5, **changes}
    return Http(HttpSink.model_validate({"kind": "http", "url": url, **fields}), "hook")


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def hostile(behave: Behaviour) -> AsyncIterator[str]:
    """Yield the URL of a server that does this with each connection."""
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await behave(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def says(*parts: bytes, pause_s: float = 0, ends: bool = True) -> Behaviour:
    """Return what reads a head and then writes *parts*."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline() not in (b"\r\n", b""):
            pass
        for part in parts:
            writer.write(part)
            await writer.drain()
            if pause_s:
                await asyncio.sleep(pause_s)
        if not ends:
            await asyncio.Event().wait()

    return behave


def for_ever(first: bytes, then: bytes) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await says(first)(reader, writer)
        while True:
            writer.write(then)
            await writer.drain()
            await asyncio.sleep(0.0001)

    return behave


HOSTILE = {
    "never answers": (says(ends=False), "timeout"),
    "answers a byte at a time": (says(b"HTTP/1.1 200 OK\r\nX: ", *[b"x"] * 100, pause_s=0.1), "timeout"),
    "says 100 for ever": (for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "timeout"),
    "sends headers for ever": (for_ever(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 900 + b"\r\n"), "bad_http"),
    "sends one endless header": (for_ever(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 900), "bad_http"),
    "closes at once": (says(), "disconnected"),
    "closes in the head": (says(b"HTTP/1.1 200 OK\r\nContent-Le"), "disconnected"),
    "is no HTTP": (says(b"\0\xff\r\n\r\nSSH-2.0-OpenSSH\r\n" * 10), "bad_http"),
    "is HTTP/9": (says(b"HTTP/9.9 200 OK\r\n\r\n"), "bad_http"),
    "has no number": (says(b"HTTP/1.1 abc OK\r\n\r\n"), "bad_http"),
    "has a huge number": (says(b"HTTP/1.1 99999999999 OK\r\n\r\n"), "bad_http"),
    "has an odd number": (says(b"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n"), "http_odd"),
    "switches protocols": (
        says(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        "http_101",
    ),
    "has bad chunks": (says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n"), "bad_http"),
    "has two lengths": (
        says(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        "bad_http",
    ),
}


@pytest.mark.parametrize(("behave", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_no_service_can_hold_the_sink_or_break_it(behave: Behaviour, reason: str) -> None:
    """Within the timeout the sink knows that it has to come again; nothing is parked."""
    async with hostile(behave) as url:
        # Why: a busy machine may be slow, too, and only the silent ones are to meet the timeout.
        sink = sink_at(url, timeout_s=2 if reason == "timeout" else 12)
        async with opened(sink):
            started_s = time.monotonic()
            with pytest.raises(Unavailable) as caught:
                await sink.write(of_groups(1))

    assert caught.value.reason == reason
    assert time.monotonic() - started_s < 25


OK = b"HTTP/1.1 200 OK\r\n"
BODIES = {
    "100 MB": for_ever(OK + b"Content-Length: 104857600\r\n\r\n", b"x" * 65536),
    "chunks for ever": for_ever(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
    "a byte a second": says(OK + b"Content-Length: 1000\r\n\r\n", *[b"x"] * 100, pause_s=1),
    "nothing of what it announced": says(OK + b"Content-Length: 1000\r\n\r\n", ends=False),
    "cut off": says(OK + b"Content-Length: 1000\r\n\r\n", b"x"),
    "a bomb": for_ever(OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\n\x1f\x8b\x08\x00\r\n"),
    "until it closes": says(OK + b"\r\n", b"x" * 10_000_000),
}  # fmt: skip


@pytest.mark.parametrize("behave", BODIES.values(), ids=BODIES.keys())
async def test_the_body_of_an_answer_costs_little_and_decides_nothing(behave: Behaviour) -> None:
    """A little of it is read, for a second at most; the status has said that the event is taken."""
    async with hostile(behave) as url, opened(sink_at(url)) as sink:
        started_s = time.monotonic()
        assert await sink.write(of_groups(1, 2)) == {}

        assert time.monotonic() - started_s < 30
        assert not sink._session.connector._conns  # type: ignore[union-attr]


async def test_an_early_refusal_of_a_large_event_is_heard() -> None:
    """413 before the body was read; the rest of the body goes nowhere."""
    event = exit_event("1", group_id="g" * 8_000_000)

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await says(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", ends=False)(
            reader, writer
        )

    async with hostile(behave) as url, opened(sink_at(url)) as sink:
        failures = await sink.write([event])

    assert {at: why.reason for at, why in failures.items()} == {0: "http_413"}


async def test_an_idle_connection_that_was_closed_costs_nothing() -> None:
    """The service closes it just when the next request is on its way: that is sent once more, at once."""
    connections = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(0)
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
            await reader.readexactly(length)
            connections[-1] += 1
            if connections[-1] == 2 and len(connections) < 3:
                return  # the second request of a connection gets no answer
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with hostile(behave) as url, opened(sink_at(url)) as sink:
        assert await sink.write(of_groups(1, 1, 1)) == {}

    assert sum(connections) >= 4


async def test_tls_is_verified(tmp_path: Path) -> None:
    """With the CA's file it works; unknown CA, another name and no TLS at all are told in words."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    with WebhookService(context) as secure, WebhookService() as plain:
        async with opened(sink_at(secure.url, tls_ca=tmp_path / "ca.pem")) as sink:
            assert await sink.write(of_groups(1, 2)) == {}
        unknown = await failure_of(sink_at(secure.url))
        misnamed = await failure_of(
            sink_at(secure.url.replace("127.0.0.1", "localhost"), tls_ca=tmp_path / "ca.pem")
        )
        without = await failure_of(sink_at(plain.url.replace("http:", "https:")))
        missing = await failure_of(sink_at(secure.url, tls_ca=tmp_path / "none.pem"))
        assert len(secure.taken) == 2

    assert [one.reason for one in (unknown, misnamed, without)] == ["tls_failed"] * 3
    assert "self-signed" in unknown.detail or "local issuer" in unknown.detail
    assert missing.reason == "no_ca"


async def test_tls_that_turns_bad_is_told_while_writing(tmp_path: Path) -> None:
    """The service renewed its certificate with another CA: the events wait."""
    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    with WebhookService(context) as secure:
        async with opened(sink_at(secure.url, tls_ca=tmp_path / "ca.pem")) as sink:
            await sink.write(of_groups(1))
            secure.deafen()
            trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
            secure.listen()
            with pytest.raises(Unavailable) as caught:
                await sink.write(of_groups(2))

    assert caught.value.reason == "tls_failed"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/", "unreachable"),
        ("http://none.invalid/", "unknown_host"),
    ],
)
async def test_a_service_that_is_not_there_is_told_at_the_start(url: str, reason: str) -> None:
    """Nothing listens, or no such name: within seconds."""
    started_s = time.monotonic()
    failure = await failure_of(sink_at(url))

    assert failure.reason == reason
    assert time.monotonic() - started_s < 10


async def test_nothing_that_is_secret_is_told(
    service: WebhookService, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither url path nor query, neither secrets nor headers, nor what the service answered."""
    with caplog.at_level(logging.DEBUG):
        for reply in (
            Reply(410, body=b"pw5ecr3t"),
            Reply(500),
            Reply(302, {"Location": "/pw5ecr3t"}),
            Reply(400),
        ):
            service.reply = lambda request, reply=reply: reply
            sink = sink_at(
                f"http://127.0.0.1:{service.port}/pw5ecr3t?key=pw5ecr3t", headers={"X-Key": "pw5ecr3t"}
            )
            async with opened(sink):
                try:
                    failures = await sink.write(of_groups(1))
                    said = str(failures)
                except Unavailable as failure:
                    said = f"{failure} {failure!r} {failure.__cause__!r}"
            assert "pw5ecr3t" not in said
            assert SECRET.removeprefix("whsec_") not in said
            assert f"127.0.0.1:{service.port}" in said or "Poison" in said

    assert "pw5ecr3t" not in caplog.text
    assert SECRET.removeprefix("whsec_") not in caplog.text


async def test_an_event_of_many_megabytes_arrives(place: HttpPlace, service: WebhookService) -> None:
    """Larger than what aiohttp warns of."""
    event = exit_event("1", group_id="g" * 5_000_000)
    async with opened(place.sink()) as sink:
        assert await sink.write([event]) == {}

    assert service.requests[0].body == event.body


async def test_events_of_other_publishers_are_signed_too(place: HttpPlace, service: WebhookService) -> None:
    """Their ids may be any text; none of it becomes a header."""
    odd = cloud_event("x\r\nX-Injected: y", "im.unknown", {})
    async with opened(place.sink()) as sink:
        assert await sink.write([odd]) == {}
    [request] = service.requests

    assert "x-injected" not in request.headers
    Webhook(SECRET).verify(request.body, request.headers)


def test_it_runs_on_uvloop_too(service: WebhookService, tmp_path: Path) -> None:
    """The event loop of production."""

    async def work() -> None:
        async with opened(HttpPlace(service).sink()) as sink:
            assert await sink.write(of_groups(1, 2, 3)) == {}
        refused = sink_at("http://localhost:1/", allow_networks=())
        assert (await failure_of(refused)).reason == "forbidden_address"
        ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1").configure_cert(context)
        ca.cert_pem.write_to_path(tmp_path / "ca.pem")
        with WebhookService(context) as secure:
            async with opened(sink_at(secure.url, tls_ca=tmp_path / "ca.pem")) as sink:
                await sink.open()
                assert await sink.write(of_groups(1, 2, 3)) == {}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


@pytest.mark.parametrize("batch", [False, True])
async def test_the_receiver_of_the_documentation_works(tmp_path: Path, batch: bool) -> None:
    """Copied from the page: it takes what is signed, refuses what is not, and knows copies."""
    page = (Path(__file__).parent.parent / "docs/sinks.md").read_text()
    _, _, rest = page.partition("    from aiohttp import web\n")
    code = textwrap.dedent("    from aiohttp import web\n" + rest.partition("\n### ")[0])
    (port,) = free_ports(1)
    assert len(code.strip().splitlines()) < 25
    assert SECRET in code
    (tmp_path / "receiver.py").write_text(code.replace("port=9000", f"host='127.0.0.1', port={port}"))
    with subprocess.Popen(
        [sys.executable, "receiver.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            await asyncio.to_thread(process.stdout.readline)  # it says where it runs
            url = f"http://127.0.0.1:{port}/events"
            stranger = sink_at(url, secrets=[OTHER_SECRET], batch=batch)
            refused = await failure_of(stranger, *of_groups(1))
            async with opened(sink_at(url, batch=batch)) as sink:
                for _ in range(2):
                    assert await sink.write(of_groups(1, 2)) == {}
        finally:
            process.terminate()
        said = process.stdout.read().splitlines()

    assert refused.reason == "http_401"
    assert [line for line in said if line.startswith("im.")] == [
        "im.group.member.exited group/g1",
        "im.group.member.exited group/g2",
    ]
