"""The query string of a callback: its known parameters, and what of it may be kept. Pure."""

from __future__ import annotations

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


def parse_query(query: str) -> dict[str, str]:
    """Return the known parameters of *query* by lower-case name; Refused("ambiguous_query") on a double one.

    Names are matched without regard to case: the sender's own products disagree.
    """
    params: dict[str, str] = {}
    is_plain = _is_plain(query)
    for part in query.split("&"):
        name, _, value = part.partition("=")
        key = (name if is_plain else unquote_plus(name)).lower()
        if key not in _KNOWN:
            continue
        if key in params:
            raise Refused("ambiguous_query")
        params[key] = value if is_plain else unquote_plus(value)
    return params


def without_sign(query: str) -> str:
    """Return *query* without its ``Sign``, which is a credential."""
    if _is_plain(query) and "sign" not in query.lower():
        return query
    return "&".join(
        part for part in query.split("&") if unquote_plus(part.partition("=")[0]).lower() != "sign"
    )


def _is_plain(query: str) -> bool:
    """Say whether nothing in *query* stands for something else; a third of a callback's time, else."""
    return "%" not in query and "+" not in query
