"""The bytes we answer with: what Tencent reads on success, and fixed tokens on refusal.

A refusal's reason labels the metric; the caller gets the coarser token of the same row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.replies import Reply

OK = b'{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":""}'
LEGACY_OK = b'{"ErrorCode":0,"ErrorMessage":"Success"}'
"""What the old room engine and the old call-status callback want.
Source: cloud.tencent.com/document/product/1690/92699, read 2026-11."""

# Source: trtc.io/document 43468 and 43467: ResultItem is required, one entry per account asked about.
_RESULT_ITEM_LISTS = {
    "Sns.CallbackPrevFriendAdd": "FriendItem",
    "Sns.CallbackPrevFriendResponse": "ResponseFriendItem",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the caller of a refused request gets."""

    status: int
    """HTTP status; also the ErrorCode, which must not be 0."""
    token: str
    """ErrorInfo."""

    @property
    def body(self) -> bytes:
        return b'{"ActionStatus":"FAIL","ErrorCode":%d,"ErrorInfo":"%s"}' % (self.status, self.token.encode())


REFUSALS: Mapping[str, Refusal] = {
    "ambiguous_query": Refusal(400, "ambiguous_query"),
    "malformed_body": Refusal(400, "malformed_body"),
    "encoded_body": Refusal(400, "encoded_body"),
    "bad_http": Refusal(400, "bad_http"),
    "no_signature": Refusal(401, "bad_signature"),
    "stale_signature": Refusal(401, "bad_signature"),
    "bad_signature": Refusal(401, "bad_signature"),
    "forbidden_network": Refusal(403, "forbidden"),
    "unknown_app": Refusal(403, "unknown_app"),
    "not_found": Refusal(404, "not_found"),
    "method_not_allowed": Refusal(405, "method_not_allowed"),
    "slow_head": Refusal(408, "too_slow"),
    "slow_body": Refusal(408, "too_slow"),
    "body_too_large": Refusal(413, "body_too_large"),
    "internal_error": Refusal(500, "internal_error"),
    "journal_full": Refusal(503, "journal_full"),
    "overloaded": Refusal(503, "overloaded"),
    "app_rate": Refusal(503, "app_overloaded"),
    "app_backlog": Refusal(503, "app_overloaded"),
    "stopping": Refusal(503, "stopping"),
}
"""Every reason that Refused may carry towards a caller."""

LATE = Refusal(503, "not_confirmed_yet")
"""``ack_after: confirmed`` and no confirm in time: the callback is kept and will be forwarded."""


def accepted(command: str, body: Mapping[str, Any], *, is_legacy: bool, reply: Reply | None = None) -> bytes:
    """Return the answer to an accepted callback: *reply* or OK, and what *command* requires beside it."""
    if is_legacy:
        return LEGACY_OK
    items = body.get(_RESULT_ITEM_LISTS.get(command, ""))
    accounts = None
    if isinstance(items, dict):
        items = [items]
    if isinstance(items, list):
        accounts = [item["To_Account"] for item in items if isinstance(item, dict) and "To_Account" in item]
    if reply is None and accounts is None:
        return OK
    return (reply or Reply()).body(accounts)
