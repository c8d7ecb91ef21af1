"""The query string of a callback: its known parameters, and what of it may be kept. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_plus

from gateway.errors import Refused

# Source: trtc.io/document/34354; the lower-case `command` belongs to the old room engine (1690/92699).
_KNOWN = frozenset(
    (
        "sdkappid",
        "callbackcommand",
        "command",
        "contenttype",
        "clientip",
        "optplatform",
        "sign",
        "requesttime",
    )
)
_NAME_CHARACTERS = 64


class Query(NamedTuple):
    """What a query string says."""

    params: dict[str, str]
    """The known parameters by lower-case name, decoded."""
    kept: str
    """The query as it came, without its ``Sign``, which is a credential."""


def read_query(query: str) -> Query:
    """Return what *query* says; Refused("ambiguous_query") when a known parameter stands there twice.

    Names are matched without regard to case: the sender's own products disagree.
    """
    params: dict[str, str] = {}
    # Why asked once: whether nothing stands for something else; decoding takes half of a callback's judging.
    is_plain = "%" not in query and "+" not in query
    parts = query.split("&")
    sign_at = -1
    for at, part in enumerate(parts):
        name, _, value = part.partition("=")
        key = _key(name if is_plain else unquote_plus(name))
        if key is None:
            continue
        if key in params:
            raise Refused("ambiguous_query")
        params[key] = value if is_plain else unquote_plus(value)
        if key == "sign":
            sign_at = at
    if sign_at < 0:
        return Query(params, query)
    del parts[sign_at]
    return Query(params, "&".join(parts))


def parse_query(query: str) -> dict[str, str]:
    """Return the parameters of ``read_query``."""
    return read_query(query).params


@lru_cache(maxsize=256)
def _known(name: str) -> str | None:
    key = name.lower()
    return key if key in _KNOWN else None


def _key(name: str) -> str | None:
    """Return the known parameter that *name* spells, None for others."""
    return _known(name) if len(name) <= _NAME_CHARACTERS else None
