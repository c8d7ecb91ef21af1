"""How Tencent signs a callback, and how we check it. Pure: the clock comes as a value."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from gateway.errors import Refused


def sign(token: str, request_time: str) -> str:
    """Return the ``Sign`` of a request: lower-case hex SHA-256 of *token* + *request_time*."""
    return sha256((token + request_time).encode()).hexdigest()


@lru_cache(maxsize=4096)
def _expected(tokens: tuple[str, ...], request_time: str) -> tuple[bytes, ...]:
    # Why kept: all of an app's callbacks of one second have the same.
    return tuple(sign(token, request_time).encode() for token in tokens)


def verify_sign(
    given: str | None, request_time: str | None, tokens: Sequence[str], now_s: int, window_s: int
) -> None:
    """Raise Refused unless *given* was made with one of *tokens* within *window_s* of *now_s*.

    *request_time* is decimal Unix seconds. Neither body nor command is covered, so a match says who, not
    what. Raises Refused("no_signature" | "bad_signature" | "stale_signature"); the last only for a Sign
    that matches, so that the count of stale ones tells of clocks and not of strangers.
    Source: cloud.tencent.com/document/product/269/32431, read 2026-11.
    """
    if not given or not request_time:
        raise Refused("no_signature")
    if not (request_time.isascii() and request_time.isdigit() and len(request_time) <= 15):
        raise Refused("bad_signature")
    given_bytes = given.lower().encode()
    # Why no early exit: which of the tokens matched must not show in the time taken.
    matches = [
        hmac.compare_digest(given_bytes, expected) for expected in _expected(tuple(tokens), request_time)
    ]
    if True not in matches:
        raise Refused("bad_signature")
    if abs(int(request_time) - now_s) > window_s:
        raise Refused("stale_signature")
