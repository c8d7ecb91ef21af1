"""The work on parked events: in which order they go back, how fast, and what may be edited."""

import asyncio
import json
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.broker import Delivery
from gateway.broker.rabbitmq import RabbitMQ
from gateway.broker.rabbitmq.consume import Consumer
from gateway.dead import Choice, Work, indented, mended, work
from gateway.dead.mending import compact
from gateway.dead.showing import fields
from tests.rabbitmq_world import admin_channel, event, taken, until


def parked(number: int, *, key: str = "group/1", time_ms: int | None = None) -> Delivery:
    headers: dict[str, str | int] = {"partitionkey": key, "reason": "refused"}
    headers["parked_ms"] = 1000 + number if time_ms is None else time_ms
    return Delivery(b"%d" % number, 1, number, f"id-{number}", "im.x.14", headers, "im.x")


class Queue:
    """A dead queue in memory, in whatever order it was left; satisfies ``gateway.broker.DeadQueue``."""

    def __init__(self, deliveries: Iterable[Delivery]) -> None:
        self.standing = list(deliveries)
        self.back: list[Delivery] = []
        self.batches: list[int] = []
        self.at = 0

    @property
    def todo(self) -> int:
        return len(self.standing) - self.at

    async def page(self, max_events: int) -> list[Delivery]:
        page = self.standing[self.at : self.at + max_events]
        self.at += len(page)
        return page

    async def rewind(self) -> None:
        self.at = 0

    async def replay(self, deliveries: Sequence[Delivery]) -> None:
        self.back += deliveries
        self.batches.append(len(deliveries))
        await self.remove(deliveries)

    async def remove(self, deliveries: Sequence[Delivery]) -> None:
        for one in deliveries:
            self.standing.remove(one)
            self.at -= 1


def numbers(deliveries: Iterable[Delivery]) -> list[int]:
    return [one.tag for one in deliveries]


async def replayed(queue: Queue, limit: int = 0, choice: Choice = Choice()) -> list[int]:  # noqa: B008 - frozen
    await Work(queue, choice, limit).replay(0)
    return numbers(queue.back)


async def test_a_turned_queue_goes_back_in_the_order_of_parking() -> None:
    """As a reader leaves it that was killed while it held the first part of what had come back before."""
    queue = Queue(parked(number) for number in [*range(40, 60), *range(40), *range(60, 90)])

    assert await replayed(queue) == list(range(90))
    assert queue.standing == []


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=30), st.integers(0, 5))
def test_each_key_goes_back_in_its_order(drawn: list[tuple[int, int]], limit: int) -> None:
    """However broken the queue's order is; with a limit, what goes back is a beginning of each key."""
    queue = Queue(parked(at, key=f"group/{key}", time_ms=time_ms) for at, (time_ms, key) in enumerate(drawn))
    every = list(queue.standing)
    asyncio.run(replayed(queue, limit))

    for key in range(3):
        of_key = [one for one in every if one.headers["partitionkey"] == f"group/{key}"]
        went = [one.headers["parked_ms"] for one in queue.back if one in of_key]
        assert went == sorted(one.headers["parked_ms"] for one in of_key)[: len(went)]
    assert len(queue.back) == (min(limit, len(every)) if limit else len(every))
    assert sorted(numbers([*queue.back, *queue.standing])) == list(range(len(every)))


async def test_events_without_a_time_of_parking() -> None:
    """Somebody put them there by hand; they go back with the others, though not where time was chosen."""
    alone = Delivery(b"x", 1, 5, "id-5", "im.x.14")
    queue = Queue([parked(2), alone, parked(1)])
    timed = Choice(since_ms=0)

    assert not timed.takes(alone)
    assert sorted(await replayed(queue)) == [1, 2, 5]
    assert fields(alone)["parked"] is None


async def test_counts_and_limits() -> None:
    """What is chosen is counted before anything moves."""
    queue = Queue(parked(number, key=f"group/{number % 2}") for number in range(10))
    counted = Work(queue, Choice(group="1"), limit=3)
    await counted.count()

    assert (counted.chosen.events, counted.chosen.reasons["refused"], queue.back) == (5, 5, [])
    await counted.replay(0)
    assert (counted.done.events, numbers(queue.back)) == (3, [1, 3, 5])
    looked = Work(queue, Choice(), limit=2)
    assert numbers([one async for one in looked.look()]) == [0, 2]


async def test_the_rate_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many events a second, in small batches; the first goes at once."""
    clock = [1000.0]
    sent: list[float] = []

    class Asyncio:
        @staticmethod
        async def sleep(delay_s: float) -> None:
            clock[0] += max(0.0, delay_s)

    class Time:
        @staticmethod
        def monotonic() -> float:
            return clock[0]

    class Timed(Queue):
        async def replay(self, deliveries: Sequence[Delivery]) -> None:
            sent.append(round(clock[0] - 1000, 3))
            await super().replay(deliveries)

    monkeypatch.setattr(work, "asyncio", Asyncio)
    monkeypatch.setattr(work, "time", Time)
    queue = Timed(parked(number) for number in range(50))
    await Work(queue, Choice()).replay(100)

    assert queue.batches == [10] * 5
    assert sent == [0, 0.1, 0.2, 0.3, 0.4]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_what_is_made_readable_is_the_same_value(value: object) -> None:
    """And compact again it is the same text."""
    text = json.dumps(value, separators=(",", ":"))

    assert json.loads(indented(text)) == value
    assert compact(indented(text)) == text


def test_readable_text() -> None:
    """One value a line, empty ones on theirs."""
    assert indented('{"a":[],"b":{},"c":[1,{"d":"x, {y"}]}') == (
        '{\n  "a": [],\n  "b": {},\n  "c": [\n    1,\n    {\n      "d": "x, {y"\n    }\n  ]\n}\n'
    )


def test_a_mended_event_goes_the_way_of_its_new_type() -> None:
    """Routing key, key of order and type are those of the event as it is now."""
    before = event(1)
    delivery = Delivery(before.body, 3, 7, before.id, "im.old.14", {"reason": "x", "parked_ms": 5})
    body = before.body.decode()
    text = body.replace("im.group.member.exited", "im.new").replace('"k"', '"group/9"')
    after = mended(delivery, text)

    assert (after.tag, after.type, after.routing_key, after.message_id) == (
        7,
        "im.new",
        "im.new.14",
        before.id,
    )
    assert after.headers == {"reason": "x", "parked_ms": 5, "partitionkey": "group/9"}
    with pytest.raises(ValueError, match="longer than a routing key"):
        mended(delivery, body.replace("im.group.member.exited", "x" * 300))
    with pytest.raises(ValueError, match="partitionkey is no text"):
        mended(delivery, body.replace('"k"', "1"))


def test_what_was_no_event_may_become_one() -> None:
    """Its id is the message's, if it had one."""
    before = event(1)
    broken = Delivery(b"{", 1, 7, before.id, "im.x.14")

    assert mended(broken, before.body.decode()).body == before.body.replace(b" ", b"")
    with pytest.raises(ValueError, match="would be another event"):
        mended(broken, event(2).body.decode())


async def test_rabbitmq_turns_the_queue_and_they_go_back_in_order(make, amqp_url: str) -> None:
    """A reader of another kind takes a part of what had been looked at, and dies."""
    broker: RabbitMQ = make()
    async with broker.publisher("one") as publisher:
        await (await publisher.send([event(number) for number in range(30)]))
    async with broker.consumer("one", 100) as consumer:
        for _ in range(30):
            [delivery] = await consumer.take(1, 0)
            await consumer.park(delivery, "key_blocked")
    assert len(await broker.peek("one", 100, dead=True)) == 30
    async with admin_channel(amqp_url) as channel:
        await channel.set_qos(10)
        await (await channel.get_queue("im.sink.one.dead")).consume(ignore)
        await until(lambda: holds(broker, 20), "ten are held")
    await until(lambda: holds(broker, 30), "given back")
    standing = [int(one.message_id, 16) for one in await broker.peek("one", 100, dead=True)]
    async with broker.dead("one", "a test") as dead:
        await Work(dead, Choice()).replay(0)

    assert standing == [*range(10, 30), *range(10)]
    assert [one["data"]["n"] for one in await taken(broker, "one", 30)] == list(range(30))


async def holds(broker: RabbitMQ, count: int) -> bool:
    return (await broker.depth("one")).dead == count


async def ignore(message: object) -> None:
    """It stays unsettled."""


async def test_rabbitmq_never_parks_two_at_one_time(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of parking tells the order; a clock that stands still, or is set back, changes nothing."""
    monkeypatch.setattr("gateway.broker.rabbitmq.consume.time.time_ns", lambda: 5_000_000_000)
    broker: RabbitMQ = make()
    async with broker.publisher("one") as publisher:
        await (await publisher.send([event(number) for number in range(3)]))
    async with broker.consumer("one", 100) as consumer:
        assert isinstance(consumer, Consumer)
        for _ in range(3):
            [delivery] = await consumer.take(1, 0)
            await consumer.park(delivery, "key_blocked")
    found = await broker.peek("one", 9, dead=True)

    assert [one.headers["parked_ms"] for one in found] == [5000, 5001, 5002]
