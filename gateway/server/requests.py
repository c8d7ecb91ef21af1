"""From a connection's bytes to its requests, in order, and to their bodies. aiohttp's parser reads them."""

from __future__ import annotations

import asyncio
from collections import deque

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError

from gateway.config import Listen
from gateway.errors import Refused

_READ_BYTES = 65_536
_AHEAD = 32

Request = tuple[RawRequestMessage, StreamReader]


class Requests:
    """Requests whose turn has not come. Bound: 32, and the bytes of one read."""

    def __init__(self, connection: BaseProtocol, loop: asyncio.AbstractEventLoop, listen: Listen) -> None:
        self.parser = HttpRequestParser(
            connection,
            loop,
            _READ_BYTES,
            max_line_size=listen.max_header_bytes,
            max_field_size=listen.max_header_bytes,
            max_headers=listen.max_headers,
            payload_exception=RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=_AHEAD,
        )
        self._waiting: deque[Request | None] = deque()
        self._last: StreamReader | None = None
        self._is_full = False
        self.has_half_a_head = False
        """As far as can be told: behind a request in one read it can not."""
        self.is_over = False
        """What came was no HTTP; nothing can be told of what comes after it."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def is_amid_body(self) -> bool:
        """A part of the newest request's body is still to come."""
        return self._last is not None and not self._last.is_eof()

    @property
    def are_too_many(self) -> bool:
        """Nothing more should be read before one of those that wait had its turn."""
        return bool(self._waiting) and (self._is_full or self.is_amid_body)

    def feed(self, data: bytes) -> bool:
        """Take *data*; say whether a request began with it, or turned out to be none."""
        if self.is_over:
            return False
        before, was_amid_body = len(self._waiting), self.is_amid_body
        try:
            messages, is_upgraded, _ = self.parser.feed_data(data)
            self._waiting.extend(messages)
            self.is_over = is_upgraded
        except Exception:  # noqa: BLE001 - besides its own faults the parser raises those of a target's parts
            self.is_over = True
            if self._last is not None and not self._last.is_eof():
                # Why: of a faulty chunk the parser tells only who feeds it, not who reads the body.
                self._last.set_exception(RequestPayloadError())
            else:
                self._waiting.append(None)
            return True
        # Why: then the parser keeps back what follows, until it is fed again. It may count one more than we:
        # one whose turn came before it was whole.
        self._is_full = len(self._waiting) >= _AHEAD - 1
        if len(self._waiting) == before:
            # Why strip: an empty line before a request is to be ignored (RFC 9112, 2.2); it starts no head.
            self.has_half_a_head |= not was_amid_body and bool(data.strip(b"\r\n"))
            return False
        self.has_half_a_head = False
        last = self._waiting[-1]
        self._last = last[1] if last is not None else None
        return True

    def have_more(self) -> bool:
        """Say whether a request waits, or began with what the parser has kept back."""
        return bool(self._waiting) or (self._is_full and self.feed(b""))

    def next(self) -> Request | None:
        """Return the request whose turn it is, None for HTTP that is none. IndexError without one."""
        request = self._waiting.popleft()
        if request is not None:
            self.parser.message_consumed()
        return request

    def clear(self) -> None:
        """Forget those that wait."""
        self._waiting.clear()


class Memory:
    """Bytes of all bodies in memory: from their arrival to the answer."""

    def __init__(self) -> None:
        self.max_body_bytes = self.max_bytes = self.used_bytes = 0

    def limit(self, listen: Listen) -> None:
        """Set both bounds, of one body and of all."""
        self.max_body_bytes = listen.max_body_bytes
        self.max_bytes = listen.max_inflight_mb * 1_048_576


class Body:
    """The body of one request after the other, as it comes. Bound: max_body_bytes."""

    __slots__ = ("_chunks", "_memory", "_size")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._chunks: list[bytes] = []
        self._size = 0

    def read(self, payload: StreamReader) -> bytes | None:
        """Return the whole body, or None while some of it is to come.

        Raises Refused("bad_http" | "body_too_large" | "overloaded").
        """
        try:
            chunk = payload.read_nowait(-1)
        except RequestPayloadError:
            raise Refused("bad_http") from None
        if chunk:
            self._size += len(chunk)
            self._memory.used_bytes += len(chunk)
            if self._size > self._memory.max_body_bytes:
                raise Refused("body_too_large")
            if self._memory.used_bytes > self._memory.max_bytes:
                raise Refused("overloaded")
        if not payload.is_eof():
            if chunk:
                self._chunks.append(chunk)
            return None
        if not self._chunks:
            return chunk
        self._chunks.append(chunk)
        whole, self._chunks = b"".join(self._chunks), []
        return whole

    def forget(self) -> None:
        """Free it: its request is answered, or gone."""
        self._memory.used_bytes -= self._size
        if self._chunks:
            self._chunks = []
        self._size = 0
