"""A RabbitMQ that does whatever the protocol allows: slow, moody, forgetful. It speaks frames with our client.

Each queue takes what comes through one channel in order; a message is confirmed once all its queues have it or
one has refused it. When a channel ends, what its queues have not taken yet is lost, the later part of each.
"""

import asyncio
import json
from collections import defaultdict, deque
from dataclasses import dataclass, field

import pamqp.frame
from aiormq import exceptions as amqp
from aiormq.base import Base
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from gateway.broker.rabbitmq import RabbitMQ
from gateway.errors import Unavailable
from gateway.topology import Topology

FRAME_MAX = 300
"""Smaller than the events, so that each body travels in several frames."""
CONTENT = (
    spec.Basic.Publish,
    spec.Basic.Return,
    spec.Basic.Ack,
    spec.Basic.Nack,
    spec.Channel.Close,
    ContentHeader,
    ContentBody,
)
EXIT = "im.group.member.exited"


@dataclass(frozen=True)
class Message:
    """One event as it was published."""

    position: int
    item: int
    id: str
    type: str
    key: str
    frames: tuple = field(repr=False, compare=False)
    exchange: str = field(default="im.events", compare=False)

    @property
    def place(self):
        return self.position, self.item


class Connection(Base):
    """The client's end, as far as channels use it. What they write waits on ``wire`` for the node to read."""

    publisher_confirms = basic_nack = True

    def __init__(self, node):
        super().__init__(loop=asyncio.get_running_loop())
        self.node = node
        self.connection_tune = spec.Connection.Tune(2047, FRAME_MAX, 10)
        self.write_queue = asyncio.Queue(2)  # small, so that senders have to wait
        self.channels = {}
        self.is_cut = False
        """The client has given it up, or its process is dead."""
        self.wire = deque()
        self.outbox = deque()
        """What the node has said and the client not heard yet."""
        self.ends = {}
        """The node's ends of the channels, by number."""
        self._writer = self.create_task(self._write())

    def __str__(self):
        return "model"

    @property
    def is_opened(self):
        return not self.is_closed and not self.is_cut

    async def ready(self):
        await self.node.is_reading.wait()

    async def _write(self):
        while True:
            payload = (await self.write_queue.get()).payload
            await self.node.is_writing.wait()
            while payload:
                size, number, frame = pamqp.frame.unmarshal(payload)
                payload = payload[size:]
                self.wire.append((number, frame))

    async def _on_close(self, exc=None):
        if not self._closing.done():
            self._closing.set_exception(exc)

    def hear(self, count):
        """Let the client hear the first *count* frames of what the node has said."""
        for _ in range(min(count, len(self.outbox))):
            number, frame, refused = self.outbox.popleft()
            channel = self.channels.get(number)
            if isinstance(frame, (spec.Channel.Close, spec.Channel.CloseOk)):
                self.channels.pop(number, None)
            if channel is not None:
                channel.frames.put_nowait((0, frame))
                self.node.told_s = self.node.clock.now_s
                if not self.ends[number].is_deaf:
                    self.ends[number].untold -= refused


@dataclass
class ChannelEnd:
    """The node's end of a channel."""

    tag: int = 0
    is_closed: bool = False
    is_deaf: bool = False
    """The client does not listen any more."""
    frames: list = field(default_factory=list)
    """Of the message that is coming in."""
    lanes: dict = field(default_factory=dict)
    """Per queue what it has not taken yet: tag and message."""
    missing: dict = field(default_factory=dict)
    """Per tag how many queues still have to take it."""
    refused: set = field(default_factory=set)
    """Tags that a queue has refused, and that are not confirmed yet."""
    untold: set = field(default_factory=set)
    """Tags that were refused or returned, and the client has not heard of it."""
    silent: dict = field(default_factory=dict)
    """Tags that can be confirmed now: True for an ack, False for a nack."""


class Node:
    """The broker. Queues ``all`` and ``exits``; lists of messages in the order of their arrival."""

    def __init__(self, clock, draw_lost):
        """``draw_lost(count)`` says how many of *count* messages are lost with their channel."""
        self.clock = clock
        self.queues = {"all": [], "exits": []}
        self.connections = []
        self.is_reading = asyncio.Event()
        self.is_reading.set()
        self.is_writing = asyncio.Event()
        self.is_writing.set()
        self.is_away = False
        self.refuses = lambda queue, message: False
        self.torn = set()
        """Types of events that go nowhere, until the topology is declared again."""
        self.bad = set()
        """Positions whose content makes the node close the channel."""
        self.seen = {}
        """Each event by position, item and type."""
        self.arrived = defaultdict(set)
        """By position, which of its events stand in which queue."""
        self.refused = set()
        """Position and item of what a queue refused, or that went nowhere."""
        self.told_s = 0.0
        """When the client heard something last."""
        self.has_hidden_refusal = False
        """A refusal was never told, because the channel was gone before."""
        self._draw_lost = draw_lost
        self._held = [(clock.now_s, False)]

    def broker(self, config, metrics):
        """Return the gateway's broker, connected to this node."""
        broker = RabbitMQ(config, Topology.of("im.events", {"all": ("#",), "exits": (f"{EXIT}.#",)}), metrics)
        link = broker._publish_link
        link.get, link.cut = self._connect, self._cut
        return broker

    async def _connect(self):
        if not self.connections or not self.connections[-1].is_opened:
            if self.is_away:
                raise Unavailable("refused", "the node is away")
            self.connections.append(Connection(self))
        return self.connections[-1]

    def _cut(self, connection):
        """End *connection* at once, as the client does with one that says nothing."""
        connection.is_cut = True
        self._cutting = asyncio.ensure_future(self.drop(connection))

    def bury_clients(self):
        """Note that the clients' process is dead. What is on the wire may still be read."""
        for connection in self.connections:
            connection.is_cut = True
            connection.channels.clear()
            for end in connection.ends.values():
                self.deafen(end)
        # A new loop needs its own.
        self.is_reading, self.is_writing = _same(self.is_reading), _same(self.is_writing)

    # Moods

    def hold(self, is_held):
        """Tell the clients that nothing is read any more (connection.blocked), or that it is again."""
        (self.is_reading.clear if is_held else self.is_reading.set)()
        self._held.append((self.clock.now_s, is_held))

    def open_s(self, since_s):
        """Return for how many seconds since *since_s* publishes were read, and how often they were not."""
        ends = [*(at_s for at_s, _ in self._held[1:]), self.clock.now_s]
        spans = [
            (max(at_s, since_s), end_s)
            for (at_s, held), end_s in zip(self._held, ends, strict=True)
            if not held
        ]
        holds = sum(held and end_s > since_s for (_, held), end_s in zip(self._held, ends, strict=True))
        return sum(max(0.0, end_s - at_s) for at_s, end_s in spans), holds

    async def drop(self, connection=None):
        """Lose *connection*, or the newest. What is on the wire may still be read; nobody hears the answers."""
        connection = connection or (self.connections[-1] if self.connections else None)
        if connection is not None and not connection.is_closed:
            await connection.close(amqp.ConnectionClosed(320, "the connection is gone"))
            for end in connection.ends.values():
                self.deafen(end)

    def deafen(self, end):
        """Note that the client does not listen any more: what it was not told it never will be."""
        end.is_deaf = True
        self.has_hidden_refusal |= bool(end.untold)

    def _refuse(self, end, tag, message):
        self.refused.add(message.place)
        end.untold.add(tag)
        self.has_hidden_refusal |= end.is_deaf

    # Work

    def take_in(self, connection, count):
        """Read *count* frames that *connection* has sent."""
        for _ in range(min(count, len(connection.wire))):
            number, frame = connection.wire.popleft()
            end = connection.ends.get(number)
            if isinstance(frame, spec.Channel.Open):
                self.torn.clear()  # a channel comes with a declaration
                connection.ends[number] = ChannelEnd()
                self._say(connection, number, spec.Channel.OpenOk())
            elif end is None or (end.is_closed and not isinstance(frame, spec.Channel.Close)):
                continue
            elif isinstance(frame, spec.Confirm.Select):
                self._say(connection, number, spec.Confirm.SelectOk())
            elif isinstance(frame, spec.Channel.Close):
                self._close(end)
                self._say(connection, number, spec.Channel.CloseOk())
            else:
                end.frames.append(frame)
                if isinstance(frame, ContentBody) and _is_whole(end.frames):
                    self._published(connection, number, end, _message(end.frames))
                    end.frames = []

    def greet(self):
        """Open and close channels at once, where that is what comes next: most brokers do."""
        for connection in self.connections[-1:]:
            while connection.wire and not isinstance(connection.wire[0][1], CONTENT):
                self.take_in(connection, 1)
            while connection.outbox and not isinstance(connection.outbox[0][1], CONTENT):
                connection.hear(1)

    def store(self, end, queue, count):
        """Let *queue* take *count* messages that wait for it."""
        lane = end.lanes.get(queue, ())
        for _ in range(min(count, len(lane))):
            tag, message = lane.popleft()
            if self.refuses(queue, message):
                end.refused.add(tag)
                self._refuse(end, tag, message)
            else:
                self.queues[queue].append(message)
                self.arrived[message.position].add((queue, message.item))
            end.missing[tag] -= 1
            if not end.missing[tag]:
                end.silent[tag] = tag not in end.refused

    def confirm(self, connection, number, tags):
        """Confirm *tags* one by one, as far as they can be."""
        end = connection.ends[number]
        for tag in () if end.is_closed else tags:
            if tag in end.silent:
                self._answer(connection, number, tag, multiple=False)

    def confirm_run(self, connection, number):
        """Confirm with one frame as many as can be from the oldest on."""
        end = connection.ends[number]
        run = []
        for tag in sorted(end.missing):
            if tag not in end.silent or (run and end.silent[tag] != end.silent[run[0]]):
                break
            run.append(tag)
        if run and not end.is_closed:
            self._answer(connection, number, run[-1], multiple=True)

    def _answer(self, connection, number, tag, *, multiple):
        end = connection.ends[number]
        frame = (spec.Basic.Ack if end.silent[tag] else spec.Basic.Nack)(tag, multiple)
        settled = {one for one in end.missing if one == tag or (multiple and one < tag)}
        for one in settled:
            del end.missing[one], end.silent[one]
        self._say(connection, number, frame, end.refused & settled)
        end.refused -= settled

    def _published(self, connection, number, end, message):
        is_bad = message.position in self.bad
        assert message.type != "im.malformed" or is_bad, "an event has lost its content"
        known = self.seen.setdefault((*message.place, message.type), message)
        assert known == message, "an event came again as another one"
        end.tag += 1
        if is_bad and message.type != "im.malformed":
            self._close(end)
            self._say(connection, number, spec.Channel.Close(406, "PRECONDITION_FAILED - content", 60, 40))
            return
        queues = _queues(message)
        if message.exchange == "im.events" and message.type in self.torn:
            queues = []
        end.missing[end.tag] = len(queues)
        for queue in queues:
            end.lanes.setdefault(queue, deque()).append((end.tag, message))
        if not queues:
            end.silent[end.tag] = True
            _, header, *body = message.frames
            self._refuse(end, end.tag, message)
            *first, last = spec.Basic.Return(312, "NO_ROUTE", "im.events", "x"), header, *body
            for frame in first:
                self._say(connection, number, frame)
            # Why the last: its tag stands in a header, which is read with the whole message.
            self._say(connection, number, last, {end.tag})

    def _close(self, end):
        end.is_closed = True
        for queue, lane in end.lanes.items():
            self.store(end, queue, len(lane) - self._draw_lost(len(lane)))
            lane.clear()

    def _say(self, connection, number, frame, refused=frozenset()):
        connection.outbox.append((number, frame, refused))


def _same(event):
    fresh = asyncio.Event()
    if event.is_set():
        fresh.set()
    return fresh


def _is_whole(frames):
    return sum(len(frame.value) for frame in frames[2:]) >= frames[1].body_size


def _message(frames):
    publish, header, *body = frames
    event = json.loads(b"".join(frame.value for frame in body))
    _, position, item = event["position"].split(".")
    assert publish.mandatory
    assert header.properties.delivery_mode == 2
    assert header.properties.message_id == event["id"]
    assert publish.routing_key == f"{event['type']}.{event['appid']}"
    return Message(
        int(position), int(item), event["id"], event["type"],
        header.properties.headers["partitionkey"], tuple(frames), publish.exchange,
    )  # fmt: skip


def _queues(message):
    taken = ["all", "exits"] if message.type == EXIT else ["all"]
    return taken if message.exchange == "im.events" else [message.exchange.removeprefix("im.sink.")]
