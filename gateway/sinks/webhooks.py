"""Standard Webhooks: headers by which a receiver knows that a request is ours, and its event. Pure.

Source: github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md, read 2026-11.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence

from gateway.event import Event

_PLAIN = re.compile(r"[A-Za-z0-9_:-]{1,128}")


def keys_of(secrets: Sequence[str]) -> list[bytes]:
    """Return the keys of *secrets* (``whsec_`` and base64)."""
    return [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]


def message_id(events: Sequence[Event]) -> str:
    """Return what ``webhook-id`` says: the event's id; for a batch, the same whenever it is the same batch.

    Another publisher's id may be any text, which a header can't hold and whose end the signature does not
    show: it is hashed then, with its source.
    """
    if len(events) == 1 and _PLAIN.fullmatch(events[0].id):
        return events[0].id
    digest = hashlib.sha256()
    for event in events:
        digest.update(
            f"{len(event.source)} {len(event.id)} {event.source}{event.id}".encode(errors="replace")
        )
    return f"{'batch' if len(events) > 1 else 'event'}_{digest.hexdigest()[:32]}"


def signed(body: bytes, name: str, now_s: int, keys: Sequence[bytes]) -> dict[str, str]:
    """Return the three headers for *body*, signed with each of *keys*: at a rotation, old and new."""
    text = b"%b.%d.%b" % (name.encode(), now_s, body)
    signatures = (base64.b64encode(hmac.digest(key, text, "sha256")).decode() for key in keys)
    return {
        "webhook-id": name,
        "webhook-timestamp": str(now_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
