"""Processes of one gateway take turns at declaring; two objects stand for two processes here."""

import asyncio
import os

import pytest

from gateway.broker.rabbitmq import turns as module
from gateway.broker.rabbitmq.turns import Turns
from gateway.errors import Unavailable


class Connection:
    """A connection as far as its end is asked for."""

    def __init__(self):
        self.closing = asyncio.get_running_loop().create_future()

    async def close(self):
        self.closing.set_result(None)
        await asyncio.sleep(0)


@pytest.fixture
def pair(tmp_path):
    return Turns(tmp_path / "topology.lock"), Turns(tmp_path / "topology.lock")


async def test_one_at_a_time(pair):
    """Neither of two processes, nor two tasks of one, declare at once."""
    inside, most = 0, 0

    async def declare(turns):
        nonlocal inside, most
        async with turns.hold():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(declare(one) for one in (*pair, *pair)))

    assert most == 1


async def test_who_waits_too_long_tries_again_later(pair, monkeypatch):
    """A process that was suspended in its turn holds up what the others declare, and nothing else."""
    monkeypatch.setattr(module, "_WAIT_S", 0.05)
    one, other = pair
    async with one.hold():
        with pytest.raises(Unavailable, match="another process"):
            async with other.hold():
                pass

    async with other.hold() as gone:
        assert gone == []


async def test_a_turn_ends_with_its_process(pair):
    """The kernel frees the lock."""
    one, other = pair
    async with one.hold():
        os.close(one._fd)
        one._fd = os.open(os.devnull, os.O_RDONLY)
        async with other.hold():
            pass


async def test_what_one_finds_the_others_are_told_once(pair):
    """And not who found it, nor who begins later."""
    one, other = pair
    async with other.hold():
        pass
    async with one.hold():
        one.tell([("queue", "im.sink.crm"), ("binding", "im.sink.crm #.1400000000")])

    told = []
    for turns in (other, other, one, Turns(one._path)):
        async with turns.hold() as gone:
            told.append(gone)

    assert told == [[("queue", "im.sink.crm"), ("binding", "im.sink.crm #.1400000000")], [], [], []]


async def test_only_the_first_to_connect_is_first(pair):
    """As long as one feeds RabbitMQ, whoever comes is not the first; once nobody does, the next one is."""
    one, other = pair
    first, second, third = Connection(), Connection(), Connection()

    assert one.is_first(first)
    assert not other.is_first(second)
    await first.close()
    again = Connection()
    assert not one.is_first(again)
    await again.close()
    await second.close()
    assert other.is_first(third)
    assert not one.is_first(Connection())


async def test_an_old_connection_that_ends_late_changes_nothing(pair):
    """The one that feeds now still counts."""
    one, other = pair
    old, new = Connection(), Connection()
    one.is_first(old)
    one.is_first(new)

    await old.close()

    assert not other.is_first(Connection())


async def test_a_process_alone_locks_nothing():
    """One process pays nothing, and is always the first."""
    turns = Turns(None)

    async with turns.hold() as gone:
        turns.tell([("queue", "x")])

    assert gone == []
    assert turns.is_first(Connection())
