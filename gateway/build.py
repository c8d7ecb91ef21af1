"""From configuration to parts; the only module that names concrete brokers and sinks."""

from __future__ import annotations

import os

from gateway.broker import Broker
from gateway.config import Config, JsonlSink, PostgresSink, SqliteSink, is_loopback
from gateway.errors import ConfigError
from gateway.metrics import Metrics
from gateway.sinks import Sink
from gateway.topology import Topology

_SHORT_TOKEN = 16


def check(config: Config) -> list[str]:
    """Return warnings about *config*, sentences; ConfigError for what its sections can't be together."""
    faults = []
    if not config.apps:
        faults.append(
            'apps: none is configured, so every callback would be refused; add apps: {"<SDKAppID>": {}}'
        )
    ports = (config.listen.port, config.admin.port, config.admin.worker_port)
    if config.listen.port and config.listen.port in ports[1:]:
        faults.append(f"listen.port: {config.listen.port} is an admin port too; choose another")
    paths: dict[str, str] = {}
    if config.broker.embedded_path is not None:
        paths[os.path.realpath(config.broker.embedded_path)] = "broker.url"
    for name, sink in config.sinks.items():
        if isinstance(sink, (JsonlSink, SqliteSink)):
            place = os.path.realpath(sink.path)
            if place in paths:
                faults.append(f"sinks.{name}.path: {paths[place]} names the same file; choose another")
            paths[place] = f"sinks.{name}.path"
    if faults:
        raise ConfigError("\n".join(faults))
    return _warnings(config)


def topology_of(config: Config) -> Topology:
    """Return the broker objects of *config*."""
    return Topology.of(config.broker.exchange, {name: sink.events for name, sink in config.sinks.items()})


def make_broker(config: Config, metrics: Metrics) -> Broker:
    """Return the broker of *config*, not connected yet."""
    topology = topology_of(config)
    path = config.broker.embedded_path
    # Why imported here: a process loads only the driver that it uses.
    if path is not None:
        from gateway.broker.embedded import Embedded

        return Embedded(path, topology, metrics)
    from gateway.broker.rabbitmq import RabbitMQ

    return RabbitMQ(config.broker, topology, metrics)


def make_sink(name: str, config: JsonlSink | SqliteSink | PostgresSink) -> Sink:
    """Return the sink *name*, not opened yet; ConfigError when its driver is not installed."""
    if isinstance(config, JsonlSink):
        from gateway.sinks.jsonl import Jsonl

        return Jsonl(config, name)
    if isinstance(config, SqliteSink):
        from gateway.sinks.sqlite import Sqlite

        return Sqlite(config, name)
    try:
        from gateway.sinks.postgres import Postgres
    except ImportError as error:
        raise ConfigError(
            f"sinks.{name}: kind postgres needs the driver asyncpg:"
            " pip install 'im-callback-gateway[postgres]'"
        ) from error
    return Postgres(config, name)


def _warnings(config: Config) -> list[str]:
    said = []
    for app_id, app in config.apps.items():
        if not app.tokens:
            where = "this machine" if is_loopback(config.listen.host) else "anywhere"
            said.append(f"apps.{app_id}: no token, so callbacks from {where} are taken unsigned")
        if any(len(token.get_secret_value()) < _SHORT_TOKEN for token in app.tokens):
            said.append(f"apps.{app_id}.tokens: one is shorter than {_SHORT_TOKEN} characters")
    if not config.sinks:
        said.append("sinks: none is configured, so every event stands in the unrouted queue")
    return said
