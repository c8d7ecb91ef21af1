"""Asks RabbitMQ's management API for what an AMQP client can't see: bindings."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from gateway.config import Broker as BrokerConfig
from gateway.errors import Unavailable
from gateway.topology import Binding, Topology

_SOON_S = 2.0
"""Who reconnects waits for it."""
_HINT = "name the management API with broker.management_url, and enable the plug-in rabbitmq_management"


async def bindings_from(config: BrokerConfig, amqp_url: URL, exchange: str) -> set[tuple[str, str]]:
    """Return (destination, routing key) of each binding of *exchange*. Raises Unavailable("management")."""
    path = f"exchanges/{_vhost(amqp_url)}/{quote(exchange, safe='')}/bindings/source"
    found = await _get(config, amqp_url, path, _SOON_S)
    return {(str(one["destination"]), str(one["routing_key"])) for one in found}


async def stale_bindings(config: BrokerConfig, topology: Topology, amqp_url: URL) -> list[Binding]:
    """Return bindings of the events exchange to exchanges of our sinks that *topology* does not name.

    Raises Unavailable("management").
    """
    path = f"exchanges/{_vhost(amqp_url)}/{quote(topology.events, safe='')}/bindings/source"
    found = await _get(config, amqp_url, path, config.connect_timeout_s * 2)
    patterns = {sink.exchange: sink.patterns for sink in topology.sinks}
    return [
        Binding(topology.events, str(one["destination"]), str(one["routing_key"]), to_queue=False)
        for one in found
        if one["destination_type"] == "exchange"
        and one["destination"] in patterns
        and one["routing_key"] not in patterns[one["destination"]]
        and not one["arguments"]  # Why: ours have none, and who made it with some knows what for
    ]


async def foreign_queues(config: BrokerConfig, topology: Topology) -> list[str]:
    """Return queues that get our events though no sink reads them. Raises Unavailable("management").

    These are queues bound to our exchanges, and those behind exchanges that are bound to them.
    """
    amqp_url = URL(config.urls[0])
    bindings = await _get(config, amqp_url, f"bindings/{_vhost(amqp_url)}", config.connect_timeout_s * 2)
    ours = {queue.name for queue in topology.queues()} | set(config.ignore)
    exchanges: set[str] = set()
    found = [exchange.name for exchange in topology.exchanges()]
    while found:  # what is bound to ours, and what is bound to that
        exchanges.add(found[-1])
        source = found.pop()
        found += [
            str(one["destination"])
            for one in bindings
            if one["source"] == source
            and one["destination_type"] == "exchange"
            and one["destination"] not in exchanges
        ]
    return sorted(
        {
            str(one["destination"])
            for one in bindings
            if one["source"] in exchanges
            and one["destination_type"] == "queue"
            and one["destination"] not in ours
            and one["source"] not in config.ignore
        }
    )


async def arguments_of(config: BrokerConfig, amqp_url: URL, queue: str) -> Mapping[str, Any]:
    """Return the arguments of *queue*. Raises Unavailable("management" | "missing")."""
    path = f"queues/{_vhost(amqp_url)}/{quote(queue, safe='')}"
    found = await _ask(config, amqp_url, path, _SOON_S)
    arguments = found.get("arguments") if isinstance(found, dict) else None
    return arguments if isinstance(arguments, dict) else {}


async def _get(config: BrokerConfig, amqp_url: URL, path: str, timeout_s: float) -> list[Mapping[str, Any]]:
    found = await _ask(config, amqp_url, path, timeout_s)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Unavailable("management", f"{amqp_url.host} answers {path} with something else; {_HINT}")
    return found


async def _ask(config: BrokerConfig, amqp_url: URL, path: str, timeout_s: float) -> Any:
    base = URL(config.management_url) if config.management_url else _default(amqp_url)
    user = base.user or amqp_url.user or "guest"
    password = base.password or amqp_url.password or "guest"
    url = base.with_user(None).with_path(f"/api/{path}", encoded=True)
    headers = {"Authorization": aiohttp.encode_basic_auth(user, password)}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        context = _context(config.tls_ca) if base.scheme == "https" else True
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
            session.get(url, ssl=context) as response,
        ):
            if response.status == 404:
                raise Unavailable("missing", f"{base.host}:{base.port} knows no {path}")
            if response.status != 200:
                raise Unavailable("management", f"{base.host}:{base.port} answers {response.status}; {_HINT}")
            return await response.json()
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise Unavailable(
            "management", f"{base.host}:{base.port} can't be asked ({type(error).__name__}); {_HINT}"
        ) from error


@lru_cache(maxsize=1)
def _context(tls_ca: Path | None) -> ssl.SSLContext:
    """Return what trusts *tls_ca*, the one for AMQP: both are of one node. Kept: it is wanted each second."""
    return ssl.create_default_context(cafile=tls_ca)


def _vhost(amqp_url: URL) -> str:
    return quote(amqp_url.path.removeprefix("/") or "/", safe="")


def _default(amqp_url: URL) -> URL:
    is_tls = amqp_url.scheme == "amqps"
    return URL.build(
        scheme="https" if is_tls else "http",
        host=amqp_url.host or "localhost",
        port=15671 if is_tls else 15672,
    )
