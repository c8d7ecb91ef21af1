"""The event: a CloudEvent in its JSON form, and the JSON rules that every stage shares. No I/O, no clock.

``parse_json`` is the only reader of JSON that came from outside. It never raises anything but ValueError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import orjson

MAX_DEPTH = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_TIME_MS = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z, the last instant that RFC 3339 can write
# Why no pattern: this way a body is searched in a seventh of the time.
_DIGITS_AS_0 = bytes(ord("0") if chr(byte).isascii() and chr(byte).isdigit() else 0 for byte in range(256))
_LONG_DIGITS = b"0" * 19
_REFUSED_ESCAPE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
# Escaped backslashes and whole pairs are matched to step over them; group 1 is a NUL or half a pair.
_ESCAPES = re.compile(
    rb"\\(?:\\(?:\\\\)*"
    rb"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|u(0000|[dD][89a-fA-F][0-9a-fA-F]{2}))"
)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # one level down, one level up, as signed bytes
_NO_BRACKETS = bytes(set(range(256)) - set(b"[{]}"))
_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One CloudEvent: ``body`` is the JSON that travels, ``attributes`` the same parsed, ``data`` included.

    ``(source, id)`` names the event for ever. In events fresh from the normaliser ``data["raw"]`` is an
    ``orjson.Fragment``; in events read back from a queue it is parsed JSON.
    """

    body: bytes
    attributes: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.attributes["id"])

    @property
    def source(self) -> str:
        return str(self.attributes["source"])

    @property
    def type(self) -> str:
        return str(self.attributes["type"])

    @property
    def app_id(self) -> str:
        return str(self.attributes["appid"])

    @property
    def partition_key(self) -> str:
        return str(self.attributes.get("partitionkey", ""))

    @property
    def data(self) -> Mapping[str, Any]:
        data = self.attributes.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def routing_key(self) -> str:
        """``<type>.<app id>``, for example ``im.group.member.exited.1400000000``."""
        return f"{self.type}.{self.app_id}"

    def without_data(self) -> Event:
        """Return the event as brokers need it: small values take fifty times the room of their text."""
        attributes = dict(self.attributes)
        attributes.pop("data", None)
        return Event(self.body, attributes)

    @classmethod
    def parse(cls, body: bytes) -> Event:
        """Return the event in *body*; ValueError when it is not a JSON object with our envelope's names."""
        attributes = parse_json(body, MAX_DEPTH + 2)  # Why 2: raw stands in data, which stands in the event
        missing = [
            name for name in ("id", "source", "type", "appid") if not isinstance(attributes.get(name), str)
        ]
        if missing:
            raise ValueError(f"not an event of this gateway: no text in {', '.join(missing)}")
        return cls(body, attributes)


def parse_json(body: bytes, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Return the JSON object in *body*: integers exact, no lone surrogates, nested at most *max_depth* deep.

    Integers beyond 64 bits and floats beyond binary64 come as the string of their digits, so that no later
    stage rounds them. Raises ValueError for everything that is not such an object.
    """
    if _LONG_DIGITS not in body.translate(_DIGITS_AS_0):
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            value = _parse_slowly(body)
    else:
        value = _parse_slowly(body)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - bad input is a bad value here
    # Why the two counts: a body with at most 64 brackets can't be nested deeper, and most have fewer.
    if body.count(b"{") + body.count(b"[") > max_depth and _depth(body) > max_depth:
        raise ValueError(f"nested deeper than {max_depth}")
    return value


def json_text(body: bytes) -> bytes:
    """Return *body* without a byte order mark, as it may stand inside another JSON text."""
    return body.removeprefix(_BOM)


def one_line(body: bytes) -> bytes:
    """Return the JSON text *body* on one line.

    Exact: JSON forbids raw line breaks inside strings, so each one stands between tokens.
    """
    return body.replace(b"\r", b" ").replace(b"\n", b" ")


def without_nul(body: bytes) -> bytes:
    """Return the JSON text *body* with escaped NUL and lone surrogates replaced by U+FFFD.

    PostgreSQL's jsonb refuses both. Source: postgresql.org/docs/15/datatype-json.html, section 8.14.
    """
    # Why the search first: most bodies have neither, and a call per escape would hold up the event loop.
    return _ESCAPES.sub(_jsonb_escape, body) if _REFUSED_ESCAPE.search(body) else body


def iso_time(time_ms: int) -> str:
    """Return *time_ms* (Unix, milliseconds) as RFC 3339 in UTC: ``2022-12-09T08:26:54.123Z``."""
    seconds, milliseconds = divmod(time_ms, 1000)
    return f"{_iso_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=1024)
def _iso_second(seconds: int) -> str:
    # Why cached: what comes together happened in few different seconds.
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds")[:19]


def is_time(time_ms: int) -> bool:
    """Say whether *time_ms* is after 1970 and can be written as RFC 3339."""
    return 0 < time_ms <= _MAX_TIME_MS


def _jsonb_escape(match: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if match[1] else match[0]


def _text_escape(match: re.Match[bytes]) -> bytes:
    return match[0] if match[1] in (None, b"0000") else rb"\ufffd"


def _parse_slowly(body: bytes) -> Any:
    # Why in the bytes: a walk over a million values would take longer than reading them.
    mended = _ESCAPES.sub(_text_escape, body) if _REFUSED_ESCAPE.search(body) else body
    try:
        text = json_text(mended).decode("utf-8")
        return json.loads(
            text, parse_int=_exact_int, parse_float=_exact_float, parse_constant=_refuse_constant
        )
    except (RecursionError, UnicodeDecodeError) as error:
        raise ValueError(type(error).__name__) from error


def _exact_int(digits: str) -> int | str:
    if len(digits) > 20:  # Why: int() of thousands of digits is slow, and refused above 4,300
        return digits
    value = int(digits)
    return value if -(2**63) <= value < 2**64 else digits


def _exact_float(digits: str) -> float | str:
    value = float(digits)
    return digits if value in (float("inf"), float("-inf")) else value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _depth(body: bytes) -> int:
    """Return how many brackets stand in each other in *body*, which must be JSON. Only scans, no walk."""
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"")  # now each quote begins or ends a string
    outside = b"".join(bare.split(b'"')[::2])
    return max(accumulate(memoryview(outside.translate(_STEPS, _NO_BRACKETS)).cast("b")), default=0)
