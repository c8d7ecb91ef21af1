"""The configuration: one YAML file, typed records, all defaults in one place."""

from gateway.config.load import load, mask_url, masked
from gateway.config.records import Admin, App, Broker, Config, Journal, Listen, Log, is_loopback
from gateway.config.sinks import JsonlSink, PostgresSink, Sink, SinkBase, SqliteSink

__all__ = [
    "Admin",
    "App",
    "Broker",
    "Config",
    "Journal",
    "JsonlSink",
    "Listen",
    "Log",
    "PostgresSink",
    "Sink",
    "SinkBase",
    "SqliteSink",
    "is_loopback",
    "load",
    "mask_url",
    "masked",
]
