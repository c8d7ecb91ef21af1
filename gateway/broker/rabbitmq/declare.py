"""Declaring and checking the broker objects, and asking the management API who else is bound to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
import aiormq
from yarl import URL

from gateway.broker.rabbitmq.link import Link, close_channel
from gateway.config import Broker as BrokerConfig
from gateway.errors import Unavailable
from gateway.topology import Exchange, Queue, Topology


async def apply(link: Link, topology: Topology) -> None:
    """Declare every exchange, queue and binding; what stands already is left as it is. Raises Unavailable."""
    channel = await link.channel(aiormq.Channel, confirms=False)
    try:
        for item in _objects(topology):
            await _declare(link, channel, item, is_passive=False)
        for binding in topology.bindings():
            bind = channel.queue_bind if binding.to_queue else channel.exchange_bind
            await link.guard(bind(binding.destination, binding.source, routing_key=binding.routing_key))
    finally:
        await close_channel(channel)


async def missing(link: Link, topology: Topology) -> list[str]:
    """Return the exchanges and queues that do not stand; needs no right to configure. Raises Unavailable."""
    absent = []
    for item in _objects(topology):
        channel = await link.channel(aiormq.Channel, confirms=False)
        try:
            await _declare(link, channel, item, is_passive=True)
        except Unavailable as fault:
            if fault.reason != "missing":
                raise
            absent.append(item.name)
        finally:
            await close_channel(channel)
    return absent


async def check(link: Link, topology: Topology) -> None:
    """Raise Unavailable("missing") that names what an administrator has to declare."""
    absent = await missing(link, topology)
    if absent:
        raise Unavailable(
            "missing",
            f"broker.declare is check, and these do not exist: {', '.join(absent)}."
            " Let an administrator run: gateway topology apply",
        )


def _objects(topology: Topology) -> list[Exchange | Queue]:
    return [*topology.exchanges(), *topology.queues()]


async def _declare(link: Link, channel: aiormq.Channel, item: Exchange | Queue, *, is_passive: bool) -> None:
    arguments: Any = dict(item.arguments)
    try:
        if isinstance(item, Exchange):
            await link.guard(
                channel.exchange_declare(
                    item.name, exchange_type=item.kind, durable=True, passive=is_passive, arguments=arguments
                )
            )
        else:
            await link.guard(
                channel.queue_declare(item.name, durable=True, passive=is_passive, arguments=arguments)
            )
    except Unavailable as fault:
        if fault.reason == "mismatch":
            raise Unavailable(
                "mismatch",
                f"{item.name} stands already with other arguments ({fault.detail})."
                " Empty and delete it, or choose another broker.exchange",
            ) from fault
        if fault.reason == "no_rights":
            raise Unavailable(
                "no_rights",
                f"the user of broker.url may not declare {item.name} ({fault.detail})."
                " Grant configure rights, or declare it once with: gateway topology apply,"
                " and set broker.declare: check",
            ) from fault
        raise


async def foreign_queues(config: BrokerConfig, topology: Topology) -> list[str]:
    """Return queues that get our events though no sink reads them, asked of the management API.

    These are queues bound to our exchanges, and those behind exchanges bound to the events exchange.
    """
    bindings = await _bindings(config)
    ours = {queue.name for queue in topology.queues()} | set(config.ignore)
    exchanges = {exchange.name for exchange in topology.exchanges()}
    exchanges |= {
        str(one["destination"])
        for one in bindings
        if one["source"] == topology.events and one["destination_type"] == "exchange"
    }
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


async def _bindings(config: BrokerConfig) -> list[Mapping[str, Any]]:
    amqp_url = URL(config.urls[0])
    base = URL(config.management_url) if config.management_url else _default_management(amqp_url)
    user = base.user or amqp_url.user or "guest"
    password = base.password or amqp_url.password or "guest"
    vhost = quote(amqp_url.path.removeprefix("/") or "/", safe="")
    url = base.with_user(None).with_path(f"/api/bindings/{vhost}", encoded=True)
    headers = {"Authorization": aiohttp.encode_basic_auth(user, password)}
    timeout = aiohttp.ClientTimeout(total=config.connect_timeout_s * 2)
    hint = "name the management API with broker.management_url, and enable the plug-in rabbitmq_management"
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
            session.get(url) as response,
        ):
            if response.status != 200:
                raise Unavailable("management", f"{base.host}:{base.port} answers {response.status}; {hint}")
            found: list[Mapping[str, Any]] = await response.json()
            return found
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise Unavailable(
            "management", f"{base.host}:{base.port} can't be asked ({type(error).__name__}); {hint}"
        ) from error


def _default_management(amqp_url: URL) -> URL:
    is_tls = amqp_url.scheme == "amqps"
    return URL.build(
        scheme="https" if is_tls else "http",
        host=amqp_url.host or "localhost",
        port=15671 if is_tls else 15672,
    )
