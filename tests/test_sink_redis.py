"""The redis sink: an entry once within the window, errors in words, and a connection that is never half read."""

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis.asyncio
import trustme
from pydantic import SecretStr
from redis.crc import key_slot

from gateway.config import RedisSink
from gateway.errors import Unavailable
from gateway.event import Event
from gateway.sinks import redis as subject
from gateway.sinks.redis import Redis, durability, seen_key
from tests import services
from tests.services.processes import ServerFailed, free_ports, wait_until
from tests.sink_events import exit_event
from tests.sink_places import RedisPlace
from tests.tcp_proxy import TcpProxy

SEEN = "{im:events}:seen"


@pytest.fixture
def place(redis: services.Redis, redis_url: str) -> RedisPlace:
    return RedisPlace(redis, redis_url)


@pytest.fixture
def settings(redis: services.Redis) -> Iterator[services.Redis]:
    """The server, for tests that change its settings: they are put back."""
    names = ("maxmemory", "maxmemory-policy", "min-replicas-to-write", "busy-reply-threshold", "appendonly",
             "appendfsync", "save", "maxclients")  # fmt: skip
    before = {name: redis.cli("CONFIG", "GET", name).split("\n")[1:] for name in names}
    yield redis
    redis.ensure_running()
    for name, value in before.items():
        redis.cli("CONFIG", "SET", name, value[0] if value else "")
    redis.cli("REPLICAOF", "NO", "ONE")


def at(url: str, **changes: str) -> str:
    """Return *url* with another ``login``, ``host`` or ``database``."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    login, host = changes.get("login", login), changes.get("host", host)
    return f"{parts.scheme}://{login}@{host}/{changes.get('database', '0')}"


async def write(sink: Redis, *events: Event) -> None:
    try:
        await sink.open()
        assert await sink.write(events) == {}
    finally:
        await sink.close()


async def failure_of(sink: Redis, *events: Event) -> Unavailable:
    """Return what opening *sink*, or writing *events* with it, raises."""
    with pytest.raises(Unavailable) as caught:
        await write(sink, *events)
    return caught.value


async def ids(place: RedisPlace, stream: str = "im:events") -> list[str]:
    return [entry["id"] for entry in await place.entries(stream)]


async def test_an_entry_can_be_read_without_parsing_json(place: RedisPlace) -> None:
    """Id, source and type are fields; ``event`` is the event's own JSON."""
    event = exit_event("1")
    await write(place.sink(), event)

    assert await place.entries() == [
        {
            "id": "1",
            "source": "/tencent-im/1400000000",
            "type": "im.group.member.exited",
            "event": event.body.decode(),
        }
    ]


async def test_after_the_window_an_event_counts_as_new(place: RedisPlace) -> None:
    """Within it an event adds nothing; past it the same event adds an entry, and the window begins anew."""
    event, other = exit_event("1"), exit_event("2")
    await write(place.sink(window_s=60), event, other)
    async with redis.asyncio.Redis.from_url(place.url) as client:
        now_ms = int(await client.zscore(SEEN, subject._member(event)))
        await client.zadd(
            SEEN, {subject._member(event): now_ms - 61_000, subject._member(other): now_ms - 40_000}
        )
    await write(place.sink(window_s=60), event, other)
    await write(place.sink(window_s=60), event, other)

    assert await ids(place) == ["1", "2", "1"]


async def test_the_ids_go_when_nothing_comes_any_more(place: RedisPlace, redis: services.Redis) -> None:
    """A stream that has fallen silent keeps no memory for its window."""
    await write(place.sink(window_s=60), exit_event("1"))
    expires_ms = int(redis.cli("PTTL", SEEN))
    await write(place.sink(window_s=1), exit_event("2"))
    wait_until(lambda: redis.cli("EXISTS", SEEN) == "0", 10, "the ids to expire")

    assert 50_000 < expires_ms <= 60_000


async def test_old_ids_are_removed_a_few_at_a_time(place: RedisPlace, redis: services.Redis) -> None:
    """More go than come, so that their number follows the window; never so many that Redis stands still."""
    redis.cli("EVAL", f"for i = 1, 5000 do redis.call('ZADD', '{SEEN}', i, i) end", "0")
    await write(place.sink(), *(exit_event(str(number)) for number in range(10)))
    after_one = int(redis.cli("ZCARD", SEEN))
    for number in range(10, 15):
        await write(place.sink(), exit_event(str(number)))

    assert after_one == 5000 - 1020 + 10
    assert int(redis.cli("ZCARD", SEEN)) == 15


async def test_the_stream_is_trimmed_about_at_its_length(place: RedisPlace) -> None:
    """The newest stay; Redis trims whole nodes, so that a few more do. 0: all of them."""
    await write(place.sink(stream="short", max_len=200), *(exit_event(f"{n:04d}") for n in range(1000)))
    await write(place.sink(stream="whole", max_len=0), *(exit_event(f"{n:04d}") for n in range(1000)))
    left = await ids(place, "short")

    assert 200 <= len(left) < 400
    assert left == [f"{n:04d}" for n in range(1000)][-len(left) :]
    assert len(await ids(place, "whole")) == 1000


async def test_what_was_trimmed_does_not_come_back(place: RedisPlace) -> None:
    """The window is about ids, not about what the stream still holds."""
    batch = [exit_event(f"{n:04d}") for n in range(1000)]
    await write(place.sink(max_len=100), *batch)
    before = await ids(place)
    await write(place.sink(max_len=100), *batch)

    assert await ids(place) == before


async def test_two_workers_at_once_add_each_event_once(place: RedisPlace) -> None:
    """The look and the entry are one step for everybody else."""
    batch = [exit_event(f"{number:03d}") for number in range(300)]
    sinks = [place.sink(), place.sink()]
    await asyncio.gather(*(sink.open() for sink in sinks))
    for _ in range(5):
        await asyncio.gather(sinks[0].write(batch), sinks[1].write(batch[::-1]))
    await asyncio.gather(*(sink.close() for sink in sinks))

    assert sorted(await ids(place)) == [event.id for event in batch]


async def test_equal_ids_of_two_apps_are_two_events(place: RedisPlace) -> None:
    """An event is named by source and id, wherever one ends and the other begins."""
    one = exit_event("1")
    others = [Event(one.body, {**one.attributes, "source": source, "id": name})
              for source, name in (("/a", "1"), ("/a1", ""), ("/b", "1"), ("/a 1", "1"), ("/a", " 11"))]  # fmt: skip
    await write(place.sink(), one, *others, *others)

    assert len(await place.entries()) == 6


@pytest.mark.parametrize("stream", ["im:events", "{im}:events", "a{b}c", "crm", "x" * 200])
def test_both_keys_stand_in_one_slot_of_a_cluster(stream: str) -> None:
    """A script may touch one node only."""
    assert key_slot(stream.encode()) == key_slot(seen_key(stream).encode())
    assert seen_key(stream) != stream


async def test_a_cluster_is_followed_to_the_node_that_has_the_stream(redis: services.Redis) -> None:
    """Whichever node the url names; when the stream moves on, the next open finds it."""
    servers = []
    try:
        for _ in range(2):
            (bus,) = free_ports(1)
            servers.append(services.Redis("--cluster-enabled", "yes", "--cluster-port", str(bus)))
            servers[-1].bus = bus  # type: ignore[attr-defined]
        first, second = servers
        first.cli("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        first.cli("CLUSTER", "MEET", second.host, str(second.port), str(second.bus))  # type: ignore[attr-defined]
        wait_until(lambda: "cluster_state:ok" in second.cli("CLUSTER", "INFO"), 30, "the cluster")
        # Why the same password: MOVED names a host and a port, nothing else.
        password = urlsplit(first.url).password
        second.cli("CONFIG", "SET", "requirepass", str(password))
        second._password = str(password)
        sink = RedisPlace(first, second.url).sink()
        await sink.open()
        await sink.write([exit_event("1")])
        one = await ids(RedisPlace(first, first.url))
        wrong = second.cli("CLUSTER", "MYID")
        slot = str(key_slot(b"im:events"))
        first.cli("DEL", "im:events", SEEN)
        second.cli("CLUSTER", "SETSLOT", slot, "NODE", wrong)
        first.cli("CLUSTER", "SETSLOT", slot, "NODE", wrong)
        with pytest.raises(Unavailable) as caught:
            await sink.write([exit_event("2")])
        await sink.open()
        await sink.write([exit_event("2")])
        await sink.close()
        two = await ids(RedisPlace(second, second.url))
    finally:
        for server in servers:
            server.close()

    assert one == ["1"]
    assert caught.value.reason == "moved"
    assert two == ["2"]


async def test_a_full_memory_is_said_and_loses_nothing(place: RedisPlace, settings: services.Redis) -> None:
    """What could not be added is not marked as seen either, old ids or not."""
    sink = place.sink()
    await sink.open()
    await sink.write([exit_event("0")])
    settings.cli("EVAL", f"for i = 1, 50 do redis.call('ZADD', '{SEEN}', i, i) end", "0")
    settings.cli("CONFIG", "SET", "maxmemory", "1")
    failure = await failure_of(sink, exit_event("1"), exit_event("2"))
    settings.cli("CONFIG", "SET", "maxmemory", "0")
    await write(sink, exit_event("1"), exit_event("2"))

    assert failure.reason == "out_of_memory"
    assert "max_len" in failure.detail
    assert await ids(place) == ["0", "1", "2"]


async def test_a_replica_is_said(place: RedisPlace, settings: services.Redis) -> None:
    """After a failover the url may still name the old master."""
    sink = place.sink()
    await sink.open()
    settings.cli("REPLICAOF", settings.host, "1")
    settings.cli("CONFIG", "SET", "replica-serve-stale-data", "yes")
    with pytest.raises(Unavailable) as caught:
        await sink.write([exit_event("1")])
    settings.cli("REPLICAOF", "NO", "ONE")
    await write(sink, exit_event("1"))

    assert caught.value.reason == "read_only"
    assert await ids(place) == ["1"]


async def test_too_few_replicas_are_said(place: RedisPlace, settings: services.Redis) -> None:
    """Whoever asked for replicas gets no write without them."""
    settings.cli("CONFIG", "SET", "min-replicas-to-write", "1")

    assert (await failure_of(place.sink(), exit_event("1"))).reason == "no_replicas"
    assert await ids(place) == []


async def test_a_script_of_somebody_else_is_waited_for(place: RedisPlace, settings: services.Redis) -> None:
    """Redis answers nobody meanwhile, and says so after a while."""
    settings.cli("CONFIG", "SET", "busy-reply-threshold", "50")

    def run_endlessly() -> None:
        with pytest.raises(ServerFailed, match="Script killed"):
            settings.cli("EVAL", "while true do end", "0")

    endless = asyncio.create_task(asyncio.to_thread(run_endlessly))

    async def is_busy() -> bool:
        try:
            await write(place.sink(), exit_event("1"))
        except Unavailable as failure:
            return failure.reason == "busy"
        return False

    async with asyncio.timeout(20):
        while not await is_busy():
            await asyncio.sleep(0.01)
    await asyncio.to_thread(settings.cli, "SCRIPT", "KILL")
    await endless

    await write(place.sink(), exit_event("2"))
    assert (await ids(place))[-1] == "2"


async def test_what_is_wrong_with_the_login_is_named_without_the_password(
    place: RedisPlace, redis: services.Redis
) -> None:
    """One reason each; what the url holds stays out of the sentence."""
    redis.cli("ACL", "SETUSER", "reader", "on", ">pa-ss", "~*", "+@read", "+ping", "+select")
    wrong = {
        at(place.url, login=":pa-ss"): "no_rights",
        at(place.url, login=""): "no_rights",
        at(place.url, login="nobody:pa-ss"): "no_rights",
        at(place.url, login="reader:pa-ss"): "no_rights",
        at(place.url, database="99"): "no_database",
        at(place.url, login=":pa-ss", host="127.0.0.1:1"): "unreachable",
        at(place.url, login=":pa-ss", host="none.invalid:6379"): "unreachable",
    }
    for url, reason in wrong.items():
        failure = await failure_of(RedisPlace(redis, url).sink(), exit_event("1"))

        assert (url, failure.reason) == (url, reason)
        assert "pa-ss" not in str(failure)
    redis.cli("ACL", "DELUSER", "reader")


RIGHTS = ("~im:events", "~{im:events}:seen", "+eval", "+xlen", "+xadd", "+xtrim", "+zscore", "+zadd", "+zcount",
          "+zremrangebyrank", "+pexpire", "+time", "+select", "+client|setname")  # fmt: skip


async def test_the_documented_rights_are_enough(
    place: RedisPlace, redis: services.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """A user of its own needs two keys and a few commands; without CONFIG the log says what is unknown."""
    redis.cli("ACL", "SETUSER", "gateway", "reset", "on", ">pa-ss", *RIGHTS)
    redis.cli("EVAL", f"for i = 1, 50 do redis.call('ZADD', '{SEEN}', i, i) end", "0")
    with caplog.at_level(logging.INFO):
        await write(RedisPlace(redis, at(place.url, login="gateway:pa-ss")).sink(), exit_event("1"))
    redis.cli("ACL", "DELUSER", "gateway")

    assert await ids(place) == ["1"]
    assert "does not tell how durable it is" in caplog.text


def test_the_rights_stand_in_the_documentation() -> None:
    """The page has the line that the test above has tried."""
    page = (Path(__file__).parent.parent / "docs/sinks.md").read_text()

    assert " ".join(RIGHTS) in " ".join(page.replace("\\\n", " ").split())


async def test_a_key_of_another_kind_is_said_before_events_come(
    place: RedisPlace, redis: services.Redis
) -> None:
    """Somebody else's key is left alone."""
    redis.cli("SET", "im:events", "theirs")
    sink = place.sink()
    with pytest.raises(Unavailable) as caught:
        await sink.open()

    assert caught.value.reason == "wrong_type"
    assert redis.cli("GET", "im:events") == "theirs"


ANSWERS = {
    "-LOADING Redis is loading the dataset in memory": "loading",
    "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist": "disk_fault",
    "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": "read_only",
    "-CLUSTERDOWN The cluster is down": "cluster_down",
    "-TRYAGAIN Multiple keys request during rehashing of slot": "cluster_down",
    "-NOAUTH Authentication required.": "no_rights",
    "-ERR invalid password": "no_rights",
    "-ERR max number of clients reached": "overloaded",
    "-ERR unknown command 'EVAL', with args beginning with: 'pa-ss'": "too_old",
    "-ERR something new about pa-ss": "redis_error",
    "-NEWCODE pa-ss": "redis_error",
    "-ERR Error running script (call to f_1): @user_script:16: @user_script: 16: -OOM command not allowed": "out_of_memory",
    "-ERR Error running script (call to f_1): @user_script:16: @user_script: 16: -MISCONF Errors writing": "disk_fault",
    "-MOVED 3999 127.0.0.1:1": "unreachable",
    "HTTP/1.1 400 Bad Request": "unreachable",
    "+OK": "unreachable",
    ":x": "unreachable",
    "$x": "unreachable",
    "-MOVED x": "unreachable",
}


@pytest.mark.parametrize(("answer", "reason"), ANSWERS.items(), ids=range(len(ANSWERS)))
async def test_answers_that_are_hard_to_provoke_have_their_reason(answer: str, reason: str) -> None:
    """A server that only ever says this; nothing that a command carried gets into the sentence."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(f"{answer}\r\n".encode() * 4)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        config = RedisSink(kind="redis", url=SecretStr(f"redis://:pa-ss@127.0.0.1:{port}"), write_timeout_s=5)
        sink = Redis(config, "cache")
        with pytest.raises(Unavailable) as caught:
            await sink.open()
        await sink.close()

    assert caught.value.reason == reason
    assert "pa-ss" not in str(caught.value)


async def test_a_silent_server_costs_the_timeout_and_no_event(
    place: RedisPlace, redis: services.Redis
) -> None:
    """Its late answer belongs to nobody: the next write has a connection of its own."""
    sink = place.sink(write_timeout_s=2)
    await sink.open()
    os.kill(redis.pid, signal.SIGSTOP)
    with pytest.raises(Unavailable) as caught:
        await sink.write([exit_event("1")])
    with pytest.raises(Unavailable) as again:
        await sink.open()
    await sink.close()
    os.kill(redis.pid, signal.SIGCONT)
    await write(place.sink(), exit_event("1"), exit_event("2"))

    assert (caught.value.reason, again.value.reason) == ("timeout", "timeout")
    assert await ids(place) == ["1", "2"]


async def test_a_write_cut_off_at_any_moment_leaves_no_half_read_connection(place: RedisPlace) -> None:
    """Cancelled after each of its steps: the cancel arrives, and the same sink goes on with the next batch."""
    sink = place.sink()
    cancelled = 0
    for steps in range(40):
        await sink.open()
        task = asyncio.create_task(sink.write([exit_event(f"{steps}-{n}") for n in range(50)]))
        for _ in range(steps):
            await asyncio.sleep(0)
        was_done = task.done()
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        cancelled += isinstance(result, asyncio.CancelledError)
        assert was_done or isinstance(result, asyncio.CancelledError), "a cancel was swallowed"
        await sink.open()
        await sink.write([exit_event(f"{steps}-{n}") for n in range(50)])
    await sink.close()

    assert cancelled > 3
    assert sorted(await ids(place)) == sorted(f"{steps}-{n}" for steps in range(40) for n in range(50))


async def test_a_connection_that_breaks_in_the_middle_loses_and_doubles_nothing(
    place: RedisPlace, redis: services.Redis
) -> None:
    """Written or not: nobody knows, so the batch comes again, and adds what is missing."""
    batch = [exit_event(f"{number:03d}") for number in range(200)]
    with TcpProxy(redis.port) as proxy:
        sink = RedisPlace(redis, proxy.through(place.url)).sink()
        await sink.open()
        proxy.stall("down")  # the batch arrives, its answer does not
        task = asyncio.create_task(sink.write(batch))
        while not await ids(place):
            await asyncio.sleep(0.01)
        proxy.cut()
        with pytest.raises(Unavailable) as caught:
            await task
        proxy.flow()
        await sink.open()
        await sink.write(batch)
        await sink.close()

    assert caught.value.reason == "unreachable"
    assert await ids(place) == [event.id for event in batch]


async def test_a_killed_redis_keeps_stream_and_ids(place: RedisPlace, redis: services.Redis) -> None:
    """With appendfsync always what was acknowledged survives, the ids with it: nothing lost, nothing twice."""
    sink = place.sink()
    await sink.open()
    await sink.write([exit_event("1")])
    redis.kill()
    with pytest.raises(Unavailable):
        await sink.write([exit_event("2")])
    redis.start()
    await write(sink, exit_event("1"), exit_event("2"))

    assert await ids(place) == ["1", "2"]


async def test_a_redis_that_forgets_takes_an_event_again(place: RedisPlace, redis: services.Redis) -> None:
    """The ids are as durable as the stream: both go together."""
    await write(place.sink(), exit_event("1"))
    redis.cli("FLUSHALL")
    await write(place.sink(), exit_event("1"))

    assert await ids(place) == ["1"]


async def test_tls_is_verified(redis: services.Redis, place: RedisPlace, tmp_path: Path) -> None:
    """With the CA's file it works; without it, for another name, or without TLS it is refused in words."""
    ca = trustme.CA()
    certificate = ca.issue_cert("127.0.0.1")
    files = {
        "cert-file": certificate.cert_chain_pems[0].bytes().decode(),
        "key-file": certificate.private_key_pem.bytes().decode(),
        "ca-cert-file": ca.cert_pem.bytes().decode(),
    }
    (port,) = free_ports(1)
    written = {name: str(redis._processes.write(name, text)) for name, text in files.items()}
    redis.cli("CONFIG", "SET", *(word for name, path in written.items() for word in (f"tls-{name}", path)),
              "tls-auth-clients", "no", "tls-port", str(port))  # fmt: skip
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    url = at(place.url, host=f"127.0.0.1:{port}").replace("redis://", "rediss://")
    secure = RedisPlace(redis, url)
    try:
        await write(secure.sink(tls_ca=tmp_path / "ca.pem"), exit_event("1"))
        unknown = await failure_of(secure.sink())
        foreign = await failure_of(secure.sink(tls_ca=tmp_path / "other.pem"))
        named = RedisPlace(redis, at(url, host=f"localhost:{port}"))
        misnamed = await failure_of(named.sink(tls_ca=tmp_path / "ca.pem"))
        plain = await failure_of(RedisPlace(redis, at(place.url, host=f"127.0.0.1:{port}")).sink())
    finally:
        redis.cli("CONFIG", "SET", "tls-port", "0")

    assert await ids(place) == ["1"]
    for failure in (unknown, foreign, misnamed):
        assert failure.reason == "unreachable"
        assert "tls_ca" in failure.detail
    assert plain.reason == "unreachable"


DURABILITY = [
    ({"appendonly": "yes", "appendfsync": "always"}, "before it answers", True),
    ({"appendonly": "yes", "appendfsync": "everysec"}, "loses at most two", True),
    ({"appendonly": "yes", "appendfsync": "no"}, "half a minute", False),
    ({"appendonly": "no", "save": "3600 1"}, "snapshots only (save 3600 1)", False),
    ({"appendonly": "no", "save": ""}, "nothing to disk", False),
    ({"appendonly": "yes", "appendfsync": "always", "maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"}, "whole keys", False),
    ({"appendonly": "yes", "appendfsync": "always", "maxmemory": "1gb", "maxmemory-policy": "volatile-ttl"}, "forgets ids", False),
    ({}, "CONFIG GET is not allowed", True),
]  # fmt: skip


@pytest.mark.parametrize(("found", "said", "is_safe"), DURABILITY)
def test_how_durable_it_is_is_one_sentence(found: dict[str, str], said: str, is_safe: bool) -> None:
    """What an operator has to know stands in it."""
    sentence = durability(found)

    assert said in sentence[0]
    assert sentence[1] == is_safe


async def test_how_durable_it_is_is_said_at_start_and_when_it_changes(
    place: RedisPlace, settings: services.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, not with every new connection; a warning where it may lose what it took."""
    sink = place.sink()
    with caplog.at_level(logging.INFO, "gateway"):
        for _ in range(2):
            await sink.open()
            await sink.close()
        settings.cli("CONFIG", "SET", "appendonly", "no")
        await sink.open()
        await sink.close()
        settings.cli("CONFIG", "SET", "appendfsync", "everysec", "appendonly", "yes")
        await sink.open()
        await sink.close()

    assert [(one.levelname, one.getMessage().partition(": it ")[0].partition(" writes")[0]) for one in caplog.records] == [
        ("INFO", f"Sink cache: Redis 127.0.0.1:{settings.port}"),
        ("WARNING", f"Sink cache: Redis 127.0.0.1:{settings.port} may lose what it took"),
        ("INFO", f"Sink cache: Redis 127.0.0.1:{settings.port}"),
    ]  # fmt: skip
