"""Declaring the broker objects, and looking whether they stand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import aiormq
from pamqp import commands as spec

from gateway.broker.rabbitmq.link import Link, close_channel
from gateway.errors import Unavailable
from gateway.topology import Binding, Exchange, Queue, Topology

SETTLE_S = 10.0
"""How long a consumer that has just gone may still be counted."""
_LOOK_S = 0.02
_NO_ANSWER_S = 0.2


async def apply(
    link: Link, topology: Topology, bindings: Iterable[Binding], unwanted: Iterable[Binding] = ()
) -> None:
    """Declare every exchange and queue, and do as ``bind`` does. Raises Unavailable."""
    channel = await link.channel(aiormq.Channel, confirms=False)
    try:
        for item in _objects(topology):
            await _declare(link, channel, item, is_passive=False)
        await _rebind(link, channel, bindings, unwanted)
    finally:
        await close_channel(channel)


async def bind(link: Link, bindings: Iterable[Binding], unwanted: Iterable[Binding] = ()) -> None:
    """Bind again, then take *unwanted* away; what is so already is left as it is. Raises Unavailable."""
    channel = await link.channel(aiormq.Channel, confirms=False)
    try:
        await _rebind(link, channel, bindings, unwanted)
    finally:
        await close_channel(channel)


async def renew(link: Link, bindings: Iterable[Binding]) -> None:
    """Take each binding away and bind it anew, one by one in their order. Raises Unavailable."""
    channel = await link.channel(aiormq.Channel, confirms=False)
    try:
        for binding in bindings:
            await _unbind(link, channel, binding)
            await _bind(link, channel, [binding])
    finally:
        await close_channel(channel)


async def unbind(link: Link, bindings: Iterable[Binding]) -> None:
    """Remove *bindings* between exchanges; one that is gone already is no fault. Raises Unavailable."""
    channel = await link.channel(aiormq.Channel, confirms=False)
    try:
        for one in bindings:
            unbound = channel.exchange_unbind(one.destination, one.source, routing_key=one.routing_key)
            await link.guard(unbound)
    finally:
        await close_channel(channel)


async def standing(link: Link, items: Iterable[Exchange | Queue]) -> dict[str, int | None]:
    """Return by name how many events are ready in those that stand, 0 for an exchange; None: it is missing.

    Needs no right to configure. Raises Unavailable.
    """
    found: dict[str, int | None] = {}
    channel: aiormq.Channel | None = None
    try:
        for item in items:
            channel = channel or await link.channel(aiormq.Channel, confirms=False)
            try:
                found[item.name] = await _declare(link, channel, item, is_passive=True)
            except Unavailable as fault:
                if fault.reason != "missing":
                    raise
                found[item.name] = channel = None  # the broker has closed it
    finally:
        if channel is not None:
            await close_channel(channel)
    return found


async def without_readers(link: Link, queue: str, most: int | None) -> spec.Queue.DeclareOk:
    """Look at *queue* until at most *most* consumers read it (None: at once); Unavailable if more stay."""
    ends_s = time.monotonic() + SETTLE_S
    channel = await link.channel(aiormq.Channel, confirms=False)
    try:
        while True:
            asked_s = time.monotonic()
            found = await link.guard(channel.queue_declare(queue, passive=True))
            is_told = bool(found.message_count or found.consumer_count)
            # Why: RabbitMQ waits for the queue for 250 ms, and then says that it is empty (3.10).
            is_late = not is_told and time.monotonic() - asked_s > _NO_ANSWER_S
            is_last = time.monotonic() > ends_s
            if (most is None or (found.consumer_count or 0) <= most) and (is_last or not is_late):
                return found
            if is_last:
                raise Unavailable(
                    "in_use",
                    f"{found.consumer_count} consumers of another program read {queue}, so neither order nor"
                    " number would hold: end them, and try again",
                )
            await asyncio.sleep(_LOOK_S)
    finally:
        await close_channel(channel)


async def missing(link: Link, topology: Topology) -> list[str]:
    """Return the exchanges and queues that do not stand; needs no right to configure. Raises Unavailable."""
    exchanges = await standing(link, topology.exchanges())
    queues = await standing(link, topology.queues())
    return [name for found in (exchanges, queues) for name, ready in found.items() if ready is None]


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


async def _bind(link: Link, channel: aiormq.Channel, bindings: Iterable[Binding]) -> None:
    for binding in bindings:
        one = channel.queue_bind if binding.to_queue else channel.exchange_bind
        await link.guard(one(binding.destination, binding.source, routing_key=binding.routing_key))


async def _rebind(
    link: Link, channel: aiormq.Channel, bindings: Iterable[Binding], unwanted: Iterable[Binding]
) -> None:
    # Why in this order: in between an event may come twice, in the other one it would go past the sink.
    await _bind(link, channel, bindings)
    for binding in unwanted:
        await _unbind(link, channel, binding)


async def _unbind(link: Link, channel: aiormq.Channel, binding: Binding) -> None:
    """Take *binding* away; one that does not stand, or an end of it, is no fault."""
    one = channel.queue_unbind if binding.to_queue else channel.exchange_unbind
    await link.guard(one(binding.destination, binding.source, routing_key=binding.routing_key))


async def _declare(link: Link, channel: aiormq.Channel, item: Exchange | Queue, *, is_passive: bool) -> int:
    """Declare *item*; return how many events are ready in it, 0 for an exchange."""
    arguments: Any = dict(item.arguments)
    try:
        if isinstance(item, Exchange):
            await link.guard(
                channel.exchange_declare(
                    item.name, exchange_type=item.kind, durable=True, passive=is_passive, arguments=arguments
                )
            )
            return 0
        declared = await link.guard(
            channel.queue_declare(item.name, durable=True, passive=is_passive, arguments=arguments)
        )
        return declared.message_count or 0
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
