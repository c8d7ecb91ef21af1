"""The record of the amqp sink."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gateway.config.base import AmqpUrls, File, Positive, Seconds
from gateway.config.sink import SinkBase


class AmqpSink(SinkBase):
    """An exchange of another topology, on this broker or another one."""

    effect = "at_least_once"

    kind: Literal["amqp"]
    url: AmqpUrls
    exchange: Annotated[str, Field(max_length=255)]
    routing_key: Annotated[str, Field(max_length=255)] | None = None
    tls_ca: File | None = None
    tls_cert: File | None = None
    tls_key: File | None = None
    heartbeat_s: Positive = 10
    connect_timeout_s: Seconds = 5
    confirm_timeout_s: Seconds = 15

    @model_validator(mode="after")
    def _has_a_queue(self) -> AmqpSink:
        if not self.exchange and not self.routing_key:
            raise ValueError('routing_key: with exchange "" it names the queue that gets the events')
        return self
