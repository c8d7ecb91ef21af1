"""``/api/overview`` and, live, ``/api/overview/live``: figures, the last hour, and what is not well."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from aiohttp import web

from gateway.admin import Health
from gateway.console.figures import Figures, figures
from gateway.console.history import EVERY_S, History
from gateway.console.stream import Streams
from gateway.console.verdict import causes_of, verdict
from gateway.logs import where
from gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_MINUTE_S = 60.0
_WINDOW_S = 300.0
_LIVE_S = 2.0
_FRESH_S = 1.0


class Overview:
    """Keeps the history while ``run`` runs."""

    def __init__(
        self,
        metrics: Metrics,
        health: Callable[[], Health],
        about: Mapping[str, Any],
        silence_s: float,
        streams: Streams,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """*about* is told as it is: what this process does, and which release it is."""
        self._metrics = metrics
        self._health = health
        self._about = about
        self._silence_s = silence_s
        self._streams = streams
        self._now_s = now_s
        self._history = History()
        self._kept: Figures | None = None

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        return [web.get("/api/overview", self._whole), web.get("/api/overview/live", self._live)]

    async def run(self) -> None:
        """Note the figures until cancelled."""
        while True:
            try:
                self._history.note(self.figures())
            except Exception as fault:  # noqa: BLE001 - a page that is stale must not end the process
                _log.error("The console's history can't be kept (%s)", where(fault))
            await asyncio.sleep(EVERY_S)

    def figures(self) -> Figures:
        """Return the figures of now, or of less than a second ago."""
        now_s = self._now_s()
        # Why kept: collecting takes some 4 ms, and callbacks wait meanwhile; many pages may ask.
        if self._kept is None or not 0 <= now_s - self._kept["at_s"] < _FRESH_S:
            self._kept = figures(self._metrics.shown.collect(), now_s)
        return self._kept

    def told(self) -> dict[str, Any]:
        """Return what the page shows, the last hour aside."""
        now, health = self.figures(), self._health()
        before = self._history.before(now["at_s"], _WINDOW_S)
        causes = causes_of(now, before, health.causes, health.notes, self._silence_s)
        return {
            "about": self._about,
            "level": verdict(causes),
            "causes": [asdict(one) for one in causes],
            "now": now,
            "minute": self._history.before(now["at_s"], _MINUTE_S),
        }

    async def _whole(self, request: web.Request) -> web.Response:
        told = {**self.told(), "hour": self._history.series()}
        return web.Response(body=orjson.dumps(told), content_type="application/json")

    async def _live(self, request: web.Request) -> web.StreamResponse:
        return await self._streams.follow(request, self._changes())

    async def _changes(self) -> AsyncIterator[tuple[str, object]]:
        while True:
            yield "overview", self.told()
            await asyncio.sleep(_LIVE_S)
