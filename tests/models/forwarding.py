"""The forwarder between a journal and the model of RabbitMQ, watched: what it sends, when, and what it believes."""

import asyncio
import json
import math
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from gateway.broker import Unconfirmed
from gateway.callback import Callback
from gateway.errors import Unavailable
from gateway.journal import Stored

MAX_ITEMS = 3
"""Events of one callback, at most."""
COMMANDS = ("Group.CallbackAfterMemberExit", "Group.CallbackAfterNewMemberJoin", "Push.OfflinePush")


def callback(number, command, group, items):
    """Return a callback about *group* that says *number*, of *items* events where its command has several."""
    body = {"GroupId": f"g{group}", "EventTime": 1_670_574_414_123 + number}
    if command.startswith("Push."):
        body = {
            "Events": [
                {"GroupID": f"g{group}", "EventType": 2, "MsgKey": f"{number}-{at}"} for at in range(items)
            ]
        }
    query = f"SdkAppid=14&CallbackCommand={command}"
    return Callback("14", query, json.dumps(body).encode(), "192.0.2.1", number, True, 1, 10)


def owed(callback, *, is_bad=False):
    """Return which events of *callback* have to stand in which queue; a bad one goes out without its content."""
    if is_bad:
        return {("all", 0)}
    items = len(json.loads(callback.body).get("Events", [0]))
    return {("all", item) for item in range(items)} | (
        {("exits", 0)} if COMMANDS[0] in callback.query else set()
    )


def any_callback(number, random):
    """Return a callback of any kind that says *number*."""
    return callback(number, random.choice(COMMANDS), random.randrange(3), random.randint(1, MAX_ITEMS))


class Notebook:
    """The journal, as far as the forwarder needs it, without a disk."""

    id = "0123456789abcdef"
    oldest_waiting_ms = None

    def __init__(self):
        self.cursor = 0
        self._stored = []
        self._news = asyncio.Event()

    @property
    def head(self):
        return len(self._stored)

    @property
    def waiting(self):
        return self.head - self.cursor

    def append(self, callback):
        self._stored.append(callback)
        self._news.set()
        self._news = asyncio.Event()

    def read(self, after, max_records, max_bytes):
        found = self._stored[after : after + max_records]
        return [Stored(position, one) for position, one in enumerate(found, after + 1)]

    async def wait_for(self, after):
        while self.head <= after:
            await self._news.wait()

    def confirm(self, position):
        assert self.cursor < position <= self.head
        self.cursor = position


class Broken(BaseException):
    """What must hold does not; no handler for errors stops it."""


@contextmanager
def insisting():
    """Make a failed assertion pass the forwarder, which survives its own bugs."""
    try:
        yield
    except AssertionError as error:
        raise Broken(*error.args) from error


def no_bugs(error):
    """Stand in for what describes an exception in the log."""
    raise Broken("an exception was survived") from error


@dataclass
class Session:
    """One channel of the forwarder."""

    began_s: float
    futures: list = field(default_factory=list)
    """Of each batch: when it was sent, its last position, its future."""


class Watch:
    """The broker that the forwarder gets: hands on to the real one, and raises when what it does is not right."""

    def __init__(self, node, config, metrics, journal):
        self.node = node
        self._real = node.broker(config, metrics)
        self._config = config
        self._journal = journal
        self._failed_s = None
        self._careful_until = 0
        """Position; up to it callbacks go alone, each after the answer to the one before."""
        self._is_probing = False

    @asynccontextmanager
    async def publisher(self):
        now_s = self.node.clock.now_s
        with insisting():
            past_s = math.inf if self._failed_s is None else now_s - self._failed_s
            assert past_s >= self._config.reconnect_min_s / 2, "no pause after a failure"
        session = Session(now_s)
        try:
            async with self._real.publisher() as publisher:
                try:
                    yield _Watched(self, publisher, session)
                except Unavailable as fault:
                    with insisting():
                        self._note(fault, session)
                    raise
        except Unavailable:
            self._failed_s = self.node.clock.now_s
            raise

    def before_sending(self, session, events):
        """Compare what is about to be sent with the bounds."""
        places = [tuple(map(int, event.attributes["position"].split(".")[1:])) for event in events]
        positions = sorted({position for position, _ in places})
        assert places == sorted(places)
        if positions[0] <= self._careful_until:
            assert all(future.done() for *_, future in session.futures), "a probe beside another"
            assert len(positions) == 1 or not self._is_probing, "a probe with more than one callback"
        under_way = sum(size for _, size, last, _ in session.futures if last > self._journal.cursor)
        assert under_way < self._config.max_unconfirmed
        assert len(positions) <= self._config.publish_batch_events
        return positions[-1]

    def _note(self, fault, session):
        if self.node.connections:
            connection = self.node.connections[-1]
            for end in connection.ends.values():
                self.node.deafen(end)
            # What is still to be looked at may be a refusal.
            self.node.has_hidden_refusal |= any(one.frames.qsize() for one in connection.channels.values())
        futures = [future for *_, future in session.futures if future.done() and not future.cancelled()]
        if not isinstance(fault, Unconfirmed) or fault not in [future.exception() for future in futures]:
            return
        if fault.reason in ("nacked", "returned", "deadline", "rejected"):
            last = max(last for _, _, last, _ in session.futures)
            self._is_probing = fault.reason != "rejected"
            self._careful_until = max(self._careful_until, last)
        if fault.reason == "deadline":
            waiting = [at_s for at_s, _, last, _ in session.futures if last > self._journal.cursor]
            waited_s, holds = self.node.open_s(waiting[0])
            silent_s, _ = self.node.open_s(max(waiting[0], self.node.told_s))
            # Whether the node reads is looked at every quarter of a second.
            slack_s = 0.6 + 0.3 * holds
            assert waited_s > self._config.confirm_timeout_s - slack_s, "a deadline too soon"
            assert silent_s < self._config.confirm_timeout_s + slack_s, "a deadline too late"


@dataclass
class _Watched:
    watch: Watch
    publisher: object
    session: Session

    async def send(self, events):
        with insisting():
            last = self.watch.before_sending(self.session, events)
        at_s = self.watch.node.clock.now_s
        future = await self.publisher.send(events)
        self.session.futures.append((at_s, len(events), last, future))
        return future


def first_arrivals(messages):
    """Return the messages without their copies."""
    seen = set()
    return [one for one in messages if not (one.place in seen or seen.add(one.place))]


def order_breaks(queue):
    """Return the messages of *queue* whose first arrival was behind that of a later one of the same key."""
    newest, late = {}, []
    for message in first_arrivals(queue):
        if message.place < newest.get(message.key, (0, 0)):
            late.append(message)
        else:
            newest[message.key] = message.place
    return late
