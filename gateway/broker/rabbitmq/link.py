"""One supervised connection to RabbitMQ: opened on demand, one attempt at a time, several hosts in turn.

It does not retry by itself: whoever needs it waits with its own backoff and asks again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable
from typing import Any, TypeVar

import aio_pika
import aiormq
from aiormq import exceptions as amqp
from yarl import URL

from gateway.config import Broker as BrokerConfig
from gateway.errors import Unavailable
from gateway.metrics import Metrics

_log = logging.getLogger(__name__)
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
                if underlay is not None and not underlay.is_closed:
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
        try:
            async with asyncio.timeout(timeout_s or self._config.connect_timeout_s * 4):
                return await call
        except (amqp.AMQPError, OSError, RuntimeError, TimeoutError) as error:
            raise explain(error) from error

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
                async with asyncio.timeout(self._config.connect_timeout_s):
                    self._connection = await aio_pika.connect(
                        URL(url).update_query(heartbeat=str(self._config.heartbeat_s)),
                        ssl_context=self._ssl() if url.startswith("amqps") else None,
                        client_properties={"connection_name": f"im-callback-gateway {self._role}"},
                    )
                underlay = _underlay(self._connection)
                assert underlay is not None
            except (amqp.AMQPError, OSError, RuntimeError, TimeoutError) as error:
                faults.append((URL(url), explain(error)))
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
        number = self._next_channel
        while number in connection.channels:
            number = number % 2000 + 1
        self._next_channel = number % 2000 + 1
        return number

    def _ssl(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._config.tls_ca)
        if self._config.tls_cert is not None:
            context.load_cert_chain(self._config.tls_cert, self._config.tls_key)
        return context

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._connected.set(0)
        if connection is None:
            return
        try:
            async with asyncio.timeout(5):
                await connection.close()
        except (amqp.AMQPError, OSError, RuntimeError, TimeoutError) as error:
            _log.debug("Closing a lost connection: %s", type(error).__name__)


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
