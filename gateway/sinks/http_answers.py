"""What an answer of somebody's HTTP service means for the event, and for the sink. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from gateway.errors import Poison, Unavailable

_KNOWN = frozenset(HTTPStatus)
_MEANT = {
    401: "does not know us: are secrets and headers still right there?",
    403: "forbids it: are secrets and headers still right there?",
    404: "has nothing at the url: is its path right?",
    405: "takes no POST at the url: is its path right?",
    408: "waited too long for the request",
    425: "wants it later",
}


class Doubtful(Unavailable):
    """Not taken this time, by the event's fault or the service's: what becomes of other events tells."""


def judge(
    status: int, retry_after: str | None, now_s: float, cap_s: float, wait_statuses: Collection[int]
) -> Poison | Unavailable | None:
    """Return what *status* means: None (taken), Poison, Doubtful, or Unavailable for the whole sink.

    *retry_after* is the header's value; the wait it asks for counts up to *cap_s*.
    """
    reason = f"http_{status}" if status in _KNOWN else "http_odd"
    said = f"it answered {status}"
    if 200 <= status < 300:
        return None
    if status in (429, 503):
        return Unavailable(reason, f"{said}: not now", min(wait_s(retry_after, now_s), cap_s))
    if status == 410:
        return Unavailable(reason, f"{said}: it wants no events any more", math.inf)
    if 300 <= status < 400:
        return Unavailable(
            "redirected",
            f"{said}, a redirect, and none is followed: set url to where it points, if that is right",
        )
    if status in wait_statuses or status >= 500:
        meaning = _MEANT.get(status)
        return Doubtful(reason, f"it answered {status}, it {meaning}" if meaning else said)
    if 400 <= status < 500:
        return Poison(reason, f"the service answered {status}")
    return Doubtful(reason, said)


def wait_s(retry_after: str | None, now_s: float) -> float:
    """Return the seconds that Retry-After asks to wait: a number, or a date; 0 for what is neither.

    Source: RFC 9110, section 10.2.3.
    """
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
