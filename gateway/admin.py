"""The admin port: is it alive, is it ready and why not, the metrics; and who may use the API under /api/."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import orjson
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from gateway.metrics import Metrics
from gateway.roles import Keys, Role

_log = logging.getLogger(__name__)
ACTION_HEADER = "X-Gateway-Action"
"""Whoever changes something has to send it, with any value: no form of a foreign page can."""
COOKIE = "gateway_session"
ROLE = web.RequestKey("role", str)
"""``act`` or ``view``, of whoever is let through to the API."""
_LOGIN = "/api/login"
_SESSION_S = 12 * 3600
_PAUSE_S = 60.0
_BODY_S = 5.0
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
        view_token: str = "",
        is_local: bool = True,
        now_s: Callable[[], float] = time.time,
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Take the *routes* of API and console. *is_local*: it listens where only this machine comes.

        *refresh* is awaited before each answer to who may see them: it brings *health* and *metrics* up to
        date. Probes do without.
        """
        self._refresh = refresh
        self._keys = Keys(token, view_token)
        self._routes = routes
        self._is_local = is_local
        self._health = health
        self._metrics = metrics
        self._now_s = now_s
        self._failed, self._say_at_s = 0, 0.0

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/api/me", self._me)
        app.router.add_post(_LOGIN, self._login)
        app.router.add_post("/api/logout", self._logout)
        app.router.add_routes(self._routes)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let through what may use the API, and answer in JSON what may not, or fails."""
        if not request.path.startswith("/api/"):
            return await handler(request)
        try:
            self._admit(request)
            if request[ROLE]:
                await self._refreshed()
            answer = await handler(request)
        except ApiError as error:
            return _refusal(error.status, error.error, error.detail)
        except web.HTTPException as error:
            return _refusal(error.status, error.reason.lower().replace(" ", "_"), error.reason)
        if not answer.prepared:
            answer.headers.update(_PRIVATE)
        return answer

    async def _refreshed(self) -> None:
        # Why for nobody else: it costs time of the processes that take callbacks, and strangers are to cost
        # little. Nor for probes: they give up within a second, and what they ask for is hardly older.
        if self._refresh is not None:
            await self._refresh()

    def _admit(self, request: web.Request) -> None:
        # Why: a page may give its own name the address 127.0.0.1, and would then be taken for this site.
        if self._is_local and not _is_local(request.host):
            raise ApiError(403, "foreign_host", "Host names another site; use localhost or 127.0.0.1")
        is_action = request.method not in ("GET", "HEAD")
        role = self._role(request)
        if role is None and request.path != _LOGIN:
            raise ApiError(401, "no_token", "admin.token is required: Authorization: Bearer …, or a login")
        if is_action and ACTION_HEADER not in request.headers:
            raise ApiError(
                403, "no_action_header", f"what changes something needs the header {ACTION_HEADER}: 1"
            )
        if is_action and role is Role.VIEW and request.path not in (_LOGIN, "/api/logout"):
            raise ApiError(403, "only_view", "this token may only look; log in with admin.token to act")
        request[ROLE] = role or ""

    def _role(self, request: web.Request) -> Role | None:
        if self._keys.is_open:
            return Role.ACT
        if header := request.headers.get("Authorization"):
            return self._keys.of_bearer(header)
        return self._keys.of_cookie(request.cookies.get(COOKIE, ""), self._now_s())

    async def _me(self, request: web.Request) -> web.Response:
        return _json({"role": request[ROLE], "needs_login": not self._keys.is_open})

    async def _login(self, request: web.Request) -> web.Response:
        """Give a cookie for a token: a browser can't add headers to a link, and scripts never see it."""
        try:
            # Why a deadline: a stranger's is read here alone, and one that never ends would keep one of the
            # few connections, which probes need too.
            async with asyncio.timeout(_BODY_S):
                text = await request.read()
            token = orjson.loads(text)["token"]
        except TimeoutError as error:
            raise ApiError(408, "slow_body", f"the body took longer than {_BODY_S:g} s") from error
        except (ValueError, TypeError, KeyError) as error:
            raise ApiError(400, "bad_request", 'the body is to be {"token": "…"}') from error
        role = self._keys.of_token(token) if isinstance(token, str) else None
        if role is None:
            self._note_failed(request)
            raise ApiError(401, "wrong_token", "this is neither admin.token nor admin.view_token")
        _log.info("Audit: login to the console by %s, who may %s", request.remote, role)
        answer = _json({"role": role})
        answer.set_cookie(
            *(COOKIE, self._keys.cookie(role, int(self._now_s()) + _SESSION_S)),
            max_age=_SESSION_S,
            httponly=True,
            samesite="Strict",
            # Why believed from anybody: it can only make the caller's own cookie stricter.
            secure=request.headers.get("X-Forwarded-Proto") == "https",
        )
        return answer

    def _note_failed(self, request: web.Request) -> None:
        self._failed += 1
        now_s = self._now_s()
        # Why seldom: strangers must not fill the log.
        if now_s >= self._say_at_s:
            self._say_at_s = now_s + _PAUSE_S
            _log.warning(
                "Logins to the console with a wrong token: %d so far, the last from %s. Said at most once a"
                " minute",
                self._failed,
                request.remote,
            )

    async def _logout(self, request: web.Request) -> web.Response:
        answer = _json({})
        answer.del_cookie(COOKIE, httponly=True, samesite="Strict")
        return answer

    async def _livez(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        health = self._health()
        status = 503 if health.causes else 200
        if self._role(request) is None:
            return web.Response(status=status, text="not ready\n" if health.causes else "ready\n")
        return _json({"ready": not health.causes, "causes": health.causes, "notes": health.notes}, status)

    async def _metrics_page(self, request: web.Request) -> web.Response:
        if self._role(request) is None:
            return web.Response(
                status=401,
                text="admin.token is required: Authorization: Bearer …\n",
                headers={"WWW-Authenticate": "Bearer"},
            )
        await self._refreshed()
        return web.Response(
            body=generate_latest(self._metrics.shown), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


_PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")


def _refusal(status: int, error: str, detail: str) -> web.Response:
    answer = _json({"error": error, "detail": detail}, status)
    answer.headers.update(_PRIVATE)
    if status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def _is_local(host: str) -> bool:
    """Say whether *host*, of a Host header, is a name of this machine that nobody else can give away."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
