"""Chooses between parts with spans and without, once, at the start: who does not trace pays nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.broker import Publishing
from gateway.config import Config
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.receiver import Receiver
from gateway.sinks import Sink

if TYPE_CHECKING:
    from gateway.spans import Spans


def faults(config: Config) -> list[str]:
    """Return what is missing for tracing, as sentences."""
    try:
        if config.tracing.otlp_url:
            import gateway.spans  # noqa: F401
    except ImportError as error:
        return [f"tracing.otlp_url: spans need {error.name}: pip install 'im-callback-gateway[otel]'"]
    return []


def make_spans(config: Config) -> Spans | None:
    """Return what takes spans, None where ``tracing.otlp_url`` is empty."""
    if not config.tracing.otlp_url:
        return None
    from gateway.spans import Spans

    return Spans(config.tracing)


def make_receiver(config: Config, journal: Journal, metrics: Metrics, spans: Spans | None) -> Receiver:
    """Return the receiver."""
    if spans is None:
        return Receiver(config, journal, metrics)
    from gateway.traced import TracedReceiver

    return TracedReceiver(config, journal, metrics, spans)


def make_publishing(broker: Publishing, spans: Spans | None) -> Publishing:
    """Return what the forwarder publishes by."""
    if spans is None:
        return broker
    from gateway.traced import TracedPublishing

    return TracedPublishing(broker, spans)


def make_traced(sinks: list[Sink], name: str, spans: Spans | None) -> list[Sink]:
    """Return the *sinks* of one worker."""
    if spans is None:
        return sinks
    from gateway.traced import TracedSink

    return [TracedSink(sink, name, spans) for sink in sinks]
