"""One supervised connection to RabbitMQ: opened on demand, one attempt at a time, several hosts in turn.

It does not retry by itself: whoever needs it waits with its own backoff and asks again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import aio_pika
import aiormq
from aiormq import exceptions as amqp
from yarl import URL

from gateway.config import Broker as BrokerConfig
from gateway.errors import Unavailable
from gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_CLOSE_S = 5.0
_MOST_CHANNELS = 2000  # Source: RabbitMQ allows 2047 a connection unless told otherwise
T = TypeVar("T")


class Link:
    """The connection of one *role*, ``publish`` or ``consume``.

    Publishing never shares one with consuming: a broker that refuses publishes stops reading the whole
    connection, acknowledgements included.
    """

    def __init__(self, config: BrokerConfig, role: str, metrics: Metrics) -> None:
        self._config = config
        self._role = role
        self._connected = metrics.broker_connected.labels(role)
        self._connection: aio_pika.abc.AbstractConnection | None = None
        self._lock = asyncio.Lock()
        self._next_host = 0
        self._next_channel = 1

    async def get(self) -> aiormq.abc.AbstractConnection:
        """Return the open connection, or make one; Unavailable when no host takes us."""
        async with self._lock:
            if self._connection is not None:
                underlay = _underlay(self._connection)
                # Why not is_closed: a connection whose reader has ended may take long to be closed.
                if underlay is not None and underlay.is_opened:
                    return underlay
                await self._drop()
            return await self._connect()

    async def channel(self, make: type[aiormq.Channel], *, confirms: bool) -> aiormq.Channel:
        """Open a channel of class *make*; Unavailable when the connection is lost meanwhile."""
        connection = await self.get()
        number = self._free_number(connection)
        channel = make(connection, number, publisher_confirms=confirms, on_return_raises=False)
        connection.channels[number] = channel
        await self.guard(channel.open())
        return channel

    async def guard(self, call: Awaitable[T], timeout_s: float | None = None) -> T:
        """Await *call*, an AMQP request; what can go wrong with the connection becomes Unavailable."""
        with in_our_words():
            async with asyncio.timeout(timeout_s or self._config.connect_timeout_s * 4):
                return await call

    async def close(self) -> None:
        """Close the connection; safe when there is none."""
        async with self._lock:
            await self._drop()

    async def _connect(self) -> aiormq.abc.AbstractConnection:
        faults = []
        for _ in self._config.urls:
            url = self._config.urls[self._next_host % len(self._config.urls)]
            self._next_host += 1
            try:
                with in_our_words():
                    async with asyncio.timeout(self._config.connect_timeout_s):
                        self._connection = await aio_pika.connect(
                            URL(url).update_query(heartbeat=str(self._config.heartbeat_s)),
                            ssl_context=self._ssl() if url.startswith("amqps") else None,
                            client_properties={"connection_name": f"im-callback-gateway {self._role}"},
                        )
                    underlay = _underlay(self._connection)
                    assert underlay is not None
            except Unavailable as fault:
                faults.append((URL(url), fault))
                continue
            self._next_host -= 1
            self._next_channel = 1
            self._connected.set(1)
            underlay.closing.add_done_callback(self._on_closed)
            return underlay
        places = "; ".join(f"{url.host}:{url.port or 5672}: {fault.detail}" for url, fault in faults)
        raise Unavailable(faults[-1][1].reason, places)

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
        connection, self._connection = self._connection, None
        self._connected.set(0)
        if connection is not None:
            with suppress(Unavailable), in_our_words():
                async with asyncio.timeout(_CLOSE_S):
                    await connection.close()


async def close_channel(channel: aiormq.Channel) -> None:
    """Close *channel*, whatever its state; waits a few seconds for the broker's word, not longer."""
    if not channel.is_closed:
        with suppress(Unavailable), in_our_words():
            async with asyncio.timeout(_CLOSE_S):
                await channel.close()


@contextmanager
def in_our_words() -> Iterator[None]:
    """Turn what goes wrong with a connection inside the block into Unavailable."""
    try:
        yield
    except asyncio.CancelledError as error:
        # Why: aiormq cancels the requests of a connection that it gives up, for silence, say. Nobody
        #      cancelled us then, and letting that pass would end the task, and the process with it.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise explain(error) from error
    # Why StopAsyncIteration: aiormq raises it when the other side closes right after it has accepted.
    except (amqp.AMQPError, OSError, RuntimeError, TimeoutError, StopAsyncIteration) as error:
        raise explain(error) from error


def explain(error: BaseException) -> Unavailable:
    """Return Unavailable with a fixed reason and a sentence on what *error* means."""
    if isinstance(error, amqp.InvalidFrameError) and "Connection.Close" in str(error):
        # Why by its text: aiormq does not pass on what the server says when it refuses the virtual host.
        return Unavailable("no_vhost", _NO_VHOST)
    # Why the causes too: aiormq wraps what the system said into a connection error of its own.
    causes = [one for one in (error, error.__cause__, error.__context__) if one is not None]
    for kinds, reason, sentence in _MEANINGS:
        if any(isinstance(cause, kinds) for cause in causes):
            return Unavailable(reason, f"{sentence} ({_text(error)})")
    return Unavailable("connection_lost", f"the connection is gone ({_text(error)})")


_NO_VHOST = "RabbitMQ refuses the virtual host of broker.url: it does not exist, or the user may not enter it"
_MEANINGS: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
    (
        (amqp.AuthenticationError, amqp.ProbableAuthenticationError),
        "bad_credentials",
        "RabbitMQ refuses the user name or password of broker.url",
    ),
    (
        (amqp.ConnectionNotAllowed,),
        "no_vhost",
        _NO_VHOST,
    ),
    ((ssl.SSLError,), "tls", "the TLS handshake failed: compare broker.tls_ca and the server's certificate"),
    ((TimeoutError,), "timeout", "no answer in time"),
    ((ConnectionRefusedError,), "refused", "nothing listens there: is RabbitMQ running?"),
    ((socket.gaierror,), "no_host", "the host name of broker.url is not known here"),
    (
        (amqp.IncompatibleProtocolError, amqp.InvalidFrameError),
        "not_amqp",
        "what listens there speaks no plain AMQP 0-9-1: is it the TLS port (amqps://), or another program?",
    ),
    ((amqp.ChannelAccessRefused,), "no_rights", "the user of broker.url lacks the rights"),
    ((amqp.ChannelNotFoundEntity,), "missing", "an exchange or queue is missing"),
    ((amqp.ChannelPreconditionFailed,), "mismatch", "RabbitMQ refuses the request"),
)


def _text(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _underlay(connection: aio_pika.abc.AbstractConnection) -> aiormq.abc.AbstractConnection | None:
    transport = connection.transport
    return transport.connection if transport is not None else None
