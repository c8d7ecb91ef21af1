"""Publishing in batches over one channel: prepared frames, one write a batch, confirms counted here.

Replaces aiormq's own handling of confirms and returns: that matches a return by message id, which several
publishes share, and takes the acknowledgement that follows a return for success.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiormq
from aiormq import exceptions as amqp
from aiormq.abc import ChannelFrame
from pamqp import commands as spec
from pamqp.header import ContentHeader

from gateway.broker.rabbitmq.confirms import Batch, UnconfirmedBatches
from gateway.broker.rabbitmq.frames import publish_frames
from gateway.broker.rabbitmq.link import close_channel, is_blocked, lost, or_closed
from gateway.config import Broker as BrokerConfig
from gateway.errors import Unavailable
from gateway.metrics import Metrics

_log = logging.getLogger(__name__)
PUBLISH_TAG = "publish-tag"
"""Header unique per publish on a channel: its delivery tag. A returned message is known by it."""

_REJECTIONS = (
    amqp.ChannelPreconditionFailed,
    amqp.ConnectionSyntaxError,
    amqp.ConnectionFrameError,
    amqp.ConnectionUnexpectedFrame,
)
_REJECTION_CODES = (311,)  # content too large
_TICK_S = 0.25


def ignore(_: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message to publish; ``headers`` are application headers."""

    exchange: str
    routing_key: str
    body: bytes
    headers: dict[str, str | int]
    message_id: str = ""
    type: str = ""
    expiration_ms: int | None = None


class ConfirmChannel(aiormq.Channel):
    """A channel in confirm mode whose acknowledgements, refusals and returns go to ``unconfirmed``."""

    unconfirmed: UnconfirmedBatches | None = None

    async def _on_confirm_frame(self, frame: spec.Basic.Ack | spec.Basic.Nack | spec.Basic.Reject) -> None:
        failure = "nacked" if isinstance(frame, spec.Basic.Nack) else ""
        if self.unconfirmed is not None:
            self.unconfirmed.settle(
                frame.delivery_tag or 0, is_multiple=bool(getattr(frame, "multiple", False)), failure=failure
            )

    async def _on_return_frame(self, frame: spec.Basic.Return) -> None:
        header = await self._get_frame()
        if not isinstance(header, ContentHeader):
            raise amqp.InvalidFrameError(header)
        await self._read_content(frame, header)
        tag = (header.properties.headers or {}).get(PUBLISH_TAG)
        if self.unconfirmed is not None and isinstance(tag, int):
            detail = f"no queue takes what exchange {frame.exchange or '(default)'} holds"
            self.unconfirmed.mark(tag, "returned", detail)


class Publisher:
    """Publishes messages over one channel: events, and the copies that are parked, retried and rescued."""

    def __init__(
        self,
        channel: ConfirmChannel,
        config: BrokerConfig,
        metrics: Metrics,
        on_send: Callable[[str], None] = ignore,
        on_refused: Callable[[str], None] = ignore,
    ) -> None:
        """Take *on_send*, called with when the oldest event of what is being sent was received.

        *on_refused* is called with the routing key of a message that some queue did not take.
        """
        self._channel = channel
        self._config = config
        self._metrics = metrics
        self._tag = 0
        self._is_broken = False
        self._was_blocked = False
        self._unconfirmed = channel.unconfirmed = UnconfirmedBatches(on_refused=on_refused)
        self._on_send = on_send
        self.lock = asyncio.Lock()
        """Held while frames are written: who holds it keeps everybody from publishing here."""
        self._watch = asyncio.ensure_future(self._watch_deadlines())
        self._closing = channel.closing
        self._closing.add_done_callback(self._on_closed)

    @property
    def is_closed(self) -> bool:
        """The channel is gone; a new publisher is needed."""
        return self._is_broken or self._closing.done() or bool(self._channel.is_closed)

    @property
    def oldest(self) -> str:
        """When the oldest unconfirmed event was received; empty without one."""
        return min((one.received for one in self._unconfirmed.batches if one.received), default="")

    async def send(self, messages: Sequence[Message], received: str = "") -> asyncio.Future[None]:
        """Write *messages* in order; return the future of all their confirms. Raises Unavailable.

        *received* is when the gateway received the oldest of them, where that is known.
        """
        if not messages:
            nothing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            nothing.set_result(None)
            return nothing
        async with self.lock:  # Why: tags are counted, so frames must be queued in the order of their tags
            # While the broker refuses to read (an alarm), nothing is written.
            await or_closed(self._channel.connection.ready(), self._closing)
            if self._is_broken:
                raise Unavailable("closed", "an earlier publish on this channel was given up half-way")
            first = self._tag + 1
            payload = b"".join(self._frames(message, first + at) for at, message in enumerate(messages))
            self._tag += len(messages)
            tags = set(range(first, self._tag + 1))
            keys = [message.routing_key for message in messages]
            batch = Batch(asyncio.get_running_loop().create_future(), tags, self._tag, keys, received)
            self._unconfirmed.batches.append(batch)
            self._on_send(received)
            frame = ChannelFrame(payload=payload, should_close=False)
            try:
                await or_closed(self._channel.write_queue.put(frame), self._closing)
            except BaseException:
                self._is_broken = True  # tags are counted that were never sent
                raise
            return batch.future

    async def close(self) -> None:
        """Close the channel; what is unconfirmed fails with ``closed``."""
        self._watch.cancel()
        self._unconfirmed.fail_all("closed", "the channel was closed")
        await close_channel(self._channel)

    def _on_closed(self, closing: asyncio.Future[object]) -> None:
        self._watch.cancel()
        error = None if closing.cancelled() else closing.exception()
        why = lost(closing)
        if isinstance(error, _REJECTIONS) or _code(error) in _REJECTION_CODES:
            reason = "rejected"
        else:
            reason = "no_rights" if why.reason == "no_rights" else "closed"
        self._unconfirmed.fail_all(reason, why.detail)

    async def _watch_deadlines(self) -> None:
        """Fail everything once the oldest batch has had no confirm for too long.

        Time while blocked does not count, nor does the time in which its events are confirmed one by one:
        on a slow link that takes long, and sending them again would take longer.
        """
        seen, waited_s = None, 0.0
        while True:
            await asyncio.sleep(_TICK_S)
            is_held = await is_blocked(self._channel.connection)
            self._note_blocked(is_held)
            oldest = self._unconfirmed.batches[0] if self._unconfirmed.batches else None
            state = (oldest.last_tag, len(oldest.pending)) if oldest else None
            # Why ticks instead of the clock: a process that was suspended has confirms to read first.
            waited_s = 0.0 if is_held or state != seen else waited_s + _TICK_S
            seen = state
            if oldest and waited_s > self._config.confirm_timeout_s:
                detail = f"no confirm within broker.confirm_timeout_s ({self._config.confirm_timeout_s:g} s)"
                self._unconfirmed.fail_all("deadline", detail)

    def _note_blocked(self, is_blocked: bool) -> None:
        self._metrics.broker_blocked.set(is_blocked)
        if is_blocked != self._was_blocked:
            self._was_blocked = is_blocked
            if is_blocked:
                _log.warning("RabbitMQ refuses to read publishes (a memory or disk alarm); events wait")
            else:
                _log.info("RabbitMQ reads publishes again")

    def _frames(self, message: Message, tag: int) -> bytes:
        return publish_frames(
            self._channel.number,
            self._channel.max_content_size,
            message.exchange,
            message.routing_key,
            message.body,
            {**message.headers, PUBLISH_TAG: tag},
            message.message_id,
            message.type,
            message.expiration_ms,
        )


def _code(error: BaseException | None) -> object:
    return error.args[0] if error is not None and error.args else None
