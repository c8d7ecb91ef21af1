"""The http sink: each event, or each batch, as one signed POST to a service of somebody's.

It owns the connections. What an answer means: ``http_answers``; in which order requests go: ``http_rounds``;
where they may go: ``http_guard``; how they are signed: ``webhooks``.
"""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import aiohttp

from gateway import __version__
from gateway.config import HttpSink, place
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.sinks import Failures
from gateway.sinks.http_answers import Doubtful, judge
from gateway.sinks.http_guard import Forbidden, Guard
from gateway.sinks.http_rounds import Memory, Round
from gateway.sinks.webhooks import keys_of, message_id, signed

_CONNECT_TIMEOUT_S = 5.0
# Why so short: many servers close idle connections after five seconds, and a request that meets that is lost.
_KEEPALIVE_S = 4.0
_BODY_BYTES = 4096
_BODY_S = 1.0
_ONE = "application/cloudevents+json; charset=utf-8"
_MANY = "application/cloudevents-batch+json; charset=utf-8"


class Http:
    """One event, or one batch, after the other; a worker has several lanes with one of these each."""

    def __init__(self, config: HttpSink, name: str, memory: Memory | None = None) -> None:
        self._config = config
        self._name = name
        self._where = place(config.url)
        self._keys = keys_of([secret.get_secret_value() for secret in config.secrets])
        self._headers = {"User-Agent": f"im-callback-gateway/{__version__}", "Accept-Encoding": "identity"}
        self._headers |= {key: value.get_secret_value() for key, value in config.headers.items()}
        self._connect_timeout_s = min(_CONNECT_TIMEOUT_S, config.timeout_s / 2)
        self._guard = Guard(config.allow_networks)
        self._memory = memory or Memory()
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None

    def sibling(self) -> Http:
        """Return one more, for another lane: what gets through there tells what the service is like here."""
        return Http(self._config, self._name, self._memory)

    async def open(self) -> None:
        """Try whether the service can be reached; nothing is sent.

        Raises Unavailable: ``unreachable``, ``unknown_host``, ``forbidden_address``, ``tls_failed``,
        ``no_ca``.
        """
        if self._tls is None:
            self._tls = self._context()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._reach(self._tls)
        except OSError as error:
            raise self._here(_unreachable(error)) from error
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=self._tls,
                    keepalive_timeout=_KEEPALIVE_S,
                    socket_factory=self._guard.socket,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(sock_connect=self._connect_timeout_s),
            )

    async def write(self, events: Sequence[Event]) -> Failures:
        """Post *events*; what the service refuses for good is Poison, what it can't take alone, Unavailable.

        Where the service, not an event, is the reason, what it took is not sent again: the others are
        Unavailable with a ``wait_s``, or it raises that, when they are all.
        """
        session = self._session
        if session is None:
            raise Unavailable("not_open", f"{self._where}: not open.")
        is_batch = self._config.batch
        names = [(event.source, event.id) for event in events]
        # Why one key for a batch: it goes as one, so it waits as one.
        keys = ["" if is_batch else event.partition_key for event in events]
        places = range(len(events))
        requests = [places] if is_batch and events else [[at] for at in places]

        async def send(places: Sequence[int]) -> Poison | Unavailable | None:
            return await self._send(session, [events[at] for at in places])

        try:
            failures = await Round(names, keys, send, self._memory).run(requests)
        except Unavailable as fault:
            raise self._here(fault) from fault
        return {at: self._here(why) if isinstance(why, Unavailable) else why for at, why in failures.items()}

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _send(
        self, session: aiohttp.ClientSession, events: Sequence[Event]
    ) -> Poison | Unavailable | None:
        try:
            try:
                return await self._post(session, events)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if isinstance(error, aiohttp.ClientConnectorError):
                    raise
                # Why once more: the service may have closed an idle connection just when we took it.
                return await self._post(session, events)
        except aiohttp.ClientConnectorCertificateError as error:
            return _unreachable(error.certificate_error)
        except aiohttp.ClientConnectorError as error:
            return _unreachable(error.os_error)
        except aiohttp.ConnectionTimeoutError as error:
            return _unreachable(error)
        except TimeoutError:
            return Doubtful("timeout", f"no answer within {self._config.timeout_s:g} s")
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            return Doubtful("disconnected", "the connection ended before the answer")
        except aiohttp.ClientError as error:
            return Doubtful("bad_http", f"what it answered is not HTTP ({type(error).__name__})")

    async def _post(
        self, session: aiohttp.ClientSession, events: Sequence[Event]
    ) -> Poison | Unavailable | None:
        body = events[0].body
        if self._config.batch:
            body = b"[" + b",".join(event.body for event in events) + b"]"
        now_s = time.time()
        headers = self._headers | {"Content-Type": _MANY if self._config.batch else _ONE}
        headers |= signed(body, message_id(events), int(now_s), self._keys)
        async with asyncio.timeout(self._config.timeout_s):
            response = await session.post(
                self._config.url.get_secret_value(),
                data=io.BytesIO(body),
                headers=headers,
                allow_redirects=False,
            )
        try:
            verdict = judge(
                response.status,
                response.headers.get("Retry-After"),
                now_s,
                self._config.retry_after_cap_s,
                self._config.wait_statuses,
            )
            await _read_a_little(response)
            return verdict
        finally:
            response.close()  # a connection whose answer was read to its end has gone back already

    async def _reach(self, context: ssl.SSLContext) -> None:
        """Connect to the first address that answers, and close. Raises OSError."""
        url, loop = urlsplit(self._config.url.get_secret_value()), asyncio.get_running_loop()
        is_tls = url.scheme == "https"
        last: OSError = OSError("no address")
        for found in await loop.getaddrinfo(
            url.hostname, url.port or (443 if is_tls else 80), type=socket.SOCK_STREAM
        ):
            try:
                with self._guard.socket(found) as connection:
                    connection.setblocking(False)
                    await loop.sock_connect(connection, found[4])
                    if is_tls:
                        transport, _ = await loop.create_connection(
                            asyncio.Protocol, sock=connection, ssl=context, server_hostname=url.hostname
                        )
                        transport.abort()
            except OSError as error:
                last = error
            else:
                return
        raise last

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._config.tls_ca)
        except OSError as error:
            raise Unavailable(
                "no_ca", f"{self._config.tls_ca} can't be read as a CA file; mend tls_ca: {error.strerror}"
            ) from error

    def _here(self, fault: Unavailable) -> Unavailable:
        return Unavailable(fault.reason, f"{self._where}: {fault.detail}", fault.wait_s)


def _unreachable(error: Exception) -> Unavailable:
    """Return what kept a connection from being made."""
    if isinstance(error, Forbidden):
        return Unavailable("forbidden_address", str(error.strerror))
    if isinstance(error, ssl.SSLError):
        said = getattr(error, "verify_message", None) or error.reason
        return Unavailable("tls_failed", f"no TLS with it ({said})")
    if isinstance(error, socket.gaierror):
        return Unavailable("unknown_host", f"its name can't be resolved ({error.strerror})")
    if isinstance(error, TimeoutError):
        return Unavailable("unreachable", "no connection in time")
    return Unavailable("unreachable", getattr(error, "strerror", None) or type(error).__name__)


async def _read_a_little(response: aiohttp.ClientResponse) -> None:
    """Read the body where that is little and quick, so that its connection can be used again."""
    left = _BODY_BYTES
    try:
        async with asyncio.timeout(_BODY_S):
            while left > 0 and (part := await response.content.read(left)):
                left -= len(part)
    except (TimeoutError, aiohttp.ClientError):  # Why: the status has said all
        pass
