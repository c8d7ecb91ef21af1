"""RabbitMQ's own ways to fail, on a real node: returns, closed channels, alarms, rights, hosts, TLS."""

import asyncio
import contextlib
import json
from urllib.parse import quote, urlsplit

import aio_pika
import aiormq
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from gateway.broker import Unconfirmed
from gateway.broker.rabbitmq.confirms import Batch, UnconfirmedBatches
from gateway.broker.rabbitmq.faults import in_our_words
from gateway.errors import Unavailable
from gateway.event import Event
from tests.rabbitmq_world import (
    admin_channel,
    body,
    callback,
    event,
    frozen,
    manage,
    numbers,
    taken,
    until,
    value,
)
from tests.services.processes import free_ports


async def test_a_return_is_not_a_success_even_with_equal_ids(make, amqp_url):
    """Four unroutable publishes of one id: each of them fails, none is taken for its neighbour."""
    broker = make({"one": ("im.group.#",)})
    async with broker.publisher() as publisher:
        async with admin_channel(amqp_url) as channel:
            await channel.exchange_delete("im.unrouted")
        lost = [await publisher.send([event(1, "im.unknown")]) for _ in range(4)]
        routed = await publisher.send([event(1)])

        for future in lost:
            with pytest.raises(Unconfirmed) as caught:
                await future
            assert caught.value.reason == "returned"
        await routed


async def test_the_alternate_exchange_deleted_loses_nothing(make, forward, amqp_url):
    """The return is seen, the topology declared again, and the event sent again."""
    broker = make({"one": ("nothing.at.all",)})
    journal, metrics = await forward(broker)
    await journal.append(callback(1))
    await asyncio.wait_for(journal.confirmed(1), 10)
    async with admin_channel(amqp_url) as channel:
        await channel.exchange_delete("im.unrouted")
    for number in range(2, 6):
        await journal.append(callback(number))

    await asyncio.wait_for(journal.confirmed(5), 20)

    async def all_there():
        return await broker.unrouted() == 5

    await until(all_there, "all five unrouted")
    assert value(metrics.publish_failures, reason="returned") >= 1


@pytest.mark.parametrize("exchange", ["im.events", "im.sink.one"])
async def test_an_exchange_deleted_while_running_loses_nothing(make, forward, amqp_url, exchange):
    """Whether the publish fails or falls through to im.unrouted, everything acknowledged still stands somewhere."""
    broker = make({"one": ("#",)})
    journal, _ = await forward(broker)
    await journal.append(callback(1))
    await asyncio.wait_for(journal.confirmed(1), 10)
    async with admin_channel(amqp_url) as channel:
        await channel.exchange_delete(exchange)
    for number in range(2, 11):
        await journal.append(callback(number))
    await asyncio.wait_for(journal.confirmed(10), 20)
    async with make({"one": ("#",)}).publisher():
        pass  # what a reconnect does: everything is declared again
    await broker.rescue()

    assert sorted(numbers(await taken(broker, "one", 10))) == list(range(1, 11))


async def test_an_alarm_stops_writing_and_the_deadline(make, rabbitmq, forward, caplog):
    """While RabbitMQ refuses publishes nothing is written, no deadline runs, and the log says so; then all arrives."""
    broker = make({"one": ("#",)}, confirm_timeout_s=1)
    journal, metrics = await forward(broker)
    await journal.append(callback(0))
    await asyncio.wait_for(journal.confirmed(1), 10)
    try:
        await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "0.00000001")
        for number in range(1, 50):
            await journal.append(callback(number))
        await asyncio.sleep(3)
        assert journal.cursor < 50
    finally:
        await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "0.4")
    await asyncio.wait_for(journal.confirmed(50), 30)

    assert numbers(await taken(broker, "one", 50)) == list(range(50))
    assert value(metrics.publish_failures, reason="deadline") == 0
    assert len([one for one in caplog.messages if "refuses to read publishes" in one]) == 1


async def test_nothing_is_written_while_an_alarm_lasts(make, rabbitmq):
    """What the broker does not read would fill its buffers and ours, and could not be taken back."""
    broker = make({"one": ("#",)})

    async def is_told():
        return value(broker._metrics.broker_blocked) == 1

    async with broker.publisher() as publisher:
        await (await publisher.send([event(0)]))
        try:
            await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "0.00000001")
            first = await publisher.send(
                [event(1)]
            )  # RabbitMQ tells of the alarm when something is published
            await until(is_told, "the alarm")
            second = asyncio.ensure_future(publisher.send([event(2)]))
            await asyncio.sleep(0.5)
            assert not second.done()
        finally:
            await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "0.4")
        await asyncio.wait_for(first, 30)
        await asyncio.wait_for(await asyncio.wait_for(second, 30), 30)

    assert [one["data"]["n"] for one in await taken(broker, "one", 3)] == [0, 1, 2]


async def test_publishing_never_shares_a_connection_with_consuming(make):
    """A broker that refuses publishes stops reading their whole connection: acknowledgements must not stand in it."""
    broker = make({"one": ("#",)})
    async with broker.publisher() as publisher, broker.consumer("one", 10) as consumer:
        await (await publisher.send([event(1), event(2)]))
        found = []
        async with asyncio.timeout(10):
            while len(found) < 2:
                found += await consumer.take(2, 0.1)
        await consumer.park(found[0], "odd")
        await consumer.retry(found[1], "later")

        assert publisher._publisher._channel.connection is broker._copies._channel.connection
        assert publisher._publisher._channel.connection is not consumer._channel.connection


async def test_a_node_that_says_nothing_runs_into_the_deadline(make, rabbitmq, forward):
    """Frozen, then thawed: the deadline gives the channel up, and what is sent again arrives in order."""
    broker = make({"one": ("#",)}, confirm_timeout_s=0.5, heartbeat_s=60)
    journal, metrics = await forward(broker)
    await journal.append(callback(0))
    await asyncio.wait_for(journal.confirmed(1), 10)
    with frozen(rabbitmq.pid):
        for number in range(1, 20):
            await journal.append(callback(number))

        async def given_up():
            return value(metrics.publish_failures) >= 1

        await until(given_up, "the deadline")
    await asyncio.wait_for(journal.confirmed(20), 30)

    found = numbers(await taken(broker, "one", 20))
    assert list(dict.fromkeys(found)) == list(range(20))


async def test_a_connection_given_up_for_silence_cancels_nobody(make, rabbitmq):
    """aiormq cancels what waits on it; to us that is Unavailable, or a silent broker would end the process."""
    broker = make()
    async with broker.publisher():
        pass
    async with broker.consumer("one", 1):
        links = [broker._publish_link, broker._consume_link]
        connections = [await link.get() for link in links]
        with frozen(rabbitmq.pid):
            asks = [
                asyncio.create_task(ask)
                for ask in (broker.depth("one"), broker.unrouted(), broker.peek("one", 1))
            ]
            await asyncio.sleep(0.1)
            for connection in connections:
                connection._reader_task.cancel()  # what its heartbeat does after 3 x (heartbeat + 1) s
            results = await asyncio.wait_for(asyncio.gather(*asks, return_exceptions=True), 20)

    assert [type(result) for result in results] == [Unavailable] * 3
    assert (await broker.depth("one")).ready == 0


async def test_a_message_the_broker_will_not_have_goes_out_as_malformed(make, rabbitmq, forward):
    """One event too large for the broker's own limit holds nobody up: named, without body, kept in the journal."""
    await asyncio.to_thread(lambda: rabbitmq.configure(max_message_size="20000"))
    try:
        broker = make({"one": ("#",)})
        journal, _ = await forward(broker, publish_batch_events=16)
        for number in range(60):
            await journal.append(callback(number, Introduction="x" * (50_000 if number == 33 else 10)))
        await asyncio.wait_for(journal.confirmed(60), 60)
        found = await taken(broker, "one", 60)
    finally:
        await asyncio.to_thread(rabbitmq.configure)

    bad = [one for one in found if one["type"] == "im.malformed"]
    assert {one["position"] for one in bad} == {f"{journal.id}.34.0"}
    assert all(one["data"] == {"reason": "refused_by_broker"} for one in bad)
    good = numbers([one for one in found if one["type"] != "im.malformed"])
    assert set(good) == set(range(60)) - {33}
    assert journal.read(33, 1, 10**6)[0].callback.body == body(33, Introduction="x" * 50_000)


async def test_declare_check_names_what_is_missing_and_needs_no_right_to_configure(make, rabbitmq, amqp_url):
    """Least rights: a user that may only write and read works once an administrator has declared."""
    vhost = urlsplit(amqp_url).path[1:]
    manage(rabbitmq, "PUT", "/api/users/least", {"password": "least", "tags": ""})
    rights = {"configure": "^$", "write": ".*", "read": ".*"}
    manage(rabbitmq, "PUT", f"/api/permissions/{vhost}/least", rights)
    least = amqp_url.replace("guest:guest", "least:least")

    with pytest.raises(Unavailable) as missing:
        async with make(url=least, declare="check").publisher():
            pass
    with pytest.raises(Unavailable) as no_rights:
        async with make(url=least).publisher():
            pass
    async with make().publisher():
        pass
    checked, off = make(url=least, declare="check"), make(url=least, declare="off")
    for broker in (checked, off):
        async with broker.publisher() as publisher:
            await (await publisher.send([event(1)]))
    found = await taken(off, "one", 2)

    assert "im.events" in missing.value.detail
    assert "gateway topology apply" in missing.value.detail
    assert no_rights.value.reason == "no_rights"
    assert "broker.declare: check" in no_rights.value.detail
    assert len(found) == 2


async def test_a_queue_with_other_arguments_is_named(make, amqp_url):
    """RabbitMQ refuses to change a queue; the message says which one and what to do."""
    async with admin_channel(amqp_url) as channel:
        await channel.declare_queue("im.sink.one", durable=True)

    with pytest.raises(Unavailable) as caught:
        async with make().publisher():
            pass

    assert caught.value.reason == "mismatch"
    assert "im.sink.one stands already with other arguments" in caught.value.detail


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda url: url.replace("guest:guest", "guest:wrong"), "bad_credentials"),
        (lambda url: url + "-none", "no_vhost"),
        (lambda url: f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/", "refused"),
        (lambda url: "amqp://guest:guest@host.invalid/", "no_host"),
    ],
)
async def test_what_is_wrong_is_said_in_words(make, amqp_url, change, reason):
    """A password, a vhost, a port: each has its own sentence, and no secret is in it."""
    with pytest.raises(Unavailable) as caught:
        await make(url=change(amqp_url)).check()

    assert caught.value.reason == reason
    assert "wrong" not in caught.value.detail.replace("wrong ", "")


async def test_something_else_that_listens_is_told_apart(make):
    """A web server on the port is not a RabbitMQ that is away."""

    async def talk(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable) as caught:
            await make(url=f"amqp://guest:guest@127.0.0.1:{port}/").check()

    assert caught.value.reason in ("not_amqp", "connection_lost")


async def test_a_port_that_accepts_and_closes_at_once_is_unavailable(make, monkeypatch):
    """A load balancer without a backend: aiormq raises StopAsyncIteration then, which would end our tasks."""

    async def connect(*args, **kwargs):
        raise StopAsyncIteration

    monkeypatch.setattr("gateway.broker.rabbitmq.link.aiormq.Connection.connect", connect)
    broker = make()
    with pytest.raises(Unavailable):
        await broker.depth("one")
    with pytest.raises(Unavailable):
        async with broker.publisher():
            pass
    with pytest.raises(Unavailable):
        async with broker.consumer("one", 1):
            pass


async def test_several_hosts_are_tried_in_turn(make, amqp_url):
    """The first that answers serves."""
    dead = f"amqp://guest:guest@127.0.0.1:{free_ports(1)[0]}/"
    broker = make(url=[dead, amqp_url])

    async with broker.publisher() as publisher:
        await (await publisher.send([event(1)]))

    assert len(await taken(broker, "one", 1)) == 1


async def test_amqps_with_a_ca_and_a_client_certificate(make, rabbitmq, tmp_path, amqp_url):
    """Encrypted, both sides known; without the client's certificate, or with another CA, nothing is sent."""
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    other.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    server, client = ca.issue_cert("127.0.0.1"), ca.issue_cert("client")
    client.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    write = rabbitmq._processes.write
    place = write("server.pem", server.private_key_and_cert_chain_pem.bytes().decode(), 0o600)
    [port] = free_ports(1)
    settings = {
        "listeners.ssl.default": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(write("ca.pem", ca.cert_pem.bytes().decode())),
        "ssl_options.certfile": str(place),
        "ssl_options.keyfile": str(place),
        "ssl_options.verify": "verify_peer",
        "ssl_options.fail_if_no_peer_cert": "true",
    }
    url = f"amqps://guest:guest@127.0.0.1:{port}{urlsplit(amqp_url).path}"
    identity = {"tls_cert": tmp_path / "client.pem", "tls_key": tmp_path / "client.key"}
    await asyncio.to_thread(lambda: rabbitmq.configure(**settings))
    try:
        async with make(url=url, tls_ca=tmp_path / "ca.pem", **identity).publisher() as publisher:
            await (await publisher.send([event(1)]))
        with pytest.raises(Unavailable) as unknown_ca:
            await make(url=url, tls_ca=tmp_path / "other.pem", **identity).check()
        with pytest.raises(Unavailable):
            await make(url=url, tls_ca=tmp_path / "ca.pem").check()
    finally:
        await asyncio.to_thread(rabbitmq.configure)

    assert unknown_ca.value.reason == "tls"


async def test_all_connections_closed_by_the_operator(make, rabbitmq, forward):
    """Closed in the middle of publishing: taken up again by itself, in order."""
    broker = make({"one": ("#",)})
    journal, _ = await forward(broker)
    for number in range(100):
        await journal.append(callback(number))
    await asyncio.to_thread(rabbitmq.close_connections)
    for number in range(100, 200):
        await journal.append(callback(number))
    await asyncio.wait_for(journal.confirmed(200), 30)

    depth = await broker.depth("one")
    found = numbers(await taken(broker, "one", max(depth.ready, 200)))
    assert list(dict.fromkeys(found)) == list(range(200))


async def test_a_worker_that_comes_first_declares_what_it_reads(make):
    """`work` may start before `serve` has ever run."""
    broker = make()
    async with broker.consumer("one", 10) as consumer, make(declare="off").publisher() as publisher:
        await (await publisher.send([event(1)]))
        [found] = await asyncio.wait_for(consumer.take(1, 0), 10)

    assert found.message_id == event(1).id


async def test_a_cancellation_that_aiormq_swallows_still_cancels():
    """Else a task that is told to end goes on for ever, and whoever waits for it too."""

    async def swallow():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    async def ask():
        with in_our_words():
            await swallow()

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,), timeout=5)

    assert task.cancelled()


@pytest.mark.parametrize("how", ["park", "retry"])
async def test_an_event_whose_copy_is_not_confirmed_stays(make, how):
    """The copy comes first: acknowledged before, the event would be gone with the connection."""
    broker = make({"one": ("#",)})

    async def refuse(message):
        raise Unavailable("nacked", "no copy today")

    broker._consumers._publish_copy = refuse
    async with broker.publisher() as publisher:
        await (await publisher.send([event(1)]))
    async with broker.consumer("one", 10) as consumer:
        [found] = await asyncio.wait_for(consumer.take(1, 0), 10)
        with pytest.raises(Unavailable):
            await getattr(consumer, how)(found, "odd")

    assert len(await taken(broker, "one", 1)) == 1


async def test_a_deleted_queue_ends_its_consumer(make, amqp_url):
    """The broker's cancel is noticed; the worker can say so and come back."""
    broker = make()
    async with broker.publisher():
        pass
    async with broker.consumer("one", 10) as consumer:
        async with admin_channel(amqp_url) as channel:
            await channel.queue_delete("im.sink.one")
        with pytest.raises(Unavailable) as caught:
            await asyncio.wait_for(consumer.take(1, 0), 10)

    assert caught.value.reason == "cancelled"


async def test_topology_is_what_design_says(make, rabbitmq, amqp_url):
    """Kinds, arguments and bindings as the management API reports them."""
    async with make().publisher():
        pass
    vhost = quote(urlsplit(amqp_url).path[1:], safe="")
    queues = {one["name"]: one for one in json.loads(manage(rabbitmq, "GET", f"/api/queues/{vhost}"))}
    exchanges = {one["name"]: one for one in json.loads(manage(rabbitmq, "GET", f"/api/exchanges/{vhost}"))}

    for name in ("im.sink.one", "im.sink.one.dead", "im.sink.one.retry.5s", "im.sink.two.retry.7200s"):
        assert queues[name]["type"] == "quorum"
        assert queues[name]["arguments"]["x-delivery-limit"] == 1_000_000
        assert "x-max-length" not in queues[name]["arguments"]
    for name in ("im.events", "im.sink.one", "im.sink.two"):
        assert exchanges[name]["arguments"] == {"alternate-exchange": "im.unrouted"}
        assert exchanges[name]["durable"]


async def test_a_message_is_what_the_documentation_says(make, amqp_url):
    """docs/events.md: persistent, and with properties that consumers may rely on."""
    async with make({"one": ("#",)}).publisher() as publisher:
        await (await publisher.send([event(1)]))
    async with admin_channel(amqp_url) as channel:
        queue = await channel.get_queue("im.sink.one", ensure=False)
        message = await queue.get(no_ack=True)

    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert message.content_type == "application/cloudevents+json"
    assert (message.message_id, message.type) == (event(1).id, event(1).type)
    assert message.routing_key == event(1).routing_key
    assert message.headers["partitionkey"] == "k"


async def test_a_long_partition_key_is_carried_by_its_beginning(make, amqp_url):
    """A group id of a megabyte is a stranger's choice; headers above a frame would close the connection."""
    long = Event(event(1).body, {**event(1).attributes, "partitionkey": "group/" + "g" * 1_000_000})
    async with make({"one": ("#",)}).publisher() as publisher:
        await (await publisher.send([long]))
    async with admin_channel(amqp_url) as channel:
        queue = await channel.get_queue("im.sink.one", ensure=False)
        message = await queue.get(no_ack=True)

    assert message.body == long.body
    assert message.headers["partitionkey"] == "group/" + "g" * 994


async def test_heartbeat_is_asked_for(make):
    """Ten seconds unless configured otherwise."""
    broker = make()
    connection = await broker._publish_link.get()

    assert isinstance(connection, aiormq.Connection)
    assert connection.connection_tune.heartbeat == 10


steps = st.lists(
    st.tuples(st.sampled_from(["send", "ack", "ack_all", "nack", "nack_all", "return"]), st.integers(1, 30)),
    max_size=60,
)


@given(steps)
def test_confirms_are_counted_like_a_simple_model(plan):
    """A batch succeeds if and only if each of its tags was acknowledged and none refused or returned."""
    loop = asyncio.new_event_loop()
    try:
        books = UnconfirmedBatches()
        tags, futures, bad, done = 0, [], set(), set()
        for step, number in plan:
            if step == "send":
                members = set(range(tags + 1, tags + 1 + number % 4 + 1))
                tags = max(members)
                futures.append((loop.create_future(), members))
                books.batches.append(Batch(futures[-1][0], set(members), tags))
                continue
            tag = min(number, tags)
            if tag == 0:
                continue
            hit = set(range(1, tag + 1)) if step.endswith("_all") else {tag}
            hit -= done
            if step == "return":
                books.mark(tag, "returned", "")
                bad |= hit
                continue
            books.settle(tag, is_multiple=step.endswith("_all"), failure="nacked" if "nack" in step else "")
            done |= hit
            if "nack" in step:
                bad |= hit
        for future, members in futures:
            assert future.done() == (members <= done)
            if future.done():
                assert (future.exception() is None) == (not members & bad)
    finally:
        loop.close()


async def test_the_documented_rights_are_enough(make, rabbitmq, amqp_url):
    """docs/rabbitmq.md: who declares, who serves and who works each get along with the rights named there."""
    vhost = urlsplit(amqp_url).path[1:]
    rights = {
        "declares": {"configure": r"^im\.", "write": r"^(im\.|amq\.default)", "read": r"^im\."},
        "serves": {"configure": "^$", "write": r"^im\.events$", "read": "^$"},
        "replays": {"configure": "^$", "write": r"^im\.(events$|sink\.)", "read": "^$"},
        "works": {"configure": "^$", "write": r"^amq\.default$", "read": r"^im\.sink\."},
    }
    for user, allowed in rights.items():
        manage(rabbitmq, "PUT", f"/api/users/{user}", {"password": user, "tags": ""})
        manage(rabbitmq, "PUT", f"/api/permissions/{vhost}/{user}", allowed)
    urls = {user: amqp_url.replace("guest:guest", f"{user}:{user}") for user in rights}

    async with make(url=urls["declares"]).publisher():
        pass
    serves = make(url=urls["serves"], declare="check")
    async with serves.publisher() as publisher:
        await (await publisher.send([event(1), event(2), event(3)]))
    await serves.depth("one")
    await serves.unrouted()
    with pytest.raises(Unconfirmed, match="lacks the rights"):
        await _send_to(serves, "two")
    await _send_to(make(url=urls["replays"], declare="check"), "two")
    works = make(url=urls["works"], declare="check")
    async with works.consumer("one", 10) as consumer:
        found = []
        async with asyncio.timeout(10):
            while len(found) < 3:
                found += await consumer.take(10, 0.1)
        await consumer.ack(found[:1])
        await consumer.park(found[1], "odd")
        await consumer.retry(found[2], "later")

    depth = await works.depth("one")
    assert (depth.dead, depth.retry) == (1, 1)


async def _send_to(broker, sink):
    async with broker.publisher(sink) as publisher:
        await (await publisher.send([event(4)]))
