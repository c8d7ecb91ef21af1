"""The admin port: is it alive, is it ready and why not, and the metrics. Changes nothing."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from gateway.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Health:
    """What ``/readyz`` tells."""

    causes: list[str] = field(default_factory=list)
    """Why no callbacks should be sent here; empty: ready."""
    notes: list[str] = field(default_factory=list)
    """What is wrong though callbacks are taken, such as a broker that is away."""


class Admin:
    """``/livez``, ``/readyz`` and ``/metrics``. With a token, only its bearer sees more than a status."""

    def __init__(self, token: str, health: Callable[[], Health], metrics: Metrics) -> None:
        self._token = token.encode()
        self._health = health
        self._metrics = metrics

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        return app

    async def _livez(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        health = self._health()
        status = 503 if health.causes else 200
        if not self._may_see(request):
            return web.Response(status=status, text="not ready\n" if health.causes else "ready\n")
        told = {"ready": not health.causes, "causes": health.causes, "notes": health.notes}
        return web.Response(status=status, body=orjson.dumps(told), content_type="application/json")

    async def _metrics_page(self, request: web.Request) -> web.Response:
        if not self._may_see(request):
            return web.Response(
                status=401,
                text="admin.token is required: Authorization: Bearer …\n",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return web.Response(
            body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    def _may_see(self, request: web.Request) -> bool:
        if not self._token:
            return True
        given = request.headers.get("Authorization", "").encode("utf-8", "replace")
        return hmac.compare_digest(given, b"Bearer " + self._token)
