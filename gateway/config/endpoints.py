"""What the configuration says of other people's servers: their URLs, our secrets for them, headers."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, SecretStr

_STREAM_DATABASE = re.compile(r"(/[0-9]{0,4})?")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_HEADER_VALUE = re.compile(r"[!-~]([ -~]{0,8000}[!-~])?")
_OURS = frozenset(
    ("connection", "content-encoding", "content-length", "content-type", "expect", "host", "keep-alive", "te",
     "trailer", "transfer-encoding", "upgrade", "webhook-id", "webhook-signature", "webhook-timestamp")
)  # fmt: skip
_SECRET = "whsec_"  # noqa: S105 - the prefix that says what it is
_SECRET_BYTES = range(
    24, 65
)  # Source: github.com/standard-webhooks/standard-webhooks, spec, "Signature scheme"


def _parts(url: SecretStr) -> SplitResult | None:
    """Return the parts of *url*, None where host or port can't be read."""
    text = url.get_secret_value()
    try:
        parts = urlsplit(text)
        is_good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        (parts.hostname or "").encode("idna")  # Why: what no resolver takes is a UnicodeError there
    except ValueError:
        return None
    return parts if is_good and text.isprintable() and " " not in text else None


def _redis_url(url: SecretStr) -> SecretStr:
    parts = _parts(url)
    # Why no query: the driver would take timeouts and "do not verify" from there.
    if (
        parts is None
        or parts.scheme not in ("redis", "rediss")
        or parts.query
        or parts.fragment
        or not _STREAM_DATABASE.fullmatch(parts.path)
    ):
        raise ValueError(
            "must be redis://user:password@host:6379/0, or rediss:// for TLS, without a query; special"
            " characters in user and password are written as %40"
        )
    return url


def _http_url(url: SecretStr) -> SecretStr:
    parts = _parts(url)
    if parts is None or parts.scheme not in ("http", "https") or parts.fragment:
        raise ValueError("must be https://host/path, or http://")
    if "@" in parts.netloc:
        raise ValueError("must have no user and password; write them into headers: Authorization")
    return url


def _webhook_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix(_SECRET), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(_SECRET) or len(key) not in _SECRET_BYTES:
        raise ValueError(
            "must be whsec_ and 24 to 64 bytes in base64; to make one: echo whsec_$(openssl rand -base64 32)"
        )
    return secret


def _headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("holds a name that is none: letters, digits and -")
        if name.lower() in _OURS:
            raise ValueError(f"may not set {name}: the gateway does")
        if not _HEADER_VALUE.fullmatch(value.get_secret_value()):
            raise ValueError(f"must give {name} a value of printable ASCII, without blanks at its ends")
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("names a header twice")
    return headers


def place(url: SecretStr) -> str:
    """Return scheme and host of *url*, for logs. Why no more: paths and queries are often secrets."""
    parts = urlsplit(url.get_secret_value())
    return f"{parts.scheme}://{parts.netloc}"


RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
HttpUrl = Annotated[SecretStr, AfterValidator(_http_url)]
WebhookSecrets = Annotated[
    tuple[Annotated[SecretStr, AfterValidator(_webhook_secret)], ...], Field(min_length=1, max_length=5)
]
Headers = Annotated[dict[str, SecretStr], AfterValidator(_headers)]
