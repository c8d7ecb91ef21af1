"""Server-sent events: how many browsers may follow at once, and how what they get is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import orjson
from aiohttp import web

from gateway.admin import ApiError

_MOST = 16
_WRITE_S = 10.0
_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Accel-Buffering": "no",  # nginx would keep the events back
}


class Streams:
    """All that follow; bound: 16, because the admin port has 64 connections for everything."""

    def __init__(self) -> None:
        self._count = 0

    async def follow(
        self, request: web.Request, events: AsyncIterator[tuple[str, object]]
    ) -> web.StreamResponse:
        """Answer *request* with *events*, (name, value) each, until the other side is gone."""
        if self._count >= _MOST:
            raise ApiError(503, "too_many_viewers", f"{_MOST} pages follow already; close one of them")
        self._count += 1
        try:
            response = web.StreamResponse(headers=_HEADERS)
            await response.prepare(request)
            with suppress(ConnectionError, TimeoutError):
                async for name, value in events:
                    async with asyncio.timeout(_WRITE_S):
                        await response.write(
                            b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(value))
                        )
            return response
        finally:
            self._count -= 1
