"""From configuration to parts; the only module that names concrete brokers and sinks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import destinations, replies
from gateway.broker import Broker
from gateway.config import (
    AmqpSink,
    Config,
    HttpSink,
    JsonlSink,
    MysqlSink,
    PluginSink,
    PostgresSink,
    PythonSink,
    RedisSink,
    SinkBase,
    SqliteSink,
    is_loopback,
    place,
)
from gateway.destinations import topology_of
from gateway.errors import ConfigError
from gateway.metrics import Metrics
from gateway.sinks import Sink
from gateway.sinks.transform import Transformed
from gateway.tls import Tls, make_context
from gateway.tokens import TokenFiles
from gateway.tracing import faults as tracing_faults
from gateway.tracing import make_traced
from gateway.worker import Worker

if TYPE_CHECKING:
    from gateway.spans import Spans

__all__ = ["check", "make_broker", "make_sink", "topology_of"]
_SHORT_TOKEN = 16
# Why names: a process loads only the drivers that it uses.
_SINKS: Mapping[type[SinkBase], tuple[str, str, str]] = {
    JsonlSink: ("Jsonl", "gateway.sinks.jsonl", ""),
    SqliteSink: ("Sqlite", "gateway.sinks.sqlite", ""),
    PostgresSink: ("Postgres", "gateway.sinks.postgres", "postgres"),
    MysqlSink: ("Mysql", "gateway.sinks.mysql", "mysql"),
    RedisSink: ("Redis", "gateway.sinks.redis", "redis"),
    HttpSink: ("Http", "gateway.sinks.http", ""),
    AmqpSink: ("Outlet", "gateway.broker.rabbitmq.outlet", ""),
    PythonSink: ("Own", "gateway.sinks.python", ""),
    PluginSink: ("Own", "gateway.sinks.python", ""),
}
"""Class, its module, and the extra that has its driver."""


def check(config: Config, *, serves: bool = True) -> list[str]:
    """Return warnings about *config*, sentences; ConfigError for what its sections can't be together.

    The files of the callback port need to be there only where the process *serves*.
    """
    faults = []
    if not config.apps:
        faults.append(
            'apps: none is configured, so every callback would be refused; add apps: {"<SDKAppID>": {}}'
        )
    ports = (config.listen.port, config.admin.port, config.admin.worker_port)
    if config.listen.port and config.listen.port in ports[1:]:
        faults.append(f"listen.port: {config.listen.port} is an admin port too; choose another")
    faults += destinations.faults(config)
    faults += _answer_faults(config)
    faults += tracing_faults(config)
    tokens: dict[str, tuple[str, ...]] = {}
    if serves:
        faults += _port_faults(config, tokens)
    if faults:
        raise ConfigError("\n".join(faults))
    warnings = _warnings(config, tokens)
    if serves and config.listen.tls_cert is not None and (said := Tls(config.listen).complaint()):
        warnings.append(said)
    return warnings


def make_broker(config: Config, metrics: Metrics, turns: Path | None = None) -> Broker:
    """Return the broker of *config*, not connected yet.

    *turns*: a file by which several processes of one gateway declare one after the other (RabbitMQ).
    """
    topology = topology_of(config)
    path = config.broker.embedded_path
    # Why imported here: a process loads only the driver that it uses.
    if path is not None:
        from gateway.broker.embedded import Embedded

        return Embedded(path, topology, metrics)
    from gateway.broker.rabbitmq import RabbitMQ
    from gateway.broker.rabbitmq.events import headers_of, traced_headers_of

    headers = traced_headers_of if config.tracing.otlp_url else headers_of
    return RabbitMQ(config.broker, topology, metrics, turns, headers)


def make_sink(name: str, config: SinkBase) -> Sink:
    """Return the sink *name*, not opened yet; ConfigError when its driver is not installed."""
    return make_sinks(name, config, 1)[0]


def make_sinks(name: str, config: SinkBase, lanes: int) -> list[Sink]:
    """Return the sink *name* once for each of the *lanes* of its worker, as ``make_sink`` does."""
    kind, module, extra = _SINKS[type(config)]
    try:
        make = getattr(import_module(module), kind)
    except ImportError as error:
        if not extra:
            raise
        raise ConfigError(
            f"sinks.{name}: kind {extra} needs the driver {error.name}:"
            f" pip install 'im-callback-gateway[{extra}]'"
        ) from error
    first = make(config, name)
    more = first.sibling if isinstance(config, HttpSink) else partial(make, config, name)
    sinks: list[Sink] = [first, *(more() for _ in range(lanes - 1))]
    return [_shaped(sink, name, config) for sink in sinks]


def _shaped(sink: Sink, name: str, config: SinkBase) -> Sink:
    return sink if config.transform is None else Transformed(sink, config.transform, name)


def make_worker(
    name: str, config: Config, broker: Broker, metrics: Metrics, spans: Spans | None = None
) -> Worker:
    """Return the worker of the sink *name*, with an instance of the sink for each of its lanes."""
    sink = config.sinks[name]
    names = topology_of(config).sink(name)
    takes = None if "#" in names.patterns else names.takes
    sinks = make_traced(make_sinks(name, sink, sink.concurrency), name, spans)
    return Worker(name, sink, sinks, broker, metrics, takes)


def _answer_faults(config: Config) -> list[str]:
    places = {"answers": config.answers}
    places |= {f"apps.{app_id}.answers": app.answers for app_id, app in config.apps.items()}
    return [
        f"{place}.{command}: {fault}"
        for place, answers in places.items()
        for command, told in answers.items()
        for fault in replies.faults(command, replies.Reply(**dict(told)))
    ]


def _port_faults(config: Config, tokens: dict[str, tuple[str, ...]]) -> list[str]:
    """Return what is wrong with the files of the callback port; fill *tokens* from those of the apps."""
    faults = []
    try:
        tokens |= TokenFiles(config.apps).tokens
    except ConfigError as fault:
        faults.append(str(fault))
    try:
        if config.listen.tls_cert is not None:
            make_context(config.listen)
    except ConfigError as fault:
        faults.append(str(fault))
    for app_id, found in tokens.items():
        app = config.apps[app_id]
        if not (found or app.tokens or app.unsigned == "allow" or is_loopback(config.listen.host)):
            faults.append(
                f"apps.{app_id}.tokens_file: no token stands in {app.tokens_file}, and listen.host"
                f" {config.listen.host} can be reached from other machines; write one into it"
            )
    return faults


def _warnings(config: Config, from_files: Mapping[str, tuple[str, ...]]) -> list[str]:
    said = []
    for app_id, app in config.apps.items():
        tokens = [token.get_secret_value() for token in app.tokens]
        tokens += from_files.get(app_id, ())
        is_read = app.tokens_file is None or app_id in from_files
        if not tokens and is_read:
            where = "this machine" if is_loopback(config.listen.host) else "anywhere"
            said.append(f"apps.{app_id}: no token, so callbacks from {where} are taken unsigned")
        if any(len(token) < _SHORT_TOKEN for token in tokens):
            said.append(f"apps.{app_id}.tokens: one is shorter than {_SHORT_TOKEN} characters")
    for key, secret in (("token", config.admin.token), ("view_token", config.admin.view_token)):
        if 0 < len(secret.get_secret_value()) < _SHORT_TOKEN:
            said.append(f"admin.{key}: it is shorter than {_SHORT_TOKEN} characters, so it may be guessed")
    for name, sink in config.sinks.items():
        if isinstance(sink, HttpSink) and place(sink.url).startswith("http:") and not sink.allow_networks:
            said.append(f"sinks.{name}.url: http is not encrypted; whoever is on the way reads the events")
    if not config.sinks:
        said.append("sinks: none is configured, so every event stands in the unrouted queue")
    return said
