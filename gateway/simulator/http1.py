"""A lean HTTP/1.1 client: one connection, one request at a time, kept open. It follows no redirects.

Why not aiohttp's: at load its client costs more than the server that is to be measured.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

MAX_ANSWER_BYTES = 1_048_576
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,10})[ \t]*\r\n")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*chunked")
_CLOSE = re.compile(rb"\r\nconnection:[^\r\n]*close")
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_WITHOUT_BODY = frozenset((204, 304))


@dataclass(frozen=True, slots=True)
class Target:
    """Where callbacks go, and nowhere else."""

    host: str
    port: int
    path: str
    is_tls: bool

    @classmethod
    def of(cls, url: str) -> Target:
        """Return the target of *url*; ValueError with a sentence when it can't be a callback URL.

        The console refuses spaces and any of ``! $ & ?`` too.
        Source: cloud.tencent.com/document/product/269/32431.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must begin with http:// or https:// and name a host")
        if (
            parts.query
            or parts.fragment
            or parts.username is not None
            or re.search(r"[\x00-\x20\x7f!$&?]", url)
        ):
            raise ValueError("a callback URL has no user, no query, no spaces and none of ! $ & ?")
        if not url.isascii():
            raise ValueError("must be ASCII: write other characters percent-encoded")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.hostname, port, parts.path or "/", parts.scheme == "https")

    @property
    def url(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        """Host and port as they stand in a URL and in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

    def request(self, query: str, body: bytes) -> bytes:
        """Return the bytes of one callback: the headers that the sender documents, and no others."""
        line = f"POST {self.path}?{query} HTTP/1.1\r\nHost: {self.authority}\r\n"
        return f"{line}Content-Length: {len(body)}\r\n\r\n".encode("ascii") + body


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request."""

    status: int
    body: bytes
    is_last: bool
    """The server closes the connection behind this answer."""


def parse_answer(received: bytes, *, is_ended: bool) -> Answer | None:
    """Return the answer in *received*, None while it is incomplete; ValueError when it is not HTTP/1.

    *is_ended*: nothing more will come, so a body without a length is whole.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        if len(received) > MAX_ANSWER_BYTES:
            raise ValueError("too large")
        return None
    status = _STATUS.match(received)
    if status is None:
        raise ValueError("not HTTP/1")
    code = int(status[1])
    head, rest = received[: end + 2].lower(), received[end + 4 :]
    if code < 200:  # Why: 100 Continue and its like come before the answer
        return parse_answer(rest, is_ended=is_ended)
    is_last = _CLOSE.search(head) is not None or received.startswith(b"HTTP/1.0")
    body, is_last = _body(code, head, rest, is_last, is_ended=is_ended)
    return None if body is None else Answer(code, body, is_last)


def _body(code: int, head: bytes, rest: bytes, is_last: bool, *, is_ended: bool) -> tuple[bytes | None, bool]:
    """Return the body, None while it is incomplete, and whether the connection ends behind it."""
    if code in _WITHOUT_BODY:
        return b"", is_last
    if len(rest) > MAX_ANSWER_BYTES:
        raise ValueError("too large")
    if _CHUNKED.search(head) is not None:
        return _dechunked(rest), is_last
    length = _LENGTH.search(head)
    if length is None:
        return (rest if is_ended else None), True
    length_bytes = int(length[1])
    if length_bytes > MAX_ANSWER_BYTES:
        raise ValueError("too large")
    return (rest[:length_bytes] if len(rest) >= length_bytes else None), is_last


def _dechunked(rest: bytes) -> bytes | None:
    body, at = b"", 0
    while (end := rest.find(b"\r\n", at)) >= 0:
        size_bytes = int(rest[at:end].partition(b";")[0], 16)  # ValueError: not HTTP/1
        at = end + 2 + size_bytes + 2
        if size_bytes == 0:
            return body
        if at > len(rest):
            return None
        body += rest[end + 2 : at - 2]
    return None


class Connection(asyncio.Protocol):
    """One open connection; ``exchange`` sends a request and waits for its answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: asyncio.Future[Answer] | None = None

    @classmethod
    async def open(cls, target: Target, tls: ssl.SSLContext | None) -> Connection:
        """Connect to *target*. Raises OSError; the caller has the deadline."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, target.host, target.port, ssl=tls)
        return connection

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes) -> Answer:
        """Send *request* and return its answer.

        Raises ConnectionError when the connection ends before it, ValueError when it is not HTTP/1. After any
        failure, a cancellation too, the connection is closed: an answer that comes late belongs to nobody.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("closed while idle")
        self._answer = asyncio.get_running_loop().create_future()
        self._received = b""
        self._transport.write(request)
        try:
            answer = await self._answer
        except BaseException:
            self.abort()
            raise
        if answer.is_last:
            self.abort()
        return answer

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Why a cast: uvloop's transports are no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        self._settle(is_ended=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(is_ended=True)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("closed before the answer"))

    def _settle(self, *, is_ended: bool) -> None:
        if self._answer is None or self._answer.done():
            return
        try:
            answer = parse_answer(self._received, is_ended=is_ended)
        except ValueError as error:
            self._answer.set_exception(ValueError(str(error)))
            return
        if answer is not None:
            self._answer.set_result(answer)
