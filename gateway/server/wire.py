"""Answers as bytes. What most callers get differs in its date only, so it is put together once a second."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus

from gateway.outcome import Answer

_MOST = 256


class Wire:
    """Turns answers into HTTP/1.x. Bound: 256 of them are kept, for a second."""

    def __init__(self) -> None:
        self._second = 0
        self._date = b""
        self._made: dict[tuple[int, bytes, bytes, bool, bool, bool], bytes] = {}
        """By all that they are made of: a thousand apps have an answer each, and all are the same."""

    def write(self, answer: Answer, is_old: bool, is_last: bool, is_head: bool) -> bytes:
        """Return *answer* for HTTP/1.0 (*is_old*) or 1.1, the last of its connection, without body (HEAD)."""
        second = int(time.time())
        if second != self._second or len(self._made) > _MOST:
            self._second = second
            self._date = formatdate(second, usegmt=True).encode()
            self._made.clear()
        key = (answer.status, answer.body, answer.headers, is_old, is_last, is_head)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._make(answer, is_old, is_last, is_head)
        return made

    def _make(self, answer: Answer, is_old: bool, is_last: bool, is_head: bool) -> bytes:
        # Each version has its own default for the connection, and says only what differs from that.
        says = (
            b""
            if is_old == is_last
            else b"Connection: close\r\n"
            if is_last
            else b"Connection: keep-alive\r\n"
        )
        return (
            b"HTTP/1.%d %d %s\r\n%s%sContent-Type: application/json\r\nContent-Length: %d\r\nDate: %s\r\n%s"
            % (
                0 if is_old else 1,
                answer.status,
                HTTPStatus(answer.status).phrase.encode(),
                says,
                answer.headers,
                len(answer.body),
                self._date,
                b"Server: im-callback-gateway\r\n\r\n" + (b"" if is_head else answer.body),
            )
        )
