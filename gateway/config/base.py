"""What all records of the configuration share."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

_APP_ID = r"^[0-9]{1,20}$"
_URL_PATH = r"^/[^?#\s]*$"
_NAME = r"^[a-z][a-z0-9_-]{0,62}$"
_TARGET = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
STREAM = r"^[!-z|~]*(\{[!-z|~]+\}[!-z|~]*)?$"
COLUMN = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"
TABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?$"
MEANT: Mapping[str, str] = {
    COLUMN: "must be the name of a column: a letter, then letters, digits or _, at most 63, without quotes",
    TABLE: "must be the name of a table: letters, digits and _, at most 63; a schema's may stand before it",
    _APP_ID: "must be an SDKAppID: decimal digits, at most 20",
    _URL_PATH: "must be the path of the console's callback URL: it begins with / and has no ?, # or blank",
    _NAME: "must be a name: a lower-case letter, then lower-case letters, digits, _ or -, at most 63",
    _TARGET: "must be module:Class, like my_sinks:Crm",
    STREAM: "must be a key without blanks, with at most one {part} in braces (its place in a cluster)",
}
"""What a pattern asks for, in words."""


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        try:
            whole = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError("must be a network, like 192.0.2.0/24 or 2001:db8::/32") from None
        raise ValueError(f"must be a whole network; that would be {whole}") from None
    return text


def _number(value: Any) -> Any:
    # Why: pydantic takes yes for 1, and a limit of 1 is nobody's wish.
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic makes a fault of ValueError only
    return value


def _host(text: str) -> str:
    is_address = ":" not in text
    with suppress(ValueError):
        is_address = bool(ipaddress.ip_address(text))
    if not is_address or "/" in text:
        raise ValueError("must be an address or a host name, without scheme and port")
    return text


def _named(path: Any) -> Any:
    # Why: "" would be the folder that the process runs in; an unset variable should say that it is one.
    if path == "":
        raise ValueError("must name a file; leave the key out, or say null, for none")
    return path


def _digits(value: Any) -> Any:
    # Why: YAML reads an app id in a list as a number.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def readable_amqp(url: str) -> str:
    """Return *url*; ValueError without host and port: an unescaped character of a password cuts them off."""
    if not re.match(r"^amqps?://[^/\s]", url):
        raise ValueError("must be amqp://… or amqps://…")
    try:
        parts = urlsplit(url)
        is_readable = parts.hostname and parts.port != 0 and ("@" not in url or "@" in parts.netloc)
    except ValueError:
        is_readable = False
    if not is_readable:
        raise ValueError(
            "can't be read as amqp(s)://user:password@host:5672/vhost; in a password write"
            " / as %2F, ? as %3F, # as %23 and : as %3A"
        )
    return url


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Whole = Annotated[int, BeforeValidator(_number)]
Port = Annotated[Whole, Field(ge=0, le=65535)]
Positive = Annotated[Whole, Field(ge=1)]
Number = Annotated[float, BeforeValidator(_number)]
Seconds = Annotated[Number, Field(gt=0, le=86_400, allow_inf_nan=False)]
Host = Annotated[str, AfterValidator(_host)]
AppId = Annotated[str, BeforeValidator(_digits), Field(pattern=_APP_ID)]
UrlPath = Annotated[str, Field(pattern=_URL_PATH)]
Name = Annotated[str, Field(pattern=_NAME)]
Target = Annotated[str, Field(pattern=_TARGET, max_length=500)]
File = Annotated[Path, BeforeValidator(_named)]
FieldName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$", max_length=200)]
Cidr = Annotated[str, AfterValidator(_network)]
AmqpUrls = Annotated[
    tuple[Annotated[str, AfterValidator(readable_amqp)], ...], BeforeValidator(_listed), Field(min_length=1)
]
Patterns = Annotated[tuple[str, ...], Field(min_length=1)]


class Section(BaseModel):
    """Base of all records: unknown keys are errors, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
