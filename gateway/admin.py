"""The admin port: is it alive, is it ready and why not, the metrics; and who may use the API under /api/."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from gateway.metrics import Metrics

ACTION_HEADER = "X-Gateway-Action"
"""Whoever changes something has to send it, with any value: no form of a foreign page can."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiError(Exception):
    """What the API answers instead: a status, a token for machines and a sentence."""

    def __init__(self, status: int, error: str, detail: str) -> None:
        super().__init__(error)
        self.status, self.error, self.detail = status, error, detail


@dataclass(frozen=True, slots=True)
class Health:
    """What ``/readyz`` tells."""

    causes: list[str] = field(default_factory=list)
    """Why no callbacks should be sent here; empty: ready."""
    notes: list[str] = field(default_factory=list)
    """What is wrong though callbacks are taken, such as a broker that is away."""


class Admin:
    """Health, metrics and the API. With a token, only its bearer sees more than a status."""

    def __init__(
        self,
        token: str,
        health: Callable[[], Health],
        metrics: Metrics,
        routes: Sequence[web.AbstractRouteDef] = (),
        *,
        is_local: bool = True,
    ) -> None:
        """Take the *routes* of the API. *is_local*: it listens where only this machine comes."""
        self._token = token.encode()
        self._routes = routes
        self._is_local = is_local
        self._health = health
        self._metrics = metrics

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_routes(self._routes)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let through what may use the API, and answer in JSON what may not, or fails."""
        if not request.path.startswith("/api/"):
            return await handler(request)
        try:
            self._admit(request)
            return await handler(request)
        except ApiError as error:
            return _refusal(error.status, error.error, error.detail)
        except web.HTTPException as error:
            return _refusal(error.status, error.reason.lower().replace(" ", "_"), error.reason)

    def _admit(self, request: web.Request) -> None:
        # Why: a page may give its own name the address 127.0.0.1, and would then be taken for this site.
        if self._is_local and not _is_local(request.host):
            raise ApiError(403, "foreign_host", "Host names another site; use localhost or 127.0.0.1")
        if not self._may_see(request):
            raise ApiError(401, "no_token", "admin.token is required: Authorization: Bearer …")
        if request.method not in ("GET", "HEAD") and ACTION_HEADER not in request.headers:
            raise ApiError(
                403, "no_action_header", f"what changes something needs the header {ACTION_HEADER}: 1"
            )

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


def _refusal(status: int, error: str, detail: str) -> web.Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    told = orjson.dumps({"error": error, "detail": detail})
    return web.Response(status=status, body=told, content_type="application/json", headers=headers)


def _is_local(host: str) -> bool:
    """Say whether *host*, of a Host header, is a name of this machine that nobody else can give away."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
