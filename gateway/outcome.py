"""What becomes of a request: words of the server, which writes answers, and the receiver that makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gateway import answer


class Outcome(NamedTuple):
    """What became of one request: ``kind`` is ``refused``, ``probe`` or ``stored``."""

    kind: str
    label: str = ""
    """The reason of a refusal, the app id of a stored callback."""
    is_late: bool = False
    """Stored, but answered 503 because the broker's confirm took too long."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, ready but for what depends on the connection."""

    status: int
    body: bytes
    """JSON."""
    outcome: Outcome
    headers: bytes = b""
    """Further lines of the head, each with its line break."""
    is_last: bool = False
    """The connection ends with it: what follows on it can't be told from the rest of this request."""


class Reports:
    """Whom the server tells what happened; the receiver counts it."""

    def answered(self, outcome: Outcome, took_s: float | None) -> None:
        """An answer was written, so many seconds after the head had come (None: no whole head came)."""

    def hung_up(self, outcome: Outcome | None) -> None:
        """The caller was gone before the answer, or before its body had come (None)."""

    def evicted(self) -> None:
        """A connection was closed to make room for a newer one."""

    def turned_away(self) -> None:
        """A connection was closed at once: its peer has max_connections_per_peer already."""

    def handshake_failed(self) -> None:
        """A connection ended before it spoke TLS."""


_LAST = frozenset(("body_too_large", "slow_body", "slow_head", "bad_http", "internal_error"))


def refusal(reason: str, retry_after_s: int, *, row: answer.Refusal | None = None) -> Answer:
    """Return the answer for *reason*; 503 names *retry_after_s*. *row* says otherwise than ``REFUSALS``."""
    row = row or answer.REFUSALS[reason]
    headers = b""
    if row.status == 503:
        headers = b"Retry-After: %d\r\n" % retry_after_s
    elif row.status == 405:
        headers = b"Allow: GET, HEAD, POST\r\n"
    return Answer(row.status, row.body, Outcome("refused", reason), headers, reason in _LAST)
