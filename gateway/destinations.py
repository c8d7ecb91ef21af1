"""What is wrong with sinks and broker beside the rest: files used twice, unknown apps, loops."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from urllib.parse import unquote, urlsplit

from gateway.config import AmqpSink, Config, JsonlSink, SqliteSink
from gateway.patterns import narrowed
from gateway.topology import Topology

_MOST_KEY_BYTES = 255


def topology_of(config: Config) -> Topology:
    """Return the broker objects of *config*."""
    patterns = {name: narrowed(sink.events, sink.apps) for name, sink in config.sinks.items()}
    partitions = {name: sink.partitions for name, sink in config.sinks.items()}
    return Topology.of(config.broker.exchange, patterns, partitions)


def faults(config: Config) -> Iterator[str]:
    """Yield a sentence for each fault, its key first."""
    yield from _shared_files(config)
    yield from _apps(config)
    yield from _loops(config)
    yield from _partitions(config)
    if config.listen.processes > 1 and config.broker.embedded_path is not None:
        yield (
            "listen.processes: publishers of the embedded broker take turns, so more processes are no faster;"
            " set 1, or use RabbitMQ (broker.url)"
        )


def _partitions(config: Config) -> Iterator[str]:
    for name, sink in config.sinks.items():
        if sink.partitions > 1 and config.broker.embedded_path is not None:
            yield (
                f"sinks.{name}.partitions: the embedded broker has one consuming process a sink, so there is"
                " nothing to share; set 1 (concurrency gives lanes), or use RabbitMQ (broker.url)"
            )


def _shared_files(config: Config) -> Iterator[str]:
    paths: dict[str, str] = {}
    if config.broker.embedded_path is not None:
        paths[os.path.realpath(config.broker.embedded_path)] = "broker.url"
    for name, sink in config.sinks.items():
        if isinstance(sink, (JsonlSink, SqliteSink)):
            place = os.path.realpath(sink.path)
            if place in paths:
                yield f"sinks.{name}.path: {paths[place]} names the same file; choose another"
            paths[place] = f"sinks.{name}.path"


def _apps(config: Config) -> Iterator[str]:
    for name, sink in config.sinks.items():
        for app_id in sink.apps:
            if app_id not in config.apps:
                near = get_close_matches(app_id, config.apps, 1)
                hint = f"; did you mean {near[0]}?" if near else "."
                known = ", ".join(config.apps) or "none"
                yield f"sinks.{name}.apps: {app_id} is not configured{hint} There are: {known}"
        for pattern in sink.events if sink.apps else ():
            found = narrowed([pattern], sink.apps)
            if not found:
                yield (
                    f"sinks.{name}.events: {pattern} matches nothing of {', '.join(sink.apps)}: what it"
                    " matches is <type>.<app id>; end it in # (im.group.#), or take the app out of apps"
                )
            elif max(len(one.encode()) for one in found) > _MOST_KEY_BYTES:
                yield f"sinks.{name}.events: {pattern} with an app id is longer than 255 bytes"


def _loops(config: Config) -> Iterator[str]:
    """Yield amqp sinks that would publish into our own topology, from where it would come to them again."""
    ours = {_virtual_host(url) for url in config.broker.urls if not url.startswith("embedded:")}
    topology = topology_of(config)
    exchanges = {exchange.name for exchange in topology.exchanges()}
    queues = {queue.name for queue in topology.queues()}
    for name, sink in config.sinks.items():
        if not isinstance(sink, AmqpSink) or not ours & {_virtual_host(url) for url in sink.url}:
            continue
        if sink.exchange in exchanges or (not sink.exchange and sink.routing_key in queues):
            key = "exchange" if sink.exchange else "routing_key"
            yield (
                f"sinks.{name}.{key}: {sink.exchange or sink.routing_key} on this broker is this gateway's"
                " own, so events would come again for ever; name another exchange, virtual host or broker"
            )


def _virtual_host(url: str) -> tuple[str, int, str]:
    """Return where *url* leads: host, port of plain AMQP, virtual host; all loopback names are one host."""
    parts = urlsplit(url)
    host = (parts.hostname or "localhost").lower()
    with suppress(ValueError):
        host = "localhost" if ipaddress.ip_address(host).is_loopback else host
    port = parts.port or 5672
    return host, 5672 if port == 5671 else port, unquote(parts.path.removeprefix("/")) or "/"
