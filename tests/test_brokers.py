"""What every broker must do: one suite, run against the embedded broker and against RabbitMQ."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.broker import Broker, Consumer, Delivery, Depth
from gateway.broker.embedded import Embedded
from gateway.broker.rabbitmq import RabbitMQ
from gateway.callback import Callback
from gateway.config import Broker as BrokerConfig
from gateway.errors import Unavailable
from gateway.event import Event, iso_time
from gateway.metrics import Metrics
from gateway.normalise import ID_RECIPE, normalise
from gateway.patterns import narrowed
from gateway.redact import Redaction
from gateway.topology import Topology

DEADLINE_S = 30
QUIET_S = 0.2
"""How long a test watches before it says that nothing comes."""
ALL = {"all": ("#",)}
GROUP = "im.group.created"
USER = "im.user.offline"


@dataclass
class World:
    """One empty broker; each call of ``broker`` is another process' view of it, as far as that matters."""

    make: Callable[[Topology, Metrics], Broker]
    advance: Callable[[float], Awaitable[None]]
    """Let so many seconds pass on the broker's clock."""
    now_ms: Callable[[], int]
    opened: list[Broker] = field(default_factory=list)

    def broker(self, sinks: Mapping[str, tuple[str, ...]], metrics: Metrics | None = None) -> Broker:
        broker = self.make(Topology.of("im.events", sinks), metrics or Metrics())
        self.opened.append(broker)
        return broker


def embedded_world(path: Path) -> World:
    ahead_ms = 0

    async def advance(seconds: float) -> None:
        nonlocal ahead_ms
        ahead_ms += int(seconds * 1000)

    def now_ms() -> int:
        return time.time_ns() // 1_000_000 + ahead_ms

    return World(lambda topology, metrics: Embedded(path, topology, metrics, now_ms), advance, now_ms)


def rabbitmq_world(url: str, management_url: str, partitions: int) -> World:
    config = BrokerConfig(url=url, management_url=management_url)

    class Shared(RabbitMQ):
        """Each partition may send as much as the test asks for: one conversation is in one of them."""

        def consumer(self, sink: str, prefetch: int) -> Any:
            return super().consumer(sink, prefetch * partitions)

    def make(topology: Topology, metrics: Metrics) -> RabbitMQ:
        sinks = tuple(replace(sink, partitions=partitions) for sink in topology.sinks)
        return Shared(config, replace(topology, sinks=sinks), metrics)

    return World(
        make,
        asyncio.sleep,
        lambda: time.time_ns() // 1_000_000,
    )


@pytest.fixture(params=["embedded", "rabbitmq", "partitions"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param == "embedded":
        world = embedded_world(tmp_path / "var" / "broker.db")
    else:
        url = request.getfixturevalue("amqp_url")
        count = 3 if request.param == "partitions" else 1
        world = rabbitmq_world(url, request.getfixturevalue("rabbitmq").management_url, count)
    yield world
    for broker in world.opened:
        await broker.close()


def make_event(
    number: int, type_: str = GROUP, *, app: str = "14", key: str = "group/1", body: bytes | None = None
) -> Event:
    attributes = {"id": f"id-{number}", "source": f"/tencent-im/{app}", "type": type_, "appid": app}
    return Event(b"%d" % number if body is None else body, {**attributes, "partitionkey": key})


def make_events(count: int, first: int = 0) -> list[Event]:
    return [make_event(number) for number in range(first, first + count)]


async def publish(broker: Broker, events: Sequence[Event]) -> None:
    async with asyncio.timeout(DEADLINE_S), broker.publisher() as publisher:
        await (await publisher.send(events))


async def take(consumer: Consumer, count: int) -> list[Delivery]:
    """Take until *count* events have come, and no longer."""
    taken: list[Delivery] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(taken) < count:
            taken += await consumer.take(count - len(taken), 0.1)
    return taken


async def drain(broker: Broker, sink: str, count: int) -> list[int]:
    """Take *count* events of *sink*, settle them and return their numbers; check that these were all."""
    async with broker.consumer(sink, 2000) as consumer:
        taken = await take(consumer, count) if count else []
        await consumer.ack(taken)
        await nothing_comes(consumer)
    return numbers(taken)


async def nothing_comes(consumer: Consumer) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(QUIET_S):
            await consumer.take(1, 0)


async def becomes(ask: Callable[[], Awaitable[object]], expected: object) -> None:
    """Wait until *ask* gives *expected*; RabbitMQ's counts follow a moment later."""
    deadline = time.monotonic() + DEADLINE_S
    while (found := await ask()) != expected:
        assert time.monotonic() < deadline, f"{found} instead of {expected}"
        await asyncio.sleep(0.05)


async def counts(broker: Broker, sink: str, *, ready: int, retry: int, dead: int) -> None:
    async def ask() -> Depth:
        depth = await broker.depth(sink)
        return Depth(depth.ready, None, depth.retry, depth.dead)

    await becomes(ask, Depth(ready, None, retry, dead))


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    return [int(delivery.body) for delivery in deliveries]


async def test_what_was_published_is_consumed(world: World) -> None:
    """A delivery carries the body, the id, the routing key and the partition key of its event."""
    broker = world.broker(ALL)
    await publish(broker, [make_event(7, key="group/@TGS#2J4SZEAEL")])
    async with broker.consumer("all", 10) as consumer:
        [delivery] = await take(consumer, 1)

    assert delivery.body == b"7"
    assert delivery.attempt == 1
    assert delivery.message_id == "id-7"
    assert delivery.routing_key == f"{GROUP}.14"
    assert delivery.headers["partitionkey"] == "group/@TGS#2J4SZEAEL"


async def test_a_message_shows_nothing_of_what_was_redacted(world: World) -> None:
    """Neither its body nor its properties and headers, whoever may read the queue."""
    body = b'{"GroupId":"group-7","Operator_Account":"user-7","From_Account":"user-7","TopicId":"group-7@TOPIC#_1"}'
    query = "SdkAppid=14&CallbackCommand=Group.CallbackAfterSendMsg"
    callback = Callback("14", query, body, "", 1_700_000_000_000, True, ID_RECIPE, 10)
    rule = Redaction.of({"accounts": "hash", "group_id": "drop"}, "a key of enough length")
    broker = world.broker(ALL)
    await publish(broker, normalise(callback, "j.1", rule))
    async with broker.consumer("all", 10) as consumer:
        [delivery] = await take(consumer, 1)
    shown = str((delivery.message_id, delivery.routing_key, delivery.headers, delivery.body))

    assert str(delivery.headers["partitionkey"]).endswith("@TOPIC#_1")
    assert "group-7" not in shown
    assert "user-7" not in shown


async def test_order_over_several_sends(world: World) -> None:
    """A thousand events in many sends under way at once come in order, in batches no larger than asked."""
    broker = world.broker(ALL)
    async with broker.publisher() as publisher:
        batches = [make_events(40, first) for first in range(0, 1000, 40)]
        confirms = [await publisher.send(batch) for batch in batches]
        await asyncio.gather(*confirms)
    taken: list[int] = []
    async with broker.consumer("all", 500) as consumer:
        while len(taken) < 1000:
            batch = await consumer.take(64, 0.01)
            assert len(batch) <= 64
            await consumer.ack(batch)
            taken += numbers(batch)

    assert taken == list(range(1000))


async def test_confirms_end_in_order(world: World) -> None:
    """The future of a send is done only after those of the sends before it."""
    broker = world.broker(ALL)
    order: list[int] = []
    async with broker.publisher() as publisher:
        confirms = [await publisher.send(make_events(20, at * 20)) for at in range(10)]
        for at, confirm in enumerate(confirms):
            confirm.add_done_callback(lambda _, at=at: order.append(at))  # type: ignore[misc]
        await asyncio.gather(*confirms)

    assert order == list(range(10))


async def test_an_empty_send_is_confirmed(world: World) -> None:
    """A record without events (an empty envelope) holds nothing up."""
    broker = world.broker(ALL)
    await publish(broker, [])
    await publish(broker, make_events(1))

    assert await drain(broker, "all", 1) == [0]


async def test_routing_by_patterns(world: World) -> None:
    """Each sink gets what its patterns say, once, exactly as Topology.takers foretells."""
    sinks = {
        "everything": ("#",),
        "groups": ("im.group.#", "*.group.created.*"),
        "app": ("#.15",),
        "one-word": ("*.user.*.*",),
        "groups of one app": narrowed(["im.group.#", "im.*.#"], ["15"]),
        "users": ("im.user.offline.14", "im.user.offline.14"),
    }
    broker = world.broker(sinks)
    events = [
        make_event(number, type_, app=app)
        for number, (type_, app) in enumerate(
            [(GROUP, "14"), (USER, "14"), (USER, "15"), ("im.group.member.exited", "15"), ("im", "15")]
        )
    ]
    await publish(broker, events)
    topology = Topology.of("im.events", sinks)
    for name in sinks:
        expected = [
            number
            for number, event in enumerate(events)
            if topology.sink(name) in topology.takers(event.routing_key)
        ]

        assert await drain(broker, name, len(expected)) == expected, name
    assert await broker.unrouted() == 0


async def test_a_publisher_for_one_sink_reaches_that_sink_alone(world: World) -> None:
    """What is sent again for one sink changes nothing for the others, and goes there whatever its patterns."""
    broker = world.broker({"a": ("#",), "b": ("#",), "groups": ("im.group.#",)})
    async with asyncio.timeout(DEADLINE_S), broker.publisher("groups") as publisher:
        await (await publisher.send([make_event(0), make_event(1, USER)]))
        await (await publisher.send([make_event(2, key="group/7")]))
    await publish(broker, [make_event(3)])
    async with broker.consumer("groups", 10) as consumer:
        *_, third, _ = await take(consumer, 4)

    assert (third.body, third.attempt, third.message_id, third.routing_key) == (
        b"2",
        1,
        "id-2",
        f"{GROUP}.14",
    )
    assert third.headers["partitionkey"] == "group/7"
    assert await drain(broker, "groups", 4) == [0, 1, 2, 3]
    assert await drain(broker, "a", 1) == await drain(broker, "b", 1) == [3]
    assert await broker.unrouted() == 0


async def test_two_sinks_are_independent(world: World) -> None:
    """What one sink settles, retries or parks changes nothing for another."""
    broker = world.broker({"a": ("#",), "b": ("#",)})
    await publish(broker, make_events(4))
    async with broker.consumer("a", 10) as consumer:
        first, second, third, _ = await take(consumer, 4)
        await consumer.ack([first])
        await consumer.retry(second, "busy")
        await consumer.park(third, "bad_value")

    assert await drain(broker, "b", 4) == [0, 1, 2, 3]
    await counts(broker, "a", ready=1, retry=1, dead=1)


async def test_unrouted_events_are_kept_and_rescued_in_order(world: World) -> None:
    """What no sink takes is confirmed and kept; once a sink takes it, rescue brings it in order."""
    broker = world.broker({"users": ("im.user.#",)})
    await publish(broker, [make_event(0), make_event(1, USER), *make_events(3, 2)])
    await becomes(broker.unrouted, 4)
    later = world.broker({"users": ("im.user.#",), "groups": ("im.group.#",)})
    await publish(later, make_events(1, 5))

    assert await later.rescue() == 4
    assert await drain(later, "groups", 5) == [5, 0, 2, 3, 4]
    assert await drain(later, "users", 1) == [1]
    await becomes(later.unrouted, 0)


async def test_rescue_of_what_still_nobody_takes(world: World) -> None:
    """Events that no sink takes after all stand in the unrouted queue again, and rescue ends."""
    broker = world.broker({"users": ("im.user.#",)})
    await publish(broker, [make_event(0), make_event(1, "im.other"), make_event(2)])
    later = world.broker({"users": ("im.user.#",), "groups": ("im.group.#",)})
    async with later.publisher():
        pass
    await becomes(later.unrouted, 3)
    await later.rescue()

    await becomes(later.unrouted, 1)
    assert await drain(later, "groups", 2) == [0, 2]


async def test_rescue_wakes_a_waiting_consumer(world: World) -> None:
    """A worker that has been idle gets rescued events although newer ones were settled before."""
    await publish(world.broker({"users": ("im.user.#",)}), make_events(2))
    broker = world.broker(ALL)
    await publish(broker, make_events(1, 2))
    async with broker.consumer("all", 10) as consumer:
        await consumer.ack(await take(consumer, 1))
        await broker.rescue()

        assert numbers(await take(consumer, 2)) == [0, 1]


async def test_settled_events_do_not_come_again(world: World) -> None:
    """After an ack and a reopening nothing of it is left."""
    broker = world.broker(ALL)
    await publish(broker, make_events(5))

    assert await drain(broker, "all", 5) == [0, 1, 2, 3, 4]
    assert await drain(broker, "all", 0) == []
    await counts(broker, "all", ready=0, retry=0, dead=0)


async def test_unsettled_events_come_again_in_order(world: World) -> None:
    """Closing a consumer gives everything back, with the attempt as it was, before what follows."""
    broker = world.broker(ALL)
    await publish(broker, make_events(20))
    for _ in range(3):
        async with broker.consumer("all", 10) as consumer:
            again = await take(consumer, 10)

            assert numbers(again) == list(range(10))
            assert {delivery.attempt for delivery in again} == {1}
    await counts(broker, "all", ready=20, retry=0, dead=0)
    assert await drain(broker, "all", 20) == list(range(20))


async def test_acks_out_of_order(world: World) -> None:
    """Only what was settled stays away: the gap comes again, before what was not taken yet."""
    broker = world.broker(ALL)
    await publish(broker, make_events(5, 1))
    async with broker.consumer("all", 3) as consumer:
        one, _, three = await take(consumer, 3)
        await consumer.ack([three])
        await consumer.ack([one])

    assert await drain(broker, "all", 3) == [2, 4, 5]


async def test_retry_comes_later_with_one_attempt_more(world: World) -> None:
    """A retried event waits, blocks nothing, and comes again unchanged as attempt 2."""
    broker = world.broker(ALL)
    body = os.urandom(1000)
    await publish(broker, [make_event(0, body=body, key="group/é"), make_event(1)])
    async with broker.consumer("all", 10) as consumer:
        first, second = await take(consumer, 2)
        await consumer.retry(first, "busy")
        await consumer.ack([second])
        await publish(broker, make_events(1, 2))
        assert numbers(await take(consumer, 1)) == [2]
        await counts(broker, "all", ready=0, retry=1, dead=0)
        await nothing_comes(consumer)
        await world.advance(6)
        [again] = await take(consumer, 1)
        await nothing_comes(consumer)

    assert (again.body, again.attempt) == (body, 2)
    assert (again.message_id, again.routing_key) == ("id-0", f"{GROUP}.14")
    assert again.headers["partitionkey"] == "group/é"
    async with broker.consumer("all", 10) as consumer:
        assert {delivery.attempt for delivery in await take(consumer, 2)} == {1, 2}


async def test_the_history_of_an_event_travels_with_it(world: World) -> None:
    """Time, sink and reason of each failure, the oldest first, also on what is parked in the end."""
    broker = world.broker(ALL)
    await publish(broker, make_events(1))
    before = iso_time(world.now_ms())
    async with broker.consumer("all", 10) as consumer:
        [first] = await take(consumer, 1)
        await consumer.retry(first, "busy")
        await world.advance(6)
        [second] = await take(consumer, 1)
        await consumer.park(second, "bad_value")
    [dead] = await broker.peek("all", 1, dead=True)
    found = [entry.split(" ") for entry in str(dead.headers["history"]).split("; ")]

    assert "history" not in first.headers
    assert str(second.headers["history"]).endswith(" all busy")
    assert [entry[1:] for entry in found] == [["all", "busy"], ["all", "bad_value"]]
    assert before <= found[0][0] < found[1][0] <= iso_time(world.now_ms())
    assert (dead.attempt, dead.headers["reason"]) == (2, "bad_value")


async def test_what_came_by_a_pattern_is_told_from_what_was_sent_to_the_sink(world: World) -> None:
    """Only what came by a pattern may be passed over when the patterns change."""
    broker = world.broker(ALL)
    await publish(broker, make_events(1))
    async with asyncio.timeout(DEADLINE_S), broker.publisher("all") as publisher:
        await (await publisher.send(make_events(1, 1)))
    async with broker.consumer("all", 10) as consumer:
        by_pattern, alone = await take(consumer, 2)
        await consumer.ack([alone])
        await consumer.retry(by_pattern, "busy")
        await world.advance(6)
        [again] = await take(consumer, 1)

    assert [one.is_routed for one in (by_pattern, alone, again)] == [True, False, False]


async def test_retry_goes_to_its_own_sink_only(world: World) -> None:
    """The other sinks that had the event do not get it a second time."""
    broker = world.broker({"a": ("#",), "b": ("#",)})
    await publish(broker, make_events(1))
    async with broker.consumer("a", 10) as consumer:
        [delivery] = await take(consumer, 1)
        await consumer.retry(delivery, "busy")
    assert await drain(broker, "b", 1) == [0]
    await world.advance(6.5)

    assert await drain(broker, "b", 0) == []
    assert await drain(broker, "a", 1) == [0]


async def test_parked_events_wait_with_their_reason(world: World) -> None:
    """Parked events stand in the dead queue with reason and time, in order, and peek leaves them there."""
    broker = world.broker(ALL)
    await publish(broker, make_events(5))
    before_ms = world.now_ms()
    async with broker.consumer("all", 10) as consumer:
        taken = await take(consumer, 5)
        for delivery in taken[1:4]:
            await consumer.park(delivery, f"reason_{int(delivery.body)}")
        await consumer.ack([taken[0], taken[4]])
    await counts(broker, "all", ready=0, retry=0, dead=3)
    for _ in range(2):
        dead = await broker.peek("all", 10, dead=True)

        assert numbers(dead) == [1, 2, 3]
        assert [delivery.headers["reason"] for delivery in dead] == ["reason_1", "reason_2", "reason_3"]
        assert all(before_ms <= int(it.headers["parked_ms"]) <= world.now_ms() for it in dead)
        assert {(it.attempt, it.routing_key) for it in dead} == {(1, f"{GROUP}.14")}
        assert [it.message_id for it in dead] == ["id-1", "id-2", "id-3"]
        await counts(broker, "all", ready=0, retry=0, dead=3)
    assert numbers(await broker.peek("all", 2, dead=True)) == [1, 2]
    assert await drain(broker, "all", 0) == []


async def parked(world: World, broker: Broker, count: int, first: int = 0) -> None:
    """Publish *count* events to the sink ``all`` and park them."""
    await publish(broker, make_events(count, first))
    async with broker.consumer("all", 2000) as consumer:
        for delivery in await take(consumer, count):
            await consumer.park(delivery, "refused")


async def dead_numbers(broker: Broker) -> list[int]:
    return numbers(await broker.peek("all", 1000, dead=True))


async def test_parked_events_are_replayed_or_removed_and_the_rest_stays(world: World) -> None:
    """To this sink alone, as a first attempt, with what is known of the parking; the rest in order."""
    broker = world.broker({"all": ("#",), "other": ("#",)})
    await parked(world, broker, 30)
    async with broker.dead("all", "a test") as dead:
        assert dead.todo == 30
        came: list[int] = []
        while page := await dead.page(7):
            came += numbers(page)
            await dead.replay([one for one in page if int(one.body) % 3 == 0])
            await dead.remove([one for one in page if int(one.body) % 3 == 1])
        assert dead.todo == 0

    assert came == list(range(30))
    await counts(broker, "all", ready=10, retry=0, dead=10)
    assert await dead_numbers(broker) == list(range(2, 30, 3))
    async with broker.consumer("all", 100) as consumer:
        again = await take(consumer, 10)
        assert numbers(again) == list(range(0, 30, 3))
        assert {(one.attempt, one.routing_key, one.message_id) for one in again} == {
            (1, f"{GROUP}.14", f"id-{number}") for number in range(0, 30, 3)
        }
        assert all(one.headers.keys() == {"partitionkey", "history"} for one in again)
        assert all(str(one.headers["history"]).endswith(" all refused") for one in again)
        assert not any(one.is_routed for one in again)
        await consumer.ack(again)
    assert len(await drain(broker, "other", 30)) == 30


async def test_a_replayed_event_may_be_another(world: World) -> None:
    """Somebody mended it: body, id and routing are the new ones; the parked one is gone."""
    broker = world.broker(ALL)
    await parked(world, broker, 3)
    async with broker.dead("all", "a test") as dead:
        page = await dead.page(2)
        mended = page[0]._replace(body=b"77", message_id="id-77", routing_key="im.user.offline.15")
        await dead.replay([mended])
        await dead.rewind()
        assert numbers(await dead.page(5)) == [1, 2]
    async with broker.consumer("all", 100) as consumer:
        [one] = await take(consumer, 1)
        assert (one.body, one.message_id, one.routing_key) == (b"77", "id-77", "im.user.offline.15")
        await consumer.ack([one])


async def test_one_command_at_a_time(world: World) -> None:
    """The second one is told who holds the queue, in this process or another; then it gets it."""
    broker, other = world.broker(ALL), world.broker(ALL)
    await parked(world, broker, 2)
    async with broker.dead("all", "the first one") as dead:
        await dead.page(1)
        for one in (broker, other):
            with pytest.raises(Unavailable, match=r"in the hands of the first one") as told:
                async with one.dead("all", "the second one"):
                    pass

            assert told.value.reason == "in_use"
    async with other.dead("all", "the second one") as dead:
        assert numbers(await dead.page(5)) == [0, 1]


async def test_the_dead_queue_beside_a_worker(world: World) -> None:
    """The sink's consumer takes what is replayed, and what it parks meanwhile is for the next command."""
    broker, other = world.broker(ALL), world.broker(ALL)
    await parked(world, broker, 4)
    async with broker.consumer("all", 100) as consumer, other.dead("all", "a test") as dead:
        await dead.replay(await dead.page(2))
        again = await take(consumer, 2)
        await consumer.park(again[0], "again")
        await consumer.ack(again[1:])

        assert numbers(again) == [0, 1]
        assert numbers(await dead.page(10)) == [2, 3]
        assert await dead.page(10) == []
    await counts(broker, "all", ready=0, retry=0, dead=3)
    assert await dead_numbers(broker) == [2, 3, 0]
    assert [one.headers["reason"] for one in await broker.peek("all", 3, dead=True)] == ["refused"] * 2 + [
        "again"
    ]


async def test_no_dead_queue_of_an_unknown_sink(world: World) -> None:
    """As with all other calls."""
    with pytest.raises(KeyError):
        async with world.broker(ALL).dead("nobody", "a test"):
            pass


async def test_peek_leaves_the_queue_as_it_is(world: World) -> None:
    """Looking at the first events takes none and changes no attempt."""
    broker = world.broker(ALL)
    await publish(broker, make_events(5))
    await counts(broker, "all", ready=5, retry=0, dead=0)

    assert numbers(await broker.peek("all", 3)) == [0, 1, 2]
    await counts(broker, "all", ready=5, retry=0, dead=0)
    assert numbers(await broker.peek("all", 30)) == [0, 1, 2, 3, 4]
    await counts(broker, "all", ready=5, retry=0, dead=0)
    async with broker.consumer("all", 10) as consumer:
        taken = await take(consumer, 5)
    assert [(int(it.body), it.attempt) for it in taken] == [(number, 1) for number in range(5)]


async def test_depth_of_what_is_taken(world: World) -> None:
    """Ready does not count what this process has taken; unacked does, where the broker tells."""
    broker = world.broker(ALL)
    await publish(broker, make_events(10))
    async with broker.consumer("all", 4) as consumer:
        taken = await take(consumer, 4)
        await counts(broker, "all", ready=6, retry=0, dead=0)
        assert (await broker.depth("all")).unacked in (4, None)
        await consumer.ack(taken[:1])
        await take(consumer, 1)
        await counts(broker, "all", ready=5, retry=0, dead=0)


async def test_prefetch_bounds_what_is_unsettled(world: World) -> None:
    """A consumer that settles nothing gets no more than prefetch; each ack makes room for as many."""
    broker = world.broker(ALL)
    await publish(broker, make_events(10))
    async with broker.consumer("all", 3) as consumer:
        taken = await take(consumer, 3)
        await nothing_comes(consumer)
        await consumer.ack(taken[:2])

        assert numbers(await take(consumer, 2)) == [3, 4]
        await nothing_comes(consumer)


async def test_take_gathers_for_max_wait(world: World) -> None:
    """A batch grows for as long as it may, so that a trickle is not written one by one."""
    broker = world.broker(ALL)
    async with broker.publisher() as publisher, broker.consumer("all", 10) as consumer:
        waiting = asyncio.ensure_future(consumer.take(3, DEADLINE_S))
        for number in range(3):
            await (await publisher.send(make_events(1, number)))

        assert numbers(await waiting) == [0, 1, 2]


async def test_take_returns_what_came_within_max_wait(world: World) -> None:
    """A batch that does not fill is returned after max_wait_s, not held."""
    broker = world.broker(ALL)
    await publish(broker, make_events(2))
    async with broker.consumer("all", 10) as consumer:
        start = time.monotonic()
        taken = await consumer.take(10, 0.2)

        assert numbers(taken) == [0, 1]
        assert 0.15 < time.monotonic() - start < 5


async def test_cancelled_take_loses_nothing(world: World) -> None:
    """What a take had gathered when it was cancelled comes out of the next one, first."""
    broker = world.broker(ALL)
    await publish(broker, make_events(3))
    async with broker.consumer("all", 10) as consumer:
        waiting = asyncio.ensure_future(consumer.take(10, DEADLINE_S))
        await asyncio.sleep(0.2)
        waiting.cancel()
        await asyncio.wait([waiting])
        await publish(broker, make_events(2, 3))

        assert numbers(await take(consumer, 5)) == [0, 1, 2, 3, 4]


async def test_takes_cancelled_at_any_point(world: World) -> None:
    """Wherever the cancellation hits, each event comes once and in order."""
    broker = world.broker(ALL)
    chance = random.Random(4)
    taken: list[int] = []
    async with broker.publisher() as publisher, broker.consumer("all", 500) as consumer:
        for number in range(150):
            confirm = await publisher.send(make_events(1, number))
            waiting = asyncio.ensure_future(consumer.take(5, 0.002))
            await asyncio.sleep(chance.random() * 0.008)
            waiting.cancel()
            await asyncio.wait([waiting])
            await confirm
            if not waiting.cancelled():
                batch = waiting.result()
                await consumer.ack(batch)
                taken += numbers(batch)
        if len(taken) < 150:
            taken += numbers(await take(consumer, 150 - len(taken)))

    assert taken == list(range(150))


async def test_same_event_twice(world: World) -> None:
    """The broker is at least once: an id that is published twice arrives twice, sinks tell them apart."""
    broker = world.broker(ALL)
    await publish(broker, make_events(1))
    await publish(broker, make_events(1))

    assert await drain(broker, "all", 2) == [0, 0]


async def test_bodies_of_every_length(world: World) -> None:
    """Bodies come as they were sent: empty, binary, around the frame limit, and a megabyte."""
    broker = world.broker(ALL)
    sizes = (0, 1, 131_063, 131_064, 131_065, 262_128, 262_129, 1_048_576)
    bodies = [os.urandom(size) for size in sizes] + [bytes(range(256)), b"\xce" * 131_072]
    await publish(broker, [make_event(at, body=body) for at, body in enumerate(bodies)])
    async with broker.consumer("all", 100) as consumer:
        taken = await take(consumer, len(bodies))

    assert [delivery.body for delivery in taken] == bodies


@pytest.mark.parametrize("key", ["", "group/李雷\U0001f600", "c2c/" + "ü" * 300, "a\x00b"])
async def test_partition_keys(world: World, key: str) -> None:
    """Any text may be the partition key."""
    broker = world.broker(ALL)
    await publish(broker, [make_event(0, key=key)])
    async with broker.consumer("all", 1) as consumer:
        [delivery] = await take(consumer, 1)

    assert delivery.headers["partitionkey"] == key


async def test_everything_survives_a_new_broker_object(world: World) -> None:
    """Ready, taken, retried, parked and unrouted events stand where they stood."""
    sinks = {"groups": ("im.group.#",)}
    broker = world.broker(sinks)
    await publish(broker, [*make_events(5), make_event(9, USER)])
    async with broker.consumer("groups", 3) as consumer:
        first, second, _ = await take(consumer, 3)
        await consumer.retry(first, "busy")
        await consumer.park(second, "bad_value")
    await broker.close()
    again = world.broker(sinks)
    await counts(again, "groups", ready=3, retry=1, dead=1)
    await becomes(again.unrouted, 1)
    assert await drain(again, "groups", 3) == [2, 3, 4]
    await world.advance(6.5)

    assert await drain(again, "groups", 1) == [0]
    assert numbers(await again.peek("groups", 9, dead=True)) == [1]


async def test_queues_of_a_removed_sink_are_named(world: World) -> None:
    """Events that wait for a sink which the configuration lost are kept, and somebody is told."""
    broker = world.broker({"kept": ("#",), "old": ("#",)})
    await publish(broker, make_events(2))
    assert await broker.foreign_queues() == []
    later = world.broker({"kept": ("#",)})
    await publish(later, make_events(1, 2))
    names = await later.foreign_queues()

    assert names
    assert all("old" in name for name in names)
    assert await drain(later, "kept", 3) == [0, 1, 2]


async def test_events_of_a_removed_sink_come_when_it_is_back(world: World) -> None:
    """Taking a sink out of the configuration loses nothing that waited for it."""
    sinks = {"kept": ("#",), "old": ("#",)}
    await publish(world.broker(sinks), make_events(2))
    await publish(world.broker({"kept": ("#",)}), make_events(1, 2))
    async with world.broker(sinks).consumer("old", 10) as consumer:
        assert numbers(await take(consumer, 2)) == [0, 1]


async def test_unknown_sink(world: World) -> None:
    """A name that the configuration does not have is an error of the caller."""
    broker = world.broker(ALL)
    with pytest.raises(KeyError, match="nobody"):
        await broker.depth("nobody")
    with pytest.raises(KeyError, match="nobody"):
        await broker.peek("nobody", 1)
    with pytest.raises(KeyError, match="nobody"):
        async with broker.consumer("nobody", 1):
            pass
    with pytest.raises(KeyError, match="nobody"):
        async with broker.publisher("nobody"):
            pass


async def test_closed_channels_refuse(world: World) -> None:
    """After its block a channel raises Unavailable, and so does a take that was waiting in it."""
    broker = world.broker(ALL)
    async with broker.publisher() as publisher:
        pass
    async with broker.consumer("all", 1) as consumer:
        waiting = asyncio.ensure_future(consumer.take(1, 0))
        await asyncio.sleep(0.05)
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await publisher.send(make_events(1))
    with pytest.raises(Unavailable):
        await consumer.take(1, 0)
    with pytest.raises(Unavailable):
        await consumer.ack([Delivery(b"0", 1, 1)])


async def test_connected_is_shown(world: World) -> None:
    """The metric says 1 for each role while its connection stands."""
    metrics = Metrics()
    broker = world.broker(ALL, metrics)

    def shown(role: str) -> float | None:
        return metrics.registry.get_sample_value("gateway_broker_connected", {"role": role})

    async with broker.publisher(), broker.consumer("all", 1):
        assert (shown("publish"), shown("consume")) == (1, 1)
    await broker.close()

    assert (shown("publish"), shown("consume")) == (0, 0)


async def test_check_says_what_it_found(world: World) -> None:
    """A broker that works answers with a sentence, before and after anything was declared."""
    broker = world.broker(ALL)
    assert len(await broker.check()) > 20
    await publish(broker, make_events(1))

    assert len(await broker.check()) > 20


async def test_close_twice(world: World) -> None:
    """Closing again, or without ever having opened anything, is no error."""
    broker = world.broker(ALL)
    await broker.close()
    await broker.close()
