"""Parked events over the admin port: what the commands do, in JSON. Who may ask, ``admin`` decides."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.admin import ApiError
from gateway.broker import Broker, Delivery
from gateway.config import SinkBase
from gateway.dead.choice import Choice
from gateway.dead.mending import mended
from gateway.dead.showing import fields, veiled_whole, whole
from gateway.dead.work import Work
from gateway.errors import Unavailable
from gateway.exits import iso_to_ms

_log = logging.getLogger(__name__)
_NOT_PARKED = "no parked event of this sink has this id"
_PATH = "/api/sinks/{sink}/dead"
Asked = TypeVar("Asked", bound="Filter")
Chosen = TypeVar("Chosen", bound="Purge")


class Filter(BaseModel):
    """Which events are meant; as query or in a JSON body."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str | None = None
    reason: str | None = None
    group: str | None = None
    app: str | None = None
    id: str | None = None
    since: str | None = None
    """RFC 3339."""
    until: str | None = None

    def choice(self) -> Choice:
        """Return what is meant; ValueError for what is no time."""
        since_ms, until_ms = (None if one is None else iso_to_ms(one) for one in (self.since, self.until))
        return Choice(self.type, self.reason, self.group, self.app, self.id, since_ms, until_ms)


class Listing(Filter):
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class Purge(Filter):
    """What changes something: a filter, or ``all``."""

    all: bool = False
    yes: bool = False

    @property
    def is_open(self) -> bool:
        """Nothing is chosen."""
        return all(getattr(self, name) is None for name in Filter.model_fields)


class Replay(Purge):
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1000
    rate: Annotated[float, Field(ge=10, le=1e6)] = 500
    dry_run: bool = False
    event: str | None = None
    """The JSON text of the one event that ``id`` names, edited."""
    rename: bool = False


class DeadApi:
    """The routes; one request works on the dead queue of one sink, and others are told so meanwhile."""

    def __init__(self, broker: Broker, sinks: Mapping[str, SinkBase], *, shows_content: bool = True) -> None:
        """Without *shows_content* an event is shown without what people wrote."""
        self._whole = whole if shows_content else veiled_whole
        self._broker = broker
        self._sinks = sinks

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        return [
            web.get(_PATH, self._list),
            web.get(_PATH + "/{id}", self._show),
            web.post(_PATH + "/replay", self._replay),
            web.post(_PATH + "/purge", self._purge),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        asked = _checked(Listing, dict(request.query))
        async with self._opened(request, asked, asked.limit) as work:
            events = [fields(delivery) async for delivery in work.look()]
            return _json({"sink": _sink(request), "parked": work.parked, "events": events})

    async def _show(self, request: web.Request) -> web.Response:
        async with self._opened(request, Filter(id=request.match_info["id"])) as work:
            events = [self._whole(delivery) async for delivery in work.look()]
        if not events:
            raise ApiError(404, "not_parked", _NOT_PARKED)
        return _json({"sink": _sink(request), "events": events})

    async def _replay(self, request: web.Request) -> web.Response:
        asked = await _body(Replay, request)
        sink = self._sinks.get(_sink(request))
        if sink is not None and sink.effect != "once" and not (asked.yes or asked.dry_run):
            raise ApiError(
                400, "needs_yes", "this sink writes again what comes again: say yes if that is fine"
            )
        async with self._opened(request, asked, asked.limit) as work:
            if asked.event is not None:
                await _replace(request, work, asked)
            elif asked.dry_run:
                await work.count()
            else:
                with _audited(request, "replay", asked, work):
                    await work.replay(asked.rate)
            return _counted(request, work, is_dry=asked.dry_run)

    async def _purge(self, request: web.Request) -> web.Response:
        asked = await _body(Purge, request)
        async with self._opened(request, asked) as work:
            if asked.yes:
                with _audited(request, "purge", asked, work):
                    await work.purge()
            else:
                await work.count()
            return _counted(request, work, is_dry=not asked.yes)

    @asynccontextmanager
    async def _opened(self, request: web.Request, asked: Filter, limit: int = 0) -> AsyncIterator[Work]:
        """Take the dead queue in hand; everything that can go wrong becomes an ApiError."""
        sink = _sink(request)
        if sink not in self._sinks:
            raise ApiError(404, "no_such_sink", "this process works for no sink of this name")
        try:
            choice = asked.choice()
        except ValueError as error:
            raise ApiError(400, "bad_request", f"since, until: {error}") from error
        who = f"the admin API of process {os.getpid()} on {socket.gethostname()}, asked by {request.remote}"
        try:
            async with self._broker.dead(sink, who) as dead:
                yield Work(dead, choice, limit)
        except Unavailable as fault:
            status = 409 if fault.reason == "in_use" else 503
            raise ApiError(status, fault.reason, fault.detail) from fault


async def _replace(request: web.Request, work: Work, asked: Replay) -> None:
    """Replay the event that was edited instead of the one with its id."""
    text = asked.event or ""
    original = await work.first()
    if original is None:
        raise ApiError(404, "not_parked", _NOT_PARKED)

    def change(delivery: Delivery) -> Delivery:
        return mended(delivery, text, may_rename=asked.rename)

    try:
        change(original)
    except ValueError as error:
        raise ApiError(400, "not_this_event", str(error)) from error
    if not asked.dry_run:
        with _audited(request, "replay edited", asked, work):
            await work.replace(original.body, change)


@contextmanager
def _audited(request: web.Request, action: str, asked: Filter, work: Work) -> Iterator[None]:
    """Log who does what to which events, and how many they were, also where it ends early."""
    try:
        yield
    finally:
        chosen = asked.model_dump(exclude_none=True, include=set(Filter.model_fields))
        # Why as ASCII: it comes from outside, and no line of a log may be made up by it.
        _log.info(
            "Audit: %s of parked events of sink %s over the admin port by %s: %d events, chosen by %s",
            action,
            _sink(request),
            request.remote,
            work.done.events,
            json.dumps(chosen),
        )


async def _body(kind: type[Chosen], request: web.Request) -> Chosen:
    """Return what the body asks for; nothing chosen is an error, so that nobody empties a queue by a slip."""
    try:
        given = orjson.loads(await request.read())
    except ValueError as error:
        raise ApiError(400, "bad_request", "the body is no JSON") from error
    asked = _checked(kind, given)
    if isinstance(asked, Replay) and asked.event is not None and asked.id is None:
        raise ApiError(400, "bad_request", "event: name the one that is edited with id")
    if asked.is_open and not asked.all:
        raise ApiError(
            400, "nothing_chosen", 'choose by type, reason, group, app, id, since, until, or "all"'
        )
    return asked


def _checked(kind: type[Asked], given: object) -> Asked:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        places = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in error.errors()
        )
        raise ApiError(400, "bad_request", places) from error


def _counted(request: web.Request, work: Work, *, is_dry: bool) -> web.Response:
    """Answer how many events matched (for a purge: were removed), and how many moved."""
    found = work.chosen if is_dry else work.done
    return _json(
        {
            "sink": _sink(request),
            "dry_run": is_dry,
            "events": found.events,
            "matched": max(work.chosen.events, work.done.events),
            "types": dict(found.types.most_common()),
            "reasons": dict(found.reasons.most_common()),
        }
    )


def _sink(request: web.Request) -> str:
    return request.match_info["sink"]


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")
