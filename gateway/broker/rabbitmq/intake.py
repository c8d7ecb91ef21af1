"""Takes deliveries out of what RabbitMQ sends, as they come; all else goes the general way, through aiormq.

aiormq and pamqp spend 45 us on the three frames of a delivery, nearly half of a worker's time; this spends 5.
Source: AMQP 0-9-1, 2.3.5 and 4.2.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from gateway.broker.rabbitmq.arrival import Arrival, Properties, properties_of, route_of

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, 0xCE
_DELIVER = b"\x00\x3c\x00\x3c"  # class 60, method 60
_HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_HEAD_BYTES = 7
_ALIVE_S = 1.0
_frame_head = struct.Struct(">BHI").unpack_from
_tag = struct.Struct(">Q?").unpack_from


Take = Callable[[Arrival], None]


class _Channel:
    """What has come of the delivery that is under way on one channel."""

    __slots__ = ("left", "method", "parts", "properties", "take")

    def __init__(self, take: Take) -> None:
        self.take = take
        self.method: tuple[int, bool, str, str] | None = None
        self.properties: Properties | None = None
        self.parts: list[bytes] = []
        self.left = 0

    def hand_over(self, method: tuple[int, bool, str, str], properties: Properties, body: bytes) -> None:
        self.method = self.properties = None
        self.parts.clear()
        self.take(Arrival(*method, properties, body))


class Intake(asyncio.StreamReader):
    """The stream that aiormq reads, without the deliveries of channels that were opened here.

    These overtake what aiormq has not read yet. None is left out silently: after a frame that can't be right
    the stream ends with ConnectionResetError, because an acknowledgement may cover what was left out.
    Bound: a frame that is not whole, a body for each channel.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int = 65_536) -> None:
        super().__init__(limit, loop)
        self._clock = loop.time
        self._channels: dict[int, _Channel] = {}
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._wanted_bytes = 8
        """So many make the first frame of what is held a whole one, as far as is known."""
        self._alive_s = 0.0
        self._is_foreign = self._is_broken = False

    def open(self, number: int, take: Take) -> None:
        """Give the deliveries of channel *number* to *take* from now on."""
        self._channels[number] = _Channel(take)

    def shut(self, number: int, take: Take) -> None:
        """Forget channel *number*, unless another one has its number meanwhile."""
        if number in self._channels and self._channels[number].take == take:
            del self._channels[number]

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # a loop gives nothing else
        if self._is_foreign:
            super().feed_data(data)
        if self._is_foreign or self._is_broken:
            return
        self._held.append(data)
        self._held_bytes += len(data)
        # Why only then: a frame that comes in many small parts would be copied again and again.
        if self._held_bytes < self._wanted_bytes:
            return
        held = b"".join(self._held)
        passed: list[bytes] = []
        try:
            rest = held[self._sift(held, passed) :]
        except (struct.error, IndexError, ValueError) as error:
            self._is_broken = True
            self._held.clear()
            self.set_exception(ConnectionResetError(f"no delivery as AMQP has it ({type(error).__name__})"))
            return
        self._held = [rest] if rest else []
        self._held_bytes = len(rest)
        if passed:
            super().feed_data(b"".join(passed))

    def feed_eof(self) -> None:
        if self._held and not self._is_broken:
            super().feed_data(b"".join(self._held))
        super().feed_eof()

    def _sift(self, data: bytes, passed: list[bytes]) -> int:
        """Hand over the deliveries in *data*, add what is none to *passed*; return where the rest begins.

        Raises struct.error, IndexError or ValueError for what is not AMQP.
        """
        at, from_at, size = 0, 0, len(data)
        self._wanted_bytes = 8
        while at + 8 <= size:
            kind, number, length = _frame_head(data, at)
            end = at + length + 8
            if kind not in (_METHOD, _HEADER, _BODY, 8):
                self._is_foreign = True  # no AMQP, or another version; aiormq says so
                at = size
                break
            if end > size:
                self._wanted_bytes = end - at
                break
            if number in self._channels and self._take_frame(self._channels[number], data, kind, at, end):
                if from_at < at:
                    passed.append(data[from_at:at])
                from_at = end
            at = end
        if from_at < at:
            passed.append(data[from_at:at])
        return at

    def _take_frame(self, channel: _Channel, data: bytes, kind: int, at: int, end: int) -> bool:
        """Take the frame from *at* to *end* if it is part of a delivery; return whether it is."""
        method, properties = channel.method, channel.properties
        last = end - 1
        if data[last] != _END:
            raise ValueError("no end of a frame")
        if method is None:
            if kind != _METHOD or not data.startswith(_DELIVER, at + _HEAD_BYTES):
                return False
            at += _HEAD_BYTES + 4
            at += 1 + data[at]  # the consumer tag: which channel it is says enough
            tag, is_redelivered = _tag(data, at)
            channel.method = tag, is_redelivered, *route_of(data[at + 9 : last])
            self._show_alive()
            return True
        if properties is None:
            if kind != _HEADER:
                raise ValueError("no header behind the method")
            properties = properties_of(data, at, end)
            if properties.body_bytes:
                channel.properties, channel.left = properties, properties.body_bytes
            else:
                channel.hand_over(method, properties, b"")
            return True
        if kind != _BODY:
            raise ValueError("no body behind the header")
        part = data[at + _HEAD_BYTES : last]
        channel.left -= len(part)
        if channel.left < 0:
            raise ValueError("a longer body than was said")
        if not channel.left:
            channel.hand_over(method, properties, b"".join((*channel.parts, part)) if channel.parts else part)
        else:
            channel.parts.append(part)
        return True

    def _show_alive(self) -> None:
        """Let aiormq know that something comes: RabbitMQ sends no heartbeats while it sends deliveries."""
        now_s = self._clock()
        if now_s - self._alive_s >= _ALIVE_S:
            self._alive_s = now_s
            super().feed_data(_HEARTBEAT)
