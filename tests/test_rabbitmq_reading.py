"""Reading a queue of RabbitMQ and leaving there, in order, what is not removed."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit

import aiormq
import pytest

from gateway.broker.rabbitmq import RabbitMQ, declare, reading
from gateway.broker.rabbitmq.link import Link
from gateway.broker.rabbitmq.reading import Reader
from gateway.config import Broker as BrokerConfig
from gateway.errors import Unavailable
from gateway.metrics import Metrics
from tests.rabbitmq_world import admin_channel, event, taken, until
from tests.services import RabbitMQ as RabbitServer

QUEUE = "im.sink.one"
Open = Callable[..., Reader]


@pytest.fixture
async def opened(amqp_url: str) -> AsyncIterator[Open]:
    """Return a function that makes a reader of the queue on a connection of its own."""
    links: list[Link] = []

    def make(most_bytes: int = 1_000_000, *, is_alone: bool = True) -> Reader:
        links.append(Link(BrokerConfig(url=amqp_url), "consume", Metrics()))
        return Reader(links[-1], QUEUE, most_bytes, is_alone=is_alone)

    yield make
    for link in links:
        await link.close()


async def fill(broker: RabbitMQ, count: int) -> None:
    async with broker.publisher() as publisher:
        await (await publisher.send([event(number) for number in range(count)]))
    await until(lambda: holds(broker, count), "filled")


async def holds(broker: RabbitMQ, count: int) -> bool:
    return (await broker.depth("one")).ready == count


def numbers(deliveries) -> list[int]:
    return [int(one.message_id, 16) for one in deliveries]


async def left(broker: RabbitMQ, count: int) -> list[int]:
    """Return what stands in the queue, in order, once it is *count* events."""
    await until(lambda: holds(broker, count), f"{count} stand there")
    return [one["data"]["n"] for one in await taken(broker, "one", count)]


async def every_third(reader: Reader, most_events: int = 7) -> list[int]:
    """Read to the end, remove each third event; return all that came."""
    came: list[int] = []
    while page := await reader.page(most_events):
        await reader.remove([one for one in page if int(one.message_id, 16) % 3 == 0])
        came += numbers(page)
    return came


async def test_looking_leaves_the_order(make) -> None:
    """Also at more events than Erlang sorts by itself."""
    broker = make()
    await fill(broker, 100)
    seen = [numbers(await broker.peek("one", most)) for most in (5, 100, 40)]

    assert seen == [list(range(5)), list(range(100)), list(range(40))]
    assert await left(broker, 100) == list(range(100))


async def test_looking_in_vain_leaves_the_order_too(make, opened: Open) -> None:
    """Who stops in the middle of what came back once, or twice, leaves none of it behind the rest."""
    broker = make()
    await fill(broker, 60)
    for most in (40, 10, 50, 5):
        await broker.peek("one", most)
    reader = opened()
    await reader.open()
    await reader.remove((await reader.page(20))[::2])
    await reader.close()

    expected = [*range(1, 20, 2), *range(20, 60)]
    assert await left(broker, 50) == expected


async def test_what_is_removed_is_gone_and_the_rest_stands_in_order(
    make, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through several windows: each is full of what is passed over before the next begins."""
    monkeypatch.setattr(reading, "WINDOW_MIN", 10)
    monkeypatch.setattr(reading, "WINDOW_MAX", 10)
    broker, reader = make(), opened()
    await fill(broker, 350)
    await reader.open()
    came = await every_third(reader)
    windows = reader._windows
    await reader.close()

    assert came == list(range(350))
    assert windows == 24
    assert await left(broker, 233) == [number for number in range(350) if number % 3]


async def test_more_windows_than_one_channel_may_have(
    make, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is opened anew, and what was passed over is passed over again, in steps of its own."""
    monkeypatch.setattr(reading, "WINDOW_MIN", 4)
    monkeypatch.setattr(reading, "WINDOW_MAX", 4)
    monkeypatch.setattr(reading, "WINDOWS_MAX", 9)
    monkeypatch.setattr(reading, "SKIP_MAX", 15)
    broker, reader = make(), opened()
    await fill(broker, 120)
    await reader.open()
    came = await every_third(reader)
    await reader.close()

    assert came == list(range(120))
    assert await left(broker, 80) == [number for number in range(120) if number % 3]


async def test_more_than_can_be_passed_over_is_said(
    make, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And costs nothing."""
    monkeypatch.setattr(reading, "WINDOW_MIN", 4)
    monkeypatch.setattr(reading, "WINDOW_MAX", 4)
    monkeypatch.setattr(reading, "WINDOWS_MAX", 3)
    monkeypatch.setattr(reading, "SKIP_MAX", 5)
    broker, reader = make(), opened()
    await fill(broker, 60)
    await reader.open()
    with pytest.raises(Unavailable, match="no more can be passed over"):
        await every_third(reader)
    await reader.close()

    rest = await taken(broker, "one", (await broker.depth("one")).ready)
    numbers_left = [one["data"]["n"] for one in rest]
    assert numbers_left == sorted(numbers_left)
    assert {number for number in range(60) if number % 3} <= set(numbers_left)


async def test_bodies_have_a_bound(make, opened: Open) -> None:
    """What has no room goes back and comes again, fewer at a time; one event always has room."""
    broker, reader = make(), opened(most_bytes=1000)  # an event has about 120 bytes
    await fill(broker, 60)
    await reader.open()
    most, came, removed = 0, [], []
    while page := await reader.page(3):
        most = max(most, sum(len(one.body) for one in [*page, *reader._buffer]))
        came += numbers(page)
        await reader.remove(page[:1])
        removed += numbers(page[:1])
    await reader.close()
    tiny = opened(most_bytes=1)
    await tiny.open()
    again = await every_third(tiny, 2)
    await tiny.close()

    assert came == list(range(60))
    assert most < 1200
    assert again == [number for number in range(60) if number not in removed]


async def test_events_are_not_held_for_long(make, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The channel is opened anew long before RabbitMQ would close it; nothing comes twice or not at all."""
    monkeypatch.setattr(reading, "HELD_MAX_S", 0.0)
    broker, reader = make(), opened()
    await fill(broker, 20)
    await reader.open()
    came = await every_third(reader)
    await reader.close()

    assert came == list(range(20))
    assert len(await left(broker, 13)) == 13


async def test_only_what_stood_there_at_the_opening(make, opened: Open) -> None:
    """Who reads to the end comes to one, whatever arrives meanwhile; it stands behind the rest."""
    broker, reader = make(), opened()
    await fill(broker, 10)
    await reader.open()
    first = await reader.page(4)
    async with broker.publisher() as publisher:
        await (await publisher.send([event(number) for number in range(10, 20)]))
    came = numbers(first) + await every_third(reader)
    await reader.close()

    assert came == list(range(10))
    assert (await left(broker, 18))[-10:] == list(range(10, 20))


async def ignore(message: object) -> None:
    """It stays unsettled."""


async def test_another_reader_is_an_error(make, opened: Open, amqp_url: str, monkeypatch) -> None:
    """Order and number would not hold."""
    monkeypatch.setattr(declare, "SETTLE_S", 0.1)
    broker, reader = make(), opened()
    await fill(broker, 3)
    async with admin_channel(amqp_url) as channel:
        await (await channel.get_queue(QUEUE)).consume(ignore)
        with pytest.raises(Unavailable, match="another program read"):
            await reader.open()


async def test_somebody_takes_the_rest(make, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who only looks gets what is there; waiting for what others took ends."""
    monkeypatch.setattr(reading, "WINDOW_MIN", 2)
    broker, reader = make(), opened(is_alone=False)
    await fill(broker, 10)
    await reader.open()
    first = await reader.page(2)
    assert await taken(broker, "one", 8)
    came = numbers(first) + numbers(await reader.page(5))
    rest = await reader.page(5)
    await reader.close()

    assert came[:2] == [0, 1]
    assert len(came) <= 4
    assert rest == []


CHILD = """
import asyncio, sys
from gateway.broker.rabbitmq import reading
from gateway.broker.rabbitmq.link import Link
from gateway.config import Broker
from gateway.metrics import Metrics
reading.WINDOW_MIN = reading.WINDOW_MAX = 10

async def main():
    reader = reading.Reader(Link(Broker(url=sys.argv[1]), "consume", Metrics()), "im.sink.one", 1_000_000)
    await reader.open()
    last = 0
    while last < 280:
        page = await reader.page(8)
        await reader.remove([one for one in page if int(one.message_id, 16) % 3 == 0])
        last = int(page[-1].message_id, 16)
    await reader._ready()  # what was removed has reached RabbitMQ by then
    print(f'{last:x}', flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_reader_that_is_killed(make, amqp_url: str) -> None:
    """In the middle, holding many windows: all that was not removed stands there, in order."""
    broker = make()
    await fill(broker, 400)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        amqp_url,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    last = int(await process.stdout.readline(), 16)
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    expected = [number for number in range(400) if number % 3 or number > last]

    assert last > 200
    assert await left(broker, len(expected)) == expected


async def test_a_lost_connection_is_said(make, opened: Open, amqp_url: str) -> None:
    """As the part that is away; closing afterwards harms nothing."""
    broker, reader = make(), opened()
    await fill(broker, 3)
    await reader.open()
    page = await reader.page(1)
    connection = await reader._link.get()
    closed = connection.closing
    reader._link.cut(connection)
    await asyncio.wait((closed,), timeout=10)
    with pytest.raises(Unavailable):
        await reader.remove(page)
    with pytest.raises(Unavailable):
        await reader.page(1)
    await reader.close()

    assert len(await left(broker, 3)) == 3


async def test_a_deleted_queue_is_said(make, opened: Open, amqp_url: str, monkeypatch) -> None:
    """RabbitMQ cancels the consumer then."""
    monkeypatch.setattr(reading, "WINDOW_MIN", 1)
    monkeypatch.setattr(reading, "WINDOW_MAX", 1)
    broker, reader = make(declare="off"), opened()
    await fill(make(), 3)
    await reader.open()
    await reader.page(1)
    connection = await aiormq.connect(amqp_url)
    channel = await connection.channel()
    await channel.queue_delete(QUEUE)
    await connection.close()
    with pytest.raises(Unavailable):
        await reader.page(1)
    await reader.close()
    await broker.close()


@pytest.mark.parametrize("count", [500, 520, 1000])
async def test_what_was_removed_stays_removed_when_the_channel_is_closed_at_once(
    make, opened: Open, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """RabbitMQ keeps back more than 32 acknowledgements for a moment, and forgets them with the channel."""
    monkeypatch.setattr(reading, "_LOOK_S", 0)
    broker = make()
    for _ in range(3):
        await fill(broker, count)
        reader = opened()
        await reader.open(500)
        first = await reader.page(1)
        await until(lambda reader=reader: has(reader, 499), "all have come")
        page = await reader.page(499)
        await reader.remove(page[::2])
        await reader.close()

        kept = numbers(first) + numbers(page[1::2]) + list(range(500, count))
        assert await left(broker, count - 250) == kept


async def has(reader: Reader, count: int) -> bool:
    return len(reader._buffer) == count


async def test_a_busy_queue_is_not_taken_for_an_empty_one(
    make, opened: Open, rabbitmq: RabbitServer, amqp_url: str
) -> None:
    """RabbitMQ waits 250 ms for a queue, and then says that nothing stands in it and nobody reads it."""
    broker = make()
    await fill(broker, 20)
    assert len(await broker.peek("one", 20)) == 20
    process = f"'{urlsplit(amqp_url).path[1:]}_{QUEUE}'"
    reader = opened()
    await asyncio.to_thread(rabbitmq.ctl, "eval", f"sys:suspend({process}).")
    try:
        opening = asyncio.create_task(reader.open())
        await asyncio.wait((opening,), timeout=1)
        was_open = opening.done()
    finally:
        await asyncio.to_thread(rabbitmq.ctl, "eval", f"sys:resume({process}).")
    await opening
    first = numbers(await reader.page(5))
    await asyncio.to_thread(rabbitmq.ctl, "eval", f"sys:suspend({process}).")
    try:
        asking = asyncio.create_task(reader._ready())
        await asyncio.wait((asking,), timeout=1)
        was_told = asking.done()
    finally:
        await asyncio.to_thread(rabbitmq.ctl, "eval", f"sys:resume({process}).")
    ready = await asking
    await reader.close()

    assert not was_open
    assert not was_told
    assert (first, ready) == (list(range(5)), 0)
    assert await left(broker, 20) == list(range(20))
