"""The configuration: one YAML file, typed records, all defaults in one place."""

from gateway.config.admin import Admin, Console
from gateway.config.amqp import AmqpSink
from gateway.config.changes import changed_keys, with_changes
from gateway.config.databases import MysqlSink, PostgresSink, SqliteSink, TableSink
from gateway.config.endpoints import place
from gateway.config.expressions import MISFITS, Expression, compiled
from gateway.config.load import load, mask_url, masked
from gateway.config.records import App, Broker, Config, Journal, Listen, Log, is_loopback
from gateway.config.service import ServiceManager
from gateway.config.sink import SinkBase
from gateway.config.sinks import HttpSink, JsonlSink, PluginSink, PythonSink, RedisSink, Sink, plugins
from gateway.config.tracing import Tracing

__all__ = [
    "MISFITS",
    "Admin",
    "AmqpSink",
    "App",
    "Broker",
    "Config",
    "Console",
    "Expression",
    "HttpSink",
    "Journal",
    "JsonlSink",
    "Listen",
    "Log",
    "MysqlSink",
    "PluginSink",
    "PostgresSink",
    "PythonSink",
    "RedisSink",
    "ServiceManager",
    "Sink",
    "SinkBase",
    "SqliteSink",
    "TableSink",
    "Tracing",
    "changed_keys",
    "compiled",
    "is_loopback",
    "load",
    "mask_url",
    "masked",
    "place",
    "plugins",
    "with_changes",
]
