"""What a connection does, and the request that it does it for."""

from __future__ import annotations

import time
from enum import Enum, auto
from typing import Any

from aiohttp import HttpVersion11
from aiohttp.http import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError

from gateway.outcome import Outcome


class Does(Enum):
    """What a connection does."""

    IDLE = auto()
    READ = auto()
    """A body is coming."""
    WAIT = auto()
    """The receiver has the request."""
    STALL = auto()
    """The caller takes no answers."""
    LINGER = auto()
    """The rest of a body that nobody wants is coming."""
    ENDED = auto()


class Exchange:
    """The request under way; one object serves all of a connection's, one after the other."""

    __slots__ = ("is_asked", "is_head", "is_last", "is_old", "outcome", "payload", "started_s", "ticket")

    def __init__(self) -> None:
        self.begin(None)

    def begin(self, message: RawRequestMessage | None, payload: StreamReader | None = None) -> None:
        """Start over with *message*; None for what came and is no request."""
        self.payload = payload
        self.ticket: Any = None
        """What the receiver wants back with the body."""
        self.outcome: Outcome | None = None
        self.started_s = time.perf_counter() if message is not None else 0.0
        self.is_old = message is not None and message.version < HttpVersion11
        self.is_head = message is not None and message.method == "HEAD"
        self.is_last = message is not None and (message.should_close or message.upgrade)
        """The connection ends with its answer: after an Upgrade, which we never do, the parser drops some."""
        # Why not for 1.0: such a caller would take it for the answer (RFC 9110, 10.1.1).
        expects = message is not None and not self.is_old and "Expect" in message.headers
        self.is_asked = bool(
            expects and message is not None and message.headers["Expect"].lower() == "100-continue"
        )
        """The caller sends the body once it is told to go on."""

    @property
    def took_s(self) -> float | None:
        return None if not self.started_s else time.perf_counter() - self.started_s

    def has_rest(self) -> bool:
        """Say whether some of the body is still to come; throw away what has."""
        if self.payload is None or self.payload.exception() is not None:
            return False
        try:
            self.payload.read_nowait(-1)
        except RequestPayloadError:
            return False
        return not self.payload.is_eof()
