"""``/api/events``: the last events that went out, one of them whole, and live as server-sent events."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

import orjson
from aiohttp import web

from gateway.admin import ApiError
from gateway.console.stream import Streams
from gateway.event import Event
from gateway.recent import Recent
from gateway.veil import veiled

_LIVE_S = 1.0
_SHOWN = 100
# Bound: bodies that one page has parsed a second, so that a busy gateway is busy with callbacks.
_LOOKED_AT = 200
_FILTERS = ("type", "app", "subject")
_ATTRIBUTES = {"type": "type", "app": "appid", "subject": "subject"}
_TOLD = (
    "id",
    "source",
    "type",
    "subject",
    "time",
    "recordedtime",
    "appid",
    "command",
    "verified",
    "position",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are meant: ``*`` and ``?`` stand for any text."""

    patterns: dict[str, re.Pattern[str]]
    """By attribute."""
    literals: tuple[bytes, ...]
    """What has to stand in a body that matches; so most others need no parsing."""

    @classmethod
    def of(cls, asked: dict[str, str]) -> Wanted:
        # Why [[]: no bracket has a meaning, and ids of groups may have some.
        patterns = {
            _ATTRIBUTES[name]: re.compile(translate(text.replace("[", "[[]"))) for name, text in asked.items()
        }
        longest = (max(re.split(r"[*?]", text), key=len) for text in asked.values())
        return cls(patterns, tuple(orjson.dumps(text)[1:-1] for text in longest))

    def may_be(self, body: bytes) -> bool:
        """Say whether *body* needs a closer look."""
        return all(literal in body for literal in self.literals)

    def event(self, body: bytes) -> Event | None:
        """Return the event in *body* if it is meant."""
        if not self.may_be(body):
            return None
        event = Event.parse(body)
        found = all(
            pattern.fullmatch(str(event.attributes.get(name, ""))) for name, pattern in self.patterns.items()
        )
        return event if found else None


class Events:
    """Looks into the ring of the last events; None where this process publishes nothing."""

    def __init__(self, recent: Recent | None, streams: Streams, *, shows_content: bool) -> None:
        self._recent = recent
        self._streams = streams
        self._shows_content = shows_content
        # Bound: one copy of the ring, and one thread that reads it, however many ask.
        self._turn = asyncio.Lock()

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        return [
            web.get("/api/events", self._list),
            web.get("/api/events/live", self._live),
            web.get("/api/events/one/{id}", self._one),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        wanted = _wanted(request)
        told: dict[str, Any] = {
            "publishes": self._recent is not None,
            "shows_content": self._shows_content,
            "events": [],
        }
        if self._recent is not None:
            async with self._turn:
                # Why a thread: with a pattern that seldom matches, it may read all 4 MiB.
                told["events"] = await asyncio.to_thread(_newest, wanted, self._recent.newest(), _SHOWN)
        return web.Response(body=orjson.dumps(told), content_type="application/json")

    async def _one(self, request: web.Request) -> web.Response:
        literal = request.match_info["id"].encode("utf-8", "replace")
        wanted = Wanted({"id": re.compile(re.escape(request.match_info["id"]))}, (literal,))
        if self._recent is not None:
            async with self._turn:
                found = await asyncio.to_thread(_first, wanted, self._recent.newest())
            if found is not None:
                number, event = found
                whole = event.attributes if self._shows_content else veiled(event.attributes)
                told = {"number": number, "shows_content": self._shows_content, "event": whole}
                return web.Response(body=orjson.dumps(told), content_type="application/json")
        raise ApiError(404, "not_here", "this event is not among the last ones any more")

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if self._recent is None:
            raise ApiError(404, "publishes_nothing", "this process publishes no events; gateway serve does")
        return await self._streams.follow(request, self._changes(self._recent, _wanted(request)))

    async def _changes(self, recent: Recent, wanted: Wanted) -> AsyncIterator[tuple[str, object]]:
        seen = recent.count
        while True:
            new = recent.newest(seen)
            came, seen = recent.count - seen, recent.count
            likely = [one for one in new if wanted.may_be(one[1])]
            events = _newest(wanted, likely[:_LOOKED_AT], _LOOKED_AT)
            # Neither shown nor looked at: too many in one second, or thrown out of the ring meanwhile.
            missed = came - len(new) + max(0, len(likely) - _LOOKED_AT)
            yield "events", {"events": events, "came": came, "missed": missed}
            await asyncio.sleep(_LIVE_S)


def _first(wanted: Wanted, found: Sequence[tuple[int, bytes]]) -> tuple[int, Event] | None:
    """Return number and event of the first of *found* that is meant."""
    events = ((number, wanted.event(body)) for number, body in found)
    return next(((number, event) for number, event in events if event), None)


def _newest(wanted: Wanted, found: Sequence[tuple[int, bytes]], limit: int) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    for number, body in found:
        if len(told) == limit:
            break
        if event := wanted.event(body):
            row = {name: event.attributes.get(name) for name in _TOLD}
            told.append({"number": number, "bytes": len(body), **row})
    return told


def _wanted(request: web.Request) -> Wanted:
    asked = {key: value for key, value in request.query.items() if value}
    if unknown := asked.keys() - set(_FILTERS):
        raise ApiError(400, "bad_request", f"unknown: {', '.join(sorted(map(repr, unknown)))}")
    if any(len(value) > 500 for value in asked.values()):
        raise ApiError(400, "bad_request", "a filter has 500 characters at most")
    return Wanted.of(asked)
