"""One publisher that many share, as the copies of retried and parked events do: each is told about its own."""

import asyncio
import json

from hypothesis import given

from gateway.broker import Unconfirmed
from gateway.broker.rabbitmq.publish import Message
from gateway.config import Broker as BrokerConfig
from gateway.errors import Unavailable
from gateway.metrics import Metrics
from tests.models.effort import HOW, PATIENCE
from tests.models.moods import CALM, SPITE, Moods, told
from tests.models.rabbit import EXIT, Node
from tests.models.world import Clock, World

pytestmark = PATIENCE
MOODS = (*["send"] * 6, *["cancel"] * 3, *["jam"] * 2, "monster", *CALM, *SPITE)
GOOD_S = 600.0


class Copies(Moods):
    """Tasks that publish one message each through one broker."""

    def __init__(self, node, config):
        super().__init__(node)
        self.broker = node.broker(config, Metrics())
        self.tasks = []
        self.answers = {}
        """What each was told, by its number."""

    async def step(self, mood, amount, seed):
        await super().step(mood, amount, seed)
        self.look()

    def look(self):
        """Whoever was told something was told the truth about its own message."""
        for number, answer in self.answers.items():
            is_there = self.node.arrived[number] == {("all", 0), ("exits", 0)}
            is_refused = (number, 0) in self.node.refused
            assert is_there or answer != "confirmed", f"{number} is confirmed and not there"
            assert is_refused or answer not in ("nacked", "returned"), f"{number} got another one's answer"
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.result()

    def send(self, amount):
        """Some more are published, all with one id."""
        for _ in range(amount):
            number = len(self.tasks) + 1
            event = {"id": "same", "type": EXIT, "appid": "14", "position": f"j.{number}.0", "pad": "x" * 700}
            message = Message(
                "im.events", f"{EXIT}.14", json.dumps(event).encode(), {"partitionkey": "k"}, "same", EXIT
            )
            self.tasks.append(asyncio.ensure_future(self._publish(number, message)))

    def cancel(self, amount):
        """Some give up, wherever they are."""
        under_way = [task for task in self.tasks if not task.done()]
        for task in self.random.sample(under_way, min(amount, len(under_way))):
            task.cancel()

    async def monster(self, amount):
        """One comes that no frame can hold; it costs only its sender."""
        message = Message("im.events", "x" * 300, b"{}", {})
        self.tasks.append(asyncio.ensure_future(self._publish(len(self.tasks) + 1, message)))

    async def _publish(self, number, message):
        try:
            await self.broker._publish_copy(message)
        except Unconfirmed as fault:
            self.answers[number] = fault.reason
        except Unavailable:
            self.answers[number] = "unavailable"
        except ValueError:
            assert len(message.routing_key) > 255
        else:
            self.answers[number] = "confirmed"

    async def end_well(self):
        """The broker behaves: everybody is told something, and new ones are confirmed."""
        self.be_good()
        self.node.torn.clear()
        await self._finish()
        before = len(self.tasks)
        self.send(3)
        await self._finish()
        late = {number: answer for number, answer in self.answers.items() if number > before}
        assert set(late.values()) <= {"confirmed"}
        assert len(late) == 3

    async def _finish(self):
        until_s = self.node.clock.now_s + GOOD_S
        while not all(task.done() for task in self.tasks):
            assert self.node.clock.now_s < until_s, "never told"
            await self.step("flow", 1, 0)
            await asyncio.sleep(0.05)


def play(story):
    """Return what *story* returns, told of a new broker."""
    clock = Clock()
    world = World(clock)

    async def work():
        config = BrokerConfig(url="amqp://model", declare="off", confirm_timeout_s=2)
        return await story(Copies(Node(clock, lambda count: count // 2), config))

    with world.in_force():
        try:
            return world.run(work())
        finally:
            world.kill()


@HOW
@given(told(MOODS))
def test_each_is_told_about_its_own_message(steps):
    """Confirmed means there; refused means that this one was, whatever became of those beside it, with the same id."""

    async def story(copies):
        for step in steps:
            await copies.step(*step)
        await copies.end_well()

    play(story)


def test_nobody_publishes_behind_one_who_gave_up_half_way():
    """Its delivery tag is counted and was never sent: the next one would be told what the one after it should be."""

    async def story(copies):
        await copies.step("send", 1, 0)
        await copies.step("flow", 0, 0)
        await copies.step("jam", 9, 0)
        await copies.step("send", 6, 0)
        first_waiting = 1 + 3 + 1  # one was sent; one is being written, and two fit into the queue
        copies.tasks[first_waiting - 1].cancel()
        await asyncio.sleep(0.01)
        copies.unjam()
        copies.node.refuses = lambda queue, message: message.position == first_waiting + 1
        await copies.step("flow", 0, 0)
        await copies.step("flow", 0, 0)
        await copies.end_well()
        return copies.answers

    answers = play(story)

    assert [answers.get(number) for number in range(1, 8)] == [
        *["confirmed"] * 4, None, "unavailable", "unavailable",
    ]  # fmt: skip
