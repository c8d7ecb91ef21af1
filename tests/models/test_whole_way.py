"""Journal, forwarder and broker together, with processes that die anywhere and machines that lose their power."""

import asyncio
import tempfile
from pathlib import Path
from random import Random
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Broker as BrokerConfig
from gateway.forwarder import Forwarder
from tests.models.disk import DATA, NAMES
from tests.models.effort import FAST, HOW, PATIENCE
from tests.models.forwarding import Watch, any_callback, no_bugs, order_breaks, owed
from tests.models.history import Death, History
from tests.models.moods import CALM, Moods, told
from tests.models.rabbit import Node

pytestmark = PATIENCE
MOODS = (*["store"] * 5, *["die"] * 2, "stop", *CALM)
GOOD_S = 600.0


class Way(Moods):
    """A journal that a forwarder empties, over many lives."""

    def __init__(self, base, config):
        self.history = History(base)
        super().__init__(Node(self.history.clock, lambda count: count // 2))
        self._config = config
        self._life = 0
        self._looked_at = 0
        self.task = self.forwarder = None

    def play(self, mood, amount, seed):
        """Do a step; where the process dies of it, the next one goes on."""
        if mood == "die":
            self._die(amount, Random(seed))
        elif mood == "stop":
            self.history.close()
        else:
            self.history.do(self.step(mood, amount, seed))
        self.live()

    def live(self):
        """Start forwarding in a process that is new."""
        while self._life != self.history.lives:
            self._life = self.history.lives
            self.history.do(self._begin())

    async def _begin(self):
        self.node.bury_clients()
        history, journal = self.history, self.history.journal
        confirm = journal.confirm

        def noted(position):
            confirm(position)
            history.note_confirm()

        journal.confirm = noted
        watch = Watch(self.node, self._config, history.metrics, journal)
        self.forwarder = Forwarder(journal, watch, self._config, history.metrics)
        self.task = asyncio.ensure_future(self.forwarder.run())

    def _die(self, amount, random):
        cut = random.choice([None, (random.choice(DATA), random.choice(NAMES))])
        self.history.tell([Death(amount, random.random(), cut, random.randrange(1000))])
        if not amount:
            self.history.restart()

    async def step(self, mood, amount, seed):
        await super().step(mood, amount, seed)
        self.look()

    def store(self, amount):
        """Callbacks come in, some for an answer before the sync."""
        for _ in range(amount):
            callback = any_callback(self.history.next_number(), self.random)
            self.history.hand_over(callback, durable=self.random.random() < 0.7)
        self.history.world.writer.pause_in = self.random.choice((0, 0, 1, 2, 3))

    def look(self):
        """The forwarder lives, and everything up to the cursor stands in its queues."""
        if self.task.done():
            self.task.result()
        for position in range(self._looked_at + 1, self.history.journal.cursor + 1):
            callback = self.history.durable.get(position)
            if callback is None:
                assert position in self.history.lost, f"{position} is confirmed and not known"
            else:
                assert owed(callback) <= self.node.arrived[position], f"{position} is confirmed and not there"
            self._looked_at = position

    def end_well(self):
        """Everything works: what was ever acknowledged arrives."""
        self.history.tell([])
        self.be_good()
        until_s = self.history.clock.now_s + GOOD_S
        while self.history.pending or self.history.journal.cursor < self.history.journal.head:
            assert self.history.clock.now_s < until_s, "never confirmed"
            self.play("flow", 0, 0)
            self.history.do(asyncio.sleep(0.05))
        self.history.look()


@HOW
@given(st.sampled_from([1, 3, 10]), st.sampled_from([4, 40]), told(MOODS))
def test_what_was_acknowledged_arrives_in_order_whatever_dies(batch, unconfirmed, steps):
    """At least once, with one id, first arrivals of each key in the order of their positions."""
    config = BrokerConfig(
        url="amqp://model", declare="off", confirm_timeout_s=2.0,
        publish_batch_events=batch, max_unconfirmed=unconfirmed,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=FAST) as folder, mock.patch("gateway.forwarder.where", no_bugs):
        way = Way(Path(folder), config)
        try:
            way.history.open()
            way.live()
            for step in steps:
                way.play(*step)
            way.end_well()
            arrived = [position for position in way.history.durable if way.node.arrived[position]]
            assert arrived == list(way.history.durable)
            assert [order_breaks(queue) for queue in way.node.queues.values()] == [[], []]
        finally:
            way.history.end()
