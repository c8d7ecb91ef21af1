"""What a broker may do next, step by step: each step has a mood, an amount and its own chance."""

import asyncio
from random import Random

from hypothesis import strategies as st

from tests.models.rabbit import EXIT

WAITS_S = (0.002, 0.05, 0.3, 0.6, 1.1, 1.7, 2.2, 3.0, 10.0, 100.0)
CALM = (*["trickle"] * 6, *["wait"] * 3, "flow", "flow", "drop", "away", "hold", "late")
SPITE = ("refuse", "refuse", "tear")
TYPES = {EXIT, "im.group.member.joined", "im.push.offline_push.reported"}


def told(moods):
    """Steps of a story."""
    step = st.tuples(st.sampled_from(moods), st.integers(0, len(WAITS_S) - 1), st.integers(0, 999))
    return st.lists(step, min_size=1, max_size=50)


class Moods:
    """Plays steps on *node*. Those who play more name their moods as methods too."""

    def __init__(self, node):
        self.node = node
        self.random = Random(0)
        self._spells = {}
        """What ends a mood, and after how many steps more."""

    async def step(self, mood, amount, seed):
        self.random = Random(seed)
        self._spells = {one: left - 1 for one, left in self._spells.items()}
        for end in [one for one, left in self._spells.items() if left < 0]:
            del self._spells[end]
            end()
        result = getattr(self, mood)(amount)
        if result is not None:
            await result
        for _ in range(3):
            await asyncio.sleep(0.001)
            if mood != "wait":
                self.node.greet()

    def be_good(self):
        """End every mood."""
        for end in (self.back, self.read_on, self.unjam, self.accept):
            end()
        self._spells.clear()

    def flow(self, amount):
        """The node does all its work, and confirms in one of several ways."""
        for connection in self.node.connections:
            self.node.take_in(connection, 10**6)
            for number, end in connection.ends.items():
                for queue in list(end.lanes):
                    self.node.store(end, queue, 10**6)
                if amount % 3 == 0:
                    for _ in range(len(end.missing)):
                        self.node.confirm_run(connection, number)
                tags = sorted(end.missing)
                if amount % 3 == 2:
                    self.random.shuffle(tags)
                self.node.confirm(connection, number, tags)
            connection.hear(10**6)

    def trickle(self, amount):
        """The node does a bit of everything."""
        for connection in self.node.connections[-1:]:
            self.node.take_in(connection, self.random.choice((1, amount, 10 * amount)))
            for number, end in connection.ends.items():
                for queue in list(end.lanes):
                    self.node.store(end, queue, self.random.randint(0, amount))
                if self.random.random() < 0.4:
                    self.node.confirm_run(connection, number)
                tags = [tag for tag in end.missing if self.random.random() < 0.5]
                self.random.shuffle(tags)
                self.node.confirm(connection, number, tags)
            connection.hear(self.random.choice((0, 1, amount, 100)))

    def late(self, amount):
        """A connection that is long gone still has something on its way."""
        if self.node.connections:
            connection = self.random.choice(self.node.connections)
            self.node.take_in(connection, self.random.choice((amount, 10 * amount)))
            for end in connection.ends.values():
                for queue in list(end.lanes):
                    self.node.store(end, queue, self.random.randint(0, amount))

    async def wait(self, amount):
        """Nothing happens, but that channels are opened for a moment more, perhaps."""
        for _ in range(self.random.choice((0, 6))):
            self.node.greet()
            await asyncio.sleep(0.0001)
        await asyncio.sleep(WAITS_S[amount])

    def drop(self, amount):
        return self.node.drop()

    def away(self, amount):
        self.node.is_away = True
        self._spells[self.back] = amount // 2
        return self.node.drop()

    def back(self):
        self.node.is_away = False

    def hold(self, amount):
        """The node reads no publishes (an alarm)."""
        self.node.hold(True)
        self._spells[self.read_on] = amount // 2

    def read_on(self):
        self.node.hold(False)

    def jam(self, amount):
        """Nothing goes out to the network, so that who publishes has to wait."""
        self.node.is_writing.clear()
        self._spells[self.unjam] = amount

    def unjam(self):
        self.node.is_writing.set()

    def refuse(self, amount):
        """One queue or both refuse some of what comes, or all."""
        random, queues = self.random, self.random.choice((("all",), ("exits",), ("all", "exits")))
        share = random.choice((0.2, 0.5, 1.0))
        self.node.refuses = lambda queue, message: queue in queues and random.random() < share
        self._spells[self.accept] = amount

    def accept(self):
        self.node.refuses = lambda queue, message: False

    def tear(self, amount):
        """The topology is broken, till it is declared again: some events, or all, go nowhere."""
        self.node.torn = set(TYPES) if amount % 2 else {EXIT}
