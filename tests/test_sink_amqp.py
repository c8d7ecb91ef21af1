"""The amqp sink against a real exchange in another virtual host: confirmed, or named."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.broker.rabbitmq.outlet import Outlet
from gateway.config import AmqpSink
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.metrics import Metrics
from gateway.worker import Worker
from tests.gateway_process import Gateway, eventually
from tests.rabbitmq_world import admin_channel, event, manage, until
from tests.sink_events import cloud_event, exit_event
from tests.sink_places import AmqpPlace


async def written(place: AmqpPlace, *events: Event, **changes: Any) -> dict[int, Poison | Unavailable]:
    sink = place.sink(**changes)
    try:
        await sink.open()
        return dict(await sink.write(events))
    finally:
        await sink.close()


async def fault_of(place: AmqpPlace, **changes: Any) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        await written(place, exit_event("1"), **changes)
    return caught.value


async def declared(place: AmqpPlace, queue: str, key: str, **arguments: Any) -> None:
    """Bind one more queue to the exchange."""
    async with admin_channel(place.url) as channel:
        made = await channel.declare_queue(queue, durable=True, arguments=arguments)
        await made.bind("their.events", key)


async def test_a_message_is_the_event_as_it_travelled(amqp_place: AmqpPlace) -> None:
    """Persistent, with the id and type of the event, under its own routing key: consumers see what ours would."""
    one = exit_event("1")
    await written(amqp_place, one)
    [message] = await amqp_place.messages()

    assert message.body == one.body
    assert message.routing_key == one.routing_key == "im.group.member.exited.1400000000"
    assert (message.message_id, message.type) == (one.id, one.type)
    assert message.content_type == "application/cloudevents+json"
    assert message.delivery_mode == 2
    assert message.headers["partitionkey"] == one.partition_key


async def test_the_routing_key_may_be_fixed(amqp_place: AmqpPlace) -> None:
    """For exchanges that route in another way."""
    await written(amqp_place, exit_event("1"), routing_key="im")

    assert [message.routing_key for message in await amqp_place.messages()] == ["im"]


async def test_a_queue_can_be_named_instead_of_an_exchange(amqp_place: AmqpPlace) -> None:
    """With the default exchange the routing key is the queue's name."""
    await written(amqp_place, exit_event("1"), exchange="", routing_key="theirs")

    assert len(await amqp_place.messages()) == 1


async def test_what_no_queue_takes_comes_later_and_the_others_are_written(amqp_place: AmqpPlace) -> None:
    """A mandatory message that comes back is not written, whatever the acknowledgement behind it says."""
    async with admin_channel(amqp_place.url) as channel:
        await (await channel.get_queue("theirs")).unbind("their.events", "#")
    await declared(amqp_place, "exits", "im.group.#")
    batch = [
        cloud_event("0", "im.unknown", {}),
        exit_event("1"),
        cloud_event("2", "im.unknown", {}),
        exit_event("3"),
    ]
    failures = await written(amqp_place, *batch)

    assert {at: (type(why), why.reason) for at, why in failures.items()} == {
        0: (Unavailable, "returned"),
        2: (Unavailable, "returned"),
    }
    assert failures[0].detail == "no queue is bound to exchange their.events for this event's routing key"
    assert [message.message_id for message in await amqp_place.messages("exits")] == ["1", "3"]


async def test_what_a_queue_refuses_comes_later_and_the_others_are_written(amqp_place: AmqpPlace) -> None:
    """One full queue of several is named event by event."""
    await declared(amqp_place, "full", "im.group.#", **{"x-max-length": 1, "x-overflow": "reject-publish"})
    sink = amqp_place.sink()
    await sink.open()
    await sink.write([exit_event("0")])
    failures = await sink.write([cloud_event("1", "im.unknown", {}), exit_event("2")])
    await sink.close()

    assert {at: why.reason for at, why in failures.items()} == {1: "nacked"}
    assert "refuses it: does a policy limit its length?" in failures[1].detail


async def test_a_queue_that_takes_nothing_is_waited_for(amqp_place: AmqpPlace) -> None:
    """When all of a batch is refused there is nothing that could go on meanwhile."""
    await declared(amqp_place, "full", "#", **{"x-max-length": 1, "x-overflow": "reject-publish"})
    sink = amqp_place.sink()
    await sink.open()
    await sink.write([exit_event("0")])
    with pytest.raises(Unavailable, match="nacked"):
        await sink.write([exit_event("1"), exit_event("2")])
    await sink.close()


async def test_a_missing_exchange_is_named(amqp_place: AmqpPlace) -> None:
    """Nobody declares in somebody else's topology; the sentence says what to do."""
    why = await fault_of(amqp_place, exchange="their.evnets")

    assert why.reason == "missing"
    assert "exchange their.evnets does not exist at 127.0.0.1; declare it there" in why.detail
    assert "sinks.copy.exchange" in why.detail


async def test_an_exchange_that_goes_and_comes_back(amqp_place: AmqpPlace) -> None:
    """The batch waits, the reason is said, and the same sink goes on."""
    sink = amqp_place.sink()
    await sink.open()
    async with admin_channel(amqp_place.url) as channel:
        await channel.exchange_delete("their.events")
    with pytest.raises(Unavailable):
        await sink.write([exit_event("1")])
    with pytest.raises(Unavailable, match="missing"):
        await sink.open()
    await amqp_place.declare()
    await sink.open()

    assert await sink.write([exit_event("1")]) == {}
    await sink.close()


async def test_missing_rights_are_named(amqp_place: AmqpPlace, rabbitmq: Any) -> None:
    """A user that may not write there learns which keys of the configuration name it."""
    vhost = amqp_place.url.rpartition("/")[2]
    manage(rabbitmq, "PUT", "/api/users/reader", {"password": "reader", "tags": ""})
    manage(
        rabbitmq, "PUT", f"/api/permissions/{vhost}/reader", {"configure": "^$", "write": "^$", "read": ".*"}
    )
    url = amqp_place.proxy.through(amqp_place.url)
    why = await fault_of(amqp_place, url=(url.replace("guest:guest", "reader:reader"),))
    wrong = await fault_of(amqp_place, url=(url.replace("guest:guest", "guest:wrong"),))
    elsewhere = await fault_of(amqp_place, url=(f"{url}-not",))

    assert why.reason == "no_rights"
    assert "the user of sinks.copy.url lacks the rights" in why.detail
    assert wrong.reason == "bad_credentials"
    assert "sinks.copy.url" in wrong.detail
    assert elsewhere.reason == "no_vhost"


async def test_tls_is_used_where_the_url_says_so(amqp_place: AmqpPlace) -> None:
    """The port of plain AMQP does not pass for the other one."""
    url = amqp_place.proxy.through(amqp_place.url).replace("amqp://", "amqps://")
    why = await fault_of(amqp_place, url=(url,))

    assert why.reason == "tls"
    assert "sinks.copy.tls_ca" in why.detail


async def test_several_hosts_are_tried_in_turn(amqp_place: AmqpPlace) -> None:
    """One that is away costs nothing but the try."""
    url = amqp_place.proxy.through(amqp_place.url)

    assert await written(amqp_place, exit_event("1"), url=("amqp://guest:guest@127.0.0.1:1/", url)) == {}


async def test_an_alarm_is_named_instead_of_waited_for(amqp_place: AmqpPlace, rabbitmq: Any) -> None:
    """RabbitMQ answers nothing on a connection that publishes meanwhile; the log would only say timeout."""
    sink = amqp_place.sink()
    await sink.open()
    await sink.write([exit_event("1")])
    await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "absolute", "1MB")
    try:

        async def is_named() -> bool:
            try:
                async with asyncio.timeout(10):
                    await sink.write([exit_event("2")])
            except (Unavailable, TimeoutError) as why:
                return getattr(why, "reason", "") == "blocked"
            return False

        await until(is_named, "blocked")
        with pytest.raises(Unavailable, match="blocked: RabbitMQ refuses to read"):
            await sink.open()
    finally:
        await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "0.4")

    async def goes_on() -> bool:
        try:
            await sink.open()
            return await sink.write([exit_event("3")]) == {}
        except Unavailable:
            return False

    await until(goes_on, "goes on")
    await sink.close()


async def test_no_confirm_in_time_is_unavailable(amqp_place: AmqpPlace) -> None:
    """A network that swallows everything is given up by the sink's own deadline."""
    sink = amqp_place.sink(confirm_timeout_s=0.5)
    await sink.open()
    amqp_place.proxy.stall("down")
    with pytest.raises(
        Unavailable, match=r"deadline: no confirm within sinks.copy.confirm_timeout_s \(0.5 s\)"
    ):
        await sink.write([exit_event("1")])
    amqp_place.proxy.flow()
    await sink.close()


@pytest.mark.parametrize("name", ["id", "type", "appid"])
async def test_what_amqp_can_not_carry_is_poison(amqp_place: AmqpPlace, name: str) -> None:
    """Short strings have 255 bytes; only another publisher than the gateway sends longer ones."""
    attributes = {**exit_event("1").attributes, name: "\u00e9" * 128}
    long = Event(orjson.dumps(attributes), attributes)
    failures = await written(amqp_place, exit_event("0"), long, exit_event("2"))

    assert {at: (type(why), why.reason) for at, why in failures.items()} == {1: (Poison, "too_long")}
    assert [message.message_id for message in await amqp_place.messages()] == ["0", "2"]


async def test_an_event_that_rabbitmq_refuses_is_poison_for_its_batch(
    amqp_place: AmqpPlace, rabbitmq: Any
) -> None:
    """It closes the channel without saying for which; the worker finds it by halves, with the same sink."""
    await asyncio.to_thread(lambda: rabbitmq.configure(max_message_size="100000"))
    try:
        batch = [
            exit_event(str(number), **({"pad": "x" * 100_000} if number == 5 else {})) for number in range(8)
        ]
        sink = amqp_place.sink()
        await sink.open()
        with pytest.raises(Poison, match="rejected"):
            await sink.write(batch[4:])
        with pytest.raises(Poison, match="rejected"):
            await sink.write(batch[5:6])
        rest = await sink.write([*batch[:5], *batch[6:]])
        await sink.close()
    finally:
        await asyncio.to_thread(rabbitmq.configure)

    assert rest == {}
    assert {message.message_id for message in await amqp_place.messages()} == set("0123467")


async def test_from_one_virtual_host_to_another(
    make: Any, rabbitmq: Any, amqp_place: AmqpPlace, tmp_path: Path
) -> None:
    """A worker brings what stands in the gateway's own queue to somebody else's exchange, in order."""
    ours = rabbitmq.fresh_vhost()
    broker = make({"one": ("#",)}, url=ours)
    config = AmqpSink(kind="amqp", url=(amqp_place.url,), exchange="their.events", batch_max_wait_ms=0)
    worker = asyncio.create_task(Worker("one", config, [amqp_place.sink()], broker, Metrics()).run())
    try:
        async with broker.publisher() as publisher:
            await (await publisher.send([event(number) for number in range(300)]))

        async def are_there() -> bool:
            return len(await amqp_place.messages()) >= 300

        await until(are_there, "all of them")
        depth = await broker.depth("one")
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        rabbitmq.retire_vhost(ours)

    assert [json.loads(one.body)["data"]["n"] for one in await amqp_place.messages()] == list(range(300))
    assert depth.ready == 0
    assert dataclasses.astuple(depth)[2:] == (0, 0)


def test_a_gateway_forwards_to_another_virtual_host(
    rabbitmq: Any, amqp_place: AmqpPlace, tmp_path: Path
) -> None:
    """As configured: callbacks of one app only, as a transformed event each, in somebody else's queue."""
    ours = rabbitmq.fresh_vhost()
    gateway = Gateway(
        tmp_path,
        broker={"url": ours},
        sinks={
            "copy": {
                "kind": "amqp",
                "url": amqp_place.url,
                "exchange": "their.events",
                "apps": [1400000000],
                "transform": "{group: data.group_id, who: data.members}",
            }
        },
    )
    try:
        process = gateway.start()
        sender = gateway.sender()
        assert all(sender.post(number) for number in range(20))
        eventually(lambda: len(asyncio.run(amqp_place.messages())) == 20, "all of them")
        assert gateway.stop(process) == 0
    finally:
        gateway.close()
        rabbitmq.retire_vhost(ours)
    found = asyncio.run(amqp_place.events())

    assert [one["data"] for one in found] == [
        {"group": "@TGS#1", "who": [f"u{number}"]} for number in range(20)
    ]
    assert {one["type"] for one in found} == {"im.group.member.exited"}


def test_each_key_of_the_connection_is_the_brokers_key_of_that_name(tmp_path: Path) -> None:
    """TLS files, heartbeat and deadlines do for this connection what they do for the gateway's own."""
    given = {
        "url": ("amqps://h/v", "amqps://i/v"),
        **{name: tmp_path / name for name in ("tls_ca", "tls_cert", "tls_key")},
        "heartbeat_s": 7,
        "connect_timeout_s": 8.0,
        "confirm_timeout_s": 9.0,
    }
    sink = Outlet(AmqpSink(kind="amqp", exchange="x", **given), "copy")

    assert {name: getattr(sink._broker, name) for name in given} == given
    assert given.keys() == AmqpSink.model_fields.keys() & type(sink._broker).model_fields.keys() - {
        "exchange"
    }
