"""What became of a request: words of the server, which sees it, and the receiver, which counts it."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from gateway import answer

JSON_HEADERS = {"Content-Type": "application/json", "Server": "im-callback-gateway"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request: ``kind`` is ``refused``, ``probe`` or ``stored``."""

    kind: str
    label: str = ""
    """The reason of a refusal, the app id of a stored callback."""
    is_late: bool = False
    """Stored, but answered 503 because the broker's confirm took too long."""


OUTCOME = web.ResponseKey("outcome", Outcome)


class Reports:
    """Whom the server tells what happened; the receiver counts it."""

    def answered(self, outcome: Outcome) -> None:
        """An answer was written."""

    def hung_up(self, outcome: Outcome | None) -> None:
        """The caller was gone before the answer, or before its body had come (None)."""

    def evicted(self) -> None:
        """A connection was closed to make room for a newer one."""

    def turned_away(self) -> None:
        """A connection was closed at once: its peer has max_connections_per_peer already."""

    def handshake_failed(self) -> None:
        """A connection ended before it spoke TLS."""


def refusal_response(
    reason: str, retry_after_s: int, *, refusal: answer.Refusal | None = None
) -> web.Response:
    """Return the answer for *reason*, its outcome included; 503 names *retry_after_s*."""
    row = refusal or answer.REFUSALS[reason]
    headers = dict(JSON_HEADERS)
    if row.status == 503:
        headers["Retry-After"] = str(retry_after_s)
    if row.status == 405:
        headers["Allow"] = "GET, HEAD, POST"
    response = web.Response(status=row.status, body=row.body, headers=headers)
    response[OUTCOME] = Outcome("refused", reason)
    return response
