"""An HTTP service that takes events, as a user of the http sink would write one; in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.services.processes import HOST, free_ports


@dataclass
class Request:
    """One POST as it arrived."""

    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    connection: int
    """The caller's port: equal ones came by one connection."""

    @property
    def events(self) -> list[Any]:
        parsed = json.loads(self.body)
        return parsed if isinstance(parsed, list) else [parsed]

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]


@dataclass
class Reply:
    """What to answer, and whether the events count as taken."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class WebhookService:
    """Listens on ``port`` from construction to ``close()``; ``reply`` decides what a request gets.

    ``taken`` are the events of requests answered 2xx, in the order of the answers.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, path: str = "/events") -> None:
        (self.port,) = free_ports(1)
        self.url = f"{'https' if tls else 'http'}://{HOST}:{self.port}{path}"
        self.reply: Callable[[Request], Reply] = lambda request: Reply()
        self.requests: list[Request] = []
        self.taken: list[Any] = []
        self.at_once = self.most_at_once = 0
        self.delay_s = 0.0
        self._tls = tls
        self._runner: web.AppRunner | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.listen()

    def __enter__(self) -> WebhookService:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def taken_ids(self) -> list[str]:
        return [event["id"] for event in self.taken]

    def listen(self) -> None:
        """Take connections, again on the same port."""
        self._do(self._listen())

    def deafen(self) -> None:
        """Close the port and all connections."""
        self._do(self._deafen())

    def close(self) -> None:
        self.deafen()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self.port, ssl_context=self._tls).start()

    async def _deafen(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            assert request.transport is not None
            peer = request.transport.get_extra_info("peername")[1]
            one = Request(
                {name.lower(): value for name, value in request.headers.items()}, await request.read(), peer
            )
            self.requests.append(one)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            reply = self.reply(one)
        finally:
            self.at_once -= 1
        if 200 <= reply.status < 300:
            self.taken += one.events
        return web.Response(status=reply.status, headers=reply.headers, body=reply.body)
