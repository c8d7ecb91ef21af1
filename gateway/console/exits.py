"""``/api/exits``: who left which group, and how many a day; ``/api/exits.csv`` for spreadsheets."""

from __future__ import annotations

import asyncio
import csv
import io
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web

from gateway.admin import ApiError
from gateway.errors import ConfigError, Unavailable
from gateway.event import iso_time
from gateway.exits import ExitsQuery, MemberExit, iso_to_ms

ReadExits = Callable[[ExitsQuery], Awaitable[list[MemberExit]]]
_SHOWN = 200
# Bound: rows in memory for one question, about 6 MB, 30 MB for a file; one question at a time.
_COUNTED = 10_000
_FILE = 50_000
_TEXTS = ("group", "member", "operator", "app")
_ASKED = frozenset((*_TEXTS, "since", "until", "sink"))
_HEAD = ("time_utc", "app", "group", "group_type", "member", "how", "operator", "event_id")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""The last four are the wide forms of the first four, which some spreadsheets take for them."""


class Exits:
    """Asks the databases of this configuration, wherever the workers run."""

    def __init__(self, readers: Mapping[str, ReadExits]) -> None:
        """*readers*: by the name of the sink that keeps the table; the first is the default."""
        self._readers = readers
        self._turn = asyncio.Lock()

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        return [web.get("/api/exits", self._list), web.get("/api/exits.csv", self._file)]

    async def _list(self, request: web.Request) -> web.Response:
        told: dict[str, Any] = {"sinks": list(self._readers), "exits": [], "days": {}, "is_cut": False}
        if self._readers:
            async with self._turn:
                found, note = await self._read(request, _COUNTED)
                told |= {
                    "exits": [_row(one) for one in found[:_SHOWN]],
                    "days": Counter(iso_time(one.time_ms)[:10] for one in found),
                    "counted": len(found),
                    "is_cut": len(found) == _COUNTED,
                    "note": note,
                }
        return web.Response(body=orjson.dumps(told), content_type="application/json")

    async def _file(self, request: web.Request) -> web.Response:
        if not self._readers:
            raise ApiError(404, "no_database", "no sink that keeps a table of member exits is configured")
        async with self._turn:
            found, _ = await self._read(request, _FILE)
            # Why a thread: fifty thousand lines take longer than an answer may wait.
            text = await asyncio.to_thread(_csv, found)
        name = f"member-exits-newest-{_FILE}.csv" if len(found) == _FILE else "member-exits.csv"
        return web.Response(
            body=text,
            content_type="text/csv",
            charset="utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    async def _read(self, request: web.Request, limit: int) -> tuple[list[MemberExit], str]:
        """Return rows, and a sentence where the table is not there yet."""
        asked = {key: value for key, value in request.query.items() if value}
        if unknown := asked.keys() - _ASKED:
            raise ApiError(400, "bad_request", f"unknown: {', '.join(sorted(map(repr, unknown)))}")
        read = self._readers.get(asked.get("sink", next(iter(self._readers))))
        if read is None:
            raise ApiError(404, "no_such_sink", "no sink of this name keeps a table of member exits")
        try:
            since_ms, until_ms = (
                iso_to_ms(asked[key]) if key in asked else None for key in ("since", "until")
            )
        except ValueError as error:
            raise ApiError(400, "bad_request", f"since, until: {error}") from error
        texts = {key: asked.get(key) for key in _TEXTS}
        try:
            return await read(ExitsQuery(**texts, since_ms=since_ms, until_ms=until_ms, limit=limit)), ""
        except Unavailable as fault:
            if fault.reason == "no_table":
                return [], fault.detail
            raise ApiError(503, fault.reason, fault.detail) from fault
        except ConfigError as fault:
            raise ApiError(503, "no_driver", str(fault)) from fault


def _row(one: MemberExit) -> dict[str, Any]:
    return {
        "time": iso_time(one.time_ms),
        "app": one.app_id,
        "group": one.group_id,
        "group_type": one.group_type,
        "member": one.member,
        "how": one.exit_type,
        "operator": one.operator,
        "event_id": one.event_id,
    }


def _csv(exits: Sequence[MemberExit]) -> bytes:
    """Return *exits* as CSV with a byte order mark, without which Excel takes UTF-8 for something else."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_HEAD)
    writer.writerows([_cell(value) for value in _row(one).values()] for one in exits)
    return b"\xef\xbb\xbf" + text.getvalue().encode("utf-8", "replace")


def _cell(value: str | None) -> str:
    # Why: a spreadsheet would run what begins like this as a formula, and names come from strangers. Ids of
    # groups begin with @, so all of these have the apostrophe before them.
    text = value or ""
    return f"'{text}" if text.startswith(_FORMULA) else text
