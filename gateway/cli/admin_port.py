"""Asks the processes of this configuration over their admin ports."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from gateway.admin import ACTION_HEADER
from gateway.config import Config
from gateway.errors import Unavailable

_CONNECT_S = 5.0
_ANSWER_S = 60.0
_SILENT_S = 30.0


@dataclass(frozen=True, slots=True)
class Port:
    """One admin port."""

    key: str
    """``admin.port`` or ``admin.worker_port``."""
    address: str
    """``host:port``."""
    token: str

    async def ask(self, method: str, path: str) -> Any:
        """Return what the API answers, parsed; None when nothing listens there.

        Raises Unavailable with the API's own reason, or no_token, no_gateway, no_answer.
        """
        timeout = aiohttp.ClientTimeout(_ANSWER_S, sock_connect=_CONNECT_S)
        async with self._request(method, path, timeout) as answer:
            return None if answer is None else await self._told(answer)

    async def follow(self, path: str) -> AsyncGenerator[Any, None]:
        """Yield the data of each server-sent event, parsed, until the other side ends; nothing without one.

        Raises as ``ask`` does.
        """
        timeout = aiohttp.ClientTimeout(None, sock_connect=_CONNECT_S, sock_read=_SILENT_S)
        async with self._request("GET", path, timeout) as answer:
            if answer is None:
                return
            if answer.status != 200:
                await self._told(answer)
            rest = b""
            # Why not by lines: one is longer than aiohttp reads at once.
            async for part in answer.content.iter_any():
                *whole, rest = (rest + part).split(b"\n\n")
                for one in whole:
                    yield orjson.loads(one.partition(b"\ndata: ")[2])

    async def _told(self, answer: aiohttp.ClientResponse) -> dict[str, Any]:
        if answer.status == 401:
            raise Unavailable("no_token", self._wrong_token())
        try:
            told = orjson.loads(await answer.read())
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise Unavailable("no_gateway", f"{self.address} ({self.key}): what listens there is no gateway")
        if answer.status != 200:
            raise Unavailable(str(told.get("error", "refused")), str(told.get("detail", "")))
        return told

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own
    ) -> AsyncIterator[aiohttp.ClientResponse | None]:
        headers = {ACTION_HEADER: "1"} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
            try:
                async with session.request(method, f"http://{self.address}{path}") as answer:
                    yield answer
            except aiohttp.ClientConnectorError:
                yield None
            except (aiohttp.ClientError, TimeoutError) as error:
                raise Unavailable(
                    "no_answer", f"{self.address} ({self.key}): {type(error).__name__}"
                ) from error

    def _wrong_token(self) -> str:
        return (
            f"{self.address} ({self.key}): it was started with another admin.token than this file has;"
            " a new one needs a restart"
        )


def ports_of(config: Config) -> list[Port]:
    """Return the ports that processes of *config* on this machine have, the gateway's first."""
    admin = config.admin
    host = admin.host
    try:
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
        host = f"[{host}]" if address.version == 6 else host
    except ValueError:
        pass  # a name
    found = {"admin.port": admin.port, "admin.worker_port": admin.worker_port}
    token = admin.token.get_secret_value()
    return [Port(key, f"{host}:{port}", token) for key, port in found.items() if port]


def nothing_runs(ports: Sequence[Port]) -> Unavailable:
    """Return what to raise when none of *ports* answers."""
    where = " or ".join(f"{port.address} ({port.key})" for port in ports) or "any port: both are 0"
    return Unavailable(
        "nothing_runs",
        f"no gateway answers at {where}. Start it; or, when it was started with other ports than"
        " the file has, send it SIGHUP and look into its log",
    )
