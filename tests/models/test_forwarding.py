"""Forwarder, publisher and confirms against a RabbitMQ that does whatever the protocol allows."""

import asyncio
from random import Random
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config import Broker as BrokerConfig
from gateway.forwarder import Forwarder
from gateway.metrics import Metrics
from tests.models.effort import HOW, PATIENCE
from tests.models.forwarding import Notebook, Watch, any_callback, no_bugs, order_breaks, owed
from tests.models.moods import CALM, SPITE, Moods, told
from tests.models.rabbit import Node
from tests.models.world import Clock, World
from tests.rabbitmq_world import value

pytestmark = PATIENCE
MOODS = (*["store"] * 4, *CALM)
GOOD_S = 600.0
"""Once the broker behaves, everything has to be there after this."""


class Story(Moods):
    """A forwarder, a node, and what happens to them."""

    def __init__(self, clock, journal, node, config, metrics):
        super().__init__(node)
        self.clock, self.journal, self.metrics = clock, journal, metrics
        self.owed = {}
        """By position, which of its events have to stand in which queue."""
        self._looked_at = 0
        self.watch = Watch(node, config, metrics, journal)
        self.forwarder = Forwarder(journal, self.watch, config, metrics)
        self.task = asyncio.ensure_future(self.forwarder.run())

    async def step(self, mood, amount, seed):
        await super().step(mood, amount, seed)
        self.look()

    def look(self):
        """The forwarder lives, and everything up to the cursor stands in its queues."""
        if self.task.done():
            self.task.result()
        for position in range(self._looked_at + 1, self.journal.cursor + 1):
            assert self.owed[position] <= self.node.arrived[position], (
                f"{position} is confirmed and not there"
            )
        self._looked_at = self.journal.cursor

    def store(self, amount):
        """Callbacks come in."""
        for number in range(self.journal.head + 1, self.journal.head + amount + 1):
            callback = any_callback(number, self.random)
            self.owed[number] = owed(callback, is_bad=number in self.node.bad)
            self.journal.append(callback)

    async def end_well(self):
        """The broker behaves: everything arrives, the forwarder ends."""
        self.be_good()
        until_s = self.clock.now_s + GOOD_S
        while self.journal.cursor < self.journal.head:
            assert self.clock.now_s < until_s, "never confirmed"
            await self.step("flow", 0, 0)
            await asyncio.sleep(0.05)
        self.forwarder.finish()
        while not self.task.done():
            await self.step("flow", 0, 0)
        await self.task
        self.look()


CONFIGS = st.builds(
    BrokerConfig,
    url=st.just("amqp://model"),
    declare=st.just("off"),
    confirm_timeout_s=st.just(2.0),
    publish_batch_events=st.sampled_from([1, 3, 10]),
    max_unconfirmed=st.sampled_from([1, 4, 40]),
)


def play(config, bad, steps):
    """Play the story of *steps*; return it."""
    clock = Clock()
    world = World(clock)

    async def work():
        chance = Random(len(steps))
        node = Node(clock, lambda count: chance.randint(0, count))
        node.bad = bad
        story = Story(clock, Notebook(), node, config, Metrics())
        for step in steps:
            await story.step(*step)
        await story.end_well()
        return story

    with world.in_force(), mock.patch("gateway.forwarder.where", no_bugs):
        try:
            return world.run(work())
        finally:
            world.kill()


BAD = st.frozensets(st.integers(1, 30), max_size=1)


@HOW
@given(CONFIGS, BAD, told(MOODS))
def test_a_moody_broker_gets_everything_in_order(config, bad, steps):
    """Whatever is delayed, lost with its connection or refused for its content: nothing is lost, order holds."""
    story = play(config, bad, steps)

    for queue in story.node.queues.values():
        assert order_breaks(queue) == []
    assert value(story.metrics.publish_order_breaks) == 0
    assert value(story.metrics.publish_unconfirmed) == 0


HALF_A_RETURN = (
    *[("store", 0, 0)] * 5, ("store", 6, 1), ("flow", 0, 0), ("tear", 1, 0), ("trickle", 5, 251), ("wait", 9, 0),
    ("store", 0, 0),
)  # fmt: skip
"""A return of which only the first frame was heard before the deadline: nobody knows what came back."""


@HOW
@given(CONFIGS, BAD, told(MOODS + SPITE))
@example(
    BrokerConfig(
        url="amqp://model", declare="off", confirm_timeout_s=2.0, publish_batch_events=3, max_unconfirmed=1
    ),
    frozenset(),
    HALF_A_RETURN,
)
def test_a_broker_that_refuses_loses_nothing_and_each_break_of_order_is_counted(config, bad, steps):
    """With nacks and returns too: everything arrives; where the order broke, and the broker said so, the metric rose."""
    story = play(config, bad, steps)

    breaks = [late for queue in story.node.queues.values() for late in order_breaks(queue)]
    counted = value(story.metrics.publish_order_breaks)
    assert counted or not breaks or story.node.has_hidden_refusal, breaks
