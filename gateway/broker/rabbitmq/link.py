"""One supervised connection to RabbitMQ: opened on demand, one attempt at a time, several hosts in turn.

It does not retry by itself: whoever needs it waits with its own backoff and asks again. Every request has a
deadline; a connection on which one passes is torn down, so that the next attempt has a fresh one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import aio_pika
import aiormq
from aiormq import exceptions as amqp
from aiormq.connection import TransportFactory
from yarl import URL

from gateway.broker.rabbitmq.direct import DirectChannel
from gateway.broker.rabbitmq.faults import explain, in_our_words
from gateway.broker.rabbitmq.intake import Intake
from gateway.config import Broker as BrokerConfig
from gateway.errors import Unavailable
from gateway.metrics import Metrics

_CLOSE_S = 5.0
_MOST_CHANNELS = 2000  # Source: RabbitMQ allows 2047 a connection unless told otherwise
T = TypeVar("T")
Channel = TypeVar("Channel", bound=aiormq.Channel)


class _Wire(TransportFactory):
    """Opens TCP or TLS and keeps hold of it: only so can a connection be ended with what it has buffered."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self.intake: Intake | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.is_cut = False

    async def create(self, url: URL, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        self.intake = intake = Intake(loop)
        protocol = asyncio.StreamReaderProtocol(intake, loop=loop)
        made = await loop.create_connection(
            lambda: protocol, url.host or "", url.port or 0, ssl=self._context
        )
        self._writer = asyncio.StreamWriter(made[0], protocol, intake, loop)
        return intake, self._writer

    def cut(self) -> None:
        """End it at once; nothing more is sent, not even what was written before."""
        self.is_cut = True
        if self._writer is not None:
            self._writer.transport.abort()


class Link:
    """The connection of one *role*, ``publish`` or ``consume``.

    Publishing never shares one with consuming: a broker that refuses publishes stops reading the whole
    connection, acknowledgements included.
    """

    def __init__(self, config: BrokerConfig, role: str, metrics: Metrics) -> None:
        self._config = config
        self._role = role
        self._connected = metrics.broker_connected.labels(role)
        self._pika: aio_pika.Connection | None = None
        self._wire = _Wire(None)
        self._lock = asyncio.Lock()
        self._next_host = 0
        self._next_channel = 1

    @property
    def url(self) -> URL:
        """The URL of the host that is connected to, or was last."""
        return URL(self._config.urls[self._next_host % len(self._config.urls)])

    def twin(self) -> Link:
        """Return another connection to the same host, for what may cost it; no metric tells of it."""
        twin = Link(self._config, "look", Metrics())
        twin._next_host = self._next_host
        return twin

    async def get(self) -> aiormq.abc.AbstractConnection:
        """Return the open connection, or make one; Unavailable when no host takes us."""
        async with self._lock:
            connection = self._connection
            # Why not is_closed: a connection whose reader has ended may take long to be closed.
            if connection is not None and connection.is_opened and not self._wire.is_cut:
                return connection
            await self._drop()
            return await self._connect()

    async def channel(self, make: type[Channel], *, confirms: bool) -> Channel:
        """Open a channel of class *make*; Unavailable when the connection is lost meanwhile.

        Waits while the broker does not read the connection because of an alarm.
        """
        connection = await self.get()
        intake = self._wire.intake
        closing = connection.closing
        try:
            await or_closed(connection.ready(), closing)
        finally:
            closing.cancel()
        number = self._free_number(connection)
        channel = make(connection, number, publisher_confirms=confirms, on_return_raises=False)
        connection.channels[number] = channel
        if isinstance(channel, DirectChannel) and intake is not None:
            intake.open(number, channel.deliver)
            channel.closing.add_done_callback(lambda _: intake.shut(number, channel.deliver))
        try:
            await self.guard(channel.open())
        except Unavailable as fault:
            # Why: no queue has a part in opening a channel, so it is the connection that says nothing.
            if fault.reason == "timeout" and not await is_blocked(connection):
                self.cut(connection)
            raise
        return channel

    async def guard(self, call: Awaitable[T]) -> T:
        """Await *call*, an AMQP request; what can go wrong with the connection becomes Unavailable."""
        with in_our_words():
            async with asyncio.timeout(self._config.connect_timeout_s * 4):
                return await call

    def cut(self, connection: aiormq.abc.AbstractConnection) -> None:
        """End *connection* at once, if it is still ours, with all that waits to be sent on it."""
        if connection is self._connection:
            self._wire.cut()

    async def close(self) -> None:
        """Close the connection; safe when there is none."""
        async with self._lock:
            await self._drop()

    @property
    def _connection(self) -> aiormq.abc.AbstractConnection | None:
        """The connection below aio-pika's, where frames are written."""
        transport = self._pika.transport if self._pika is not None else None
        return transport.connection if transport is not None else None

    async def _connect(self) -> aiormq.abc.AbstractConnection:
        faults = []
        for _ in self._config.urls:
            url = self.url
            try:
                self._pika = await self._try(url)
            except Unavailable as fault:
                faults.append((url, fault))
                self._next_host += 1
                continue
            self._next_channel = 1
            self._connected.set(1)
            assert self._connection is not None
            self._connection.closing.add_done_callback(self._on_closed)
            return self._connection
        places = "; ".join(f"{url.host}:{url.port or 5672}: {fault.detail}" for url, fault in faults)
        raise Unavailable(faults[-1][1].reason, places)

    async def _try(self, url: URL) -> aio_pika.Connection:
        self._wire = wire = _Wire(self._ssl() if url.scheme == "amqps" else None)
        connection = aio_pika.Connection(
            url.update_query(heartbeat=str(self._config.heartbeat_s)),
            client_properties={"connection_name": f"im-callback-gateway {self._role}"},
        )
        # Why so: aio-pika has no argument for who opens the socket, but passes all of these on to aiormq.
        connection.kwargs["transport_factory"] = wire
        try:
            with in_our_words():
                async with asyncio.timeout(self._config.connect_timeout_s):
                    await connection.connect()
        except BaseException:
            wire.cut()
            raise
        return connection

    def _on_closed(self, closing: asyncio.Future[Any]) -> None:
        if not closing.cancelled():
            closing.exception()  # Why: read once, or asyncio reports it as never retrieved
        self._connected.set(0)

    def _free_number(self, connection: aiormq.abc.AbstractConnection) -> int:
        # Why not reuse: a number is free only once the broker has confirmed the close of its last channel.
        for step in range(_MOST_CHANNELS):
            number = (self._next_channel + step - 1) % _MOST_CHANNELS + 1
            if number not in connection.channels:
                self._next_channel = number % _MOST_CHANNELS + 1
                return number
        raise Unavailable("no_channel", f"RabbitMQ has not closed any of {_MOST_CHANNELS} channels")

    def _ssl(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._config.tls_ca)
        if self._config.tls_cert is not None:
            context.load_cert_chain(self._config.tls_cert, self._config.tls_key)
        return context

    async def _drop(self) -> None:
        connection, self._pika = self._pika, None
        self._connected.set(0)
        if connection is not None:
            try:
                with suppress(Unavailable), in_our_words():
                    async with asyncio.timeout(_CLOSE_S):
                        await connection.close()
            finally:
                self._wire.cut()


async def or_closed(call: Coroutine[Any, Any, T], closing: asyncio.Future[Any]) -> T:
    """Await *call*; Unavailable as soon as *closing*, of a channel or connection, is done."""
    # Why: on a connection that is gone nothing empties the queue of frames, nor ends an alarm.
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait((task, closing), return_when=asyncio.FIRST_COMPLETED)
        if closing.done():
            raise lost(closing)
        return task.result()
    finally:
        task.cancel()


def lost(closing: asyncio.Future[Any]) -> Unavailable:
    """Return why the channel or connection of *closing* is gone."""
    error = None if closing.cancelled() else closing.exception()
    return explain(error or amqp.ChannelClosed(0, "closed"))


async def is_blocked(connection: aiormq.abc.AbstractConnection) -> bool:
    """Say whether the broker has told that it does not read *connection*, because of an alarm."""
    ready = asyncio.ensure_future(connection.ready())
    await asyncio.wait((ready,), timeout=0.01)
    return ready.cancel()


async def close_channel(channel: aiormq.Channel) -> None:
    """Close *channel*, whatever its state; waits a few seconds for the broker's word, not longer."""
    if not channel.is_closed:
        with suppress(Unavailable), in_our_words():
            async with asyncio.timeout(_CLOSE_S):
                await channel.close()
