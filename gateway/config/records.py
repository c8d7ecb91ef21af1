"""One record a section: every default and bound. Shapes only; ``run.check`` does the rest."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from gateway.config.admin import Admin, Console
from gateway.config.answers import Answer
from gateway.config.base import (
    AppId,
    Cidr,
    FieldName,
    File,
    Host,
    Name,
    Number,
    Port,
    Positive,
    Seconds,
    Section,
    UrlPath,
    Whole,
    readable_amqp,
)
from gateway.config.sinks import Sink
from gateway.config.tracing import Tracing

_BODIES_THAT_FIT = 10


class Listen(Section):
    """The port that callbacks come to."""

    host: Host = "127.0.0.1"
    port: Port = 8080
    tls_cert: File | None = None
    tls_key: File | None = None
    tls_client_ca: File | None = None
    allow_networks: tuple[Cidr, ...] = ()
    trusted_proxies: tuple[Cidr, ...] = ()
    ack_after: Literal["journaled", "confirmed", "written"] = "journaled"
    answer_deadline_ms: Annotated[Whole, Field(ge=100, le=60_000)] = 1500
    signature_window_s: Positive = 60
    max_body_bytes: Annotated[Whole, Field(ge=1024, le=64 * 1024 * 1024)] = 1_048_576
    max_header_bytes: Annotated[Whole, Field(ge=1024, le=1_048_576)] = 8190
    max_headers: Positive = 128
    max_inflight: Positive = 2048
    max_inflight_mb: Positive = 256
    max_connections: Positive = 4096
    max_connections_per_peer: Annotated[Whole, Field(ge=0)] = 0
    header_timeout_s: Seconds = 5
    body_timeout_s: Seconds = 10
    keepalive_timeout_s: Seconds = 75
    retry_after_s: Positive = 1
    before_when_full: Literal["refuse", "answer"] = "refuse"
    drain_s: Annotated[Number, Field(ge=0, le=3600)] = 10
    processes: Annotated[Whole, Field(ge=1, le=64)] = 1

    @model_validator(mode="after")
    def _whole_tls(self) -> Listen:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert, tls_key: name both of them, or none for plain HTTP")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca: client certificates need tls_cert and tls_key too")
        return self


class App(Section):
    """One app (SDKAppID) whose callbacks are taken."""

    path: UrlPath = "/callback"
    tokens: tuple[SecretStr, ...] = ()
    tokens_file: File | None = None
    unsigned: Literal["loopback", "allow"] = "loopback"
    max_per_s: Annotated[Whole, Field(ge=0)] = 0
    max_backlog_mb: Annotated[Whole, Field(ge=0)] = 0
    answers: dict[str, Answer] = Field(default_factory=dict)
    redact: dict[FieldName, Literal["drop", "hash"]] = Field(default_factory=dict)
    redact_key: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _key_for_hashes(self) -> App:
        # Why a length: user ids are few and guessable, so a short key would be found by trying.
        if "hash" in self.redact.values() and len(self.redact_key.get_secret_value()) < 16:
            raise ValueError("redact_key: fields that are to be hashed need a key of at least 16 characters")
        return self

    @field_validator("tokens")
    @classmethod
    def _no_empty_token(cls, tokens: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        # Why: an empty token (an unset variable, say) would make every Sign computable by anyone.
        if any(not token.get_secret_value() for token in tokens):
            raise ValueError("a token may not be empty; leave the list empty to accept unsigned callbacks")
        # Why: secrets made with echo end with a line break, and then no Sign would ever match.
        if any(token.get_secret_value() != token.get_secret_value().strip() for token in tokens):
            raise ValueError("a token begins or ends with a blank or a line break; take that out")
        return tokens


class Journal(Section):
    """The durable log of callbacks on local disk."""

    dir: Path = Path("var/journal")
    max_mb: Positive = 4096
    min_free_mb: Annotated[Whole, Field(ge=0)] = 512
    retain_mb: Annotated[Whole, Field(ge=0)] = 256
    retain_h: Annotated[Number, Field(ge=0, le=876_000, allow_inf_nan=False)] = 168
    segment_mb: Annotated[Whole, Field(ge=1, le=128)] = 64
    id_window_s: Annotated[Whole, Field(ge=1, le=86_400)] = 10


class Broker(Section):
    """Where events are published: ``amqp(s)://…`` (one or several) or ``embedded:PATH``."""

    url: str | tuple[str, ...] = "embedded:var/broker.db"
    exchange: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")] = "im.events"
    declare: Literal["apply", "check", "off"] = "apply"
    ignore: tuple[str, ...] = ()
    management_url: str = ""
    tls_ca: File | None = None
    tls_cert: File | None = None
    tls_key: File | None = None
    heartbeat_s: Positive = 10
    connect_timeout_s: Seconds = 5
    confirm_timeout_s: Seconds = 30
    reconnect_min_s: Seconds = 0.5
    reconnect_max_s: Seconds = 15
    publish_batch_events: Positive = 100
    max_unconfirmed: Positive = 2048
    max_unconfirmed_mb: Positive = 32
    max_prefetch_mb: Positive = 64

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str | tuple[str, ...]) -> str | tuple[str, ...]:
        urls = (url,) if isinstance(url, str) else url
        if not urls:
            raise ValueError("name at least one URL")
        for one in urls:
            if not re.match(r"^(amqps?://[^/\s]|embedded:\S)", one):
                raise ValueError("must be amqp://…, amqps://… or embedded:PATH")
            if not one.startswith("embedded:"):
                readable_amqp(one)
        if len(urls) > 1 and any(one.startswith("embedded:") for one in urls):
            raise ValueError("embedded:PATH stands alone, it has no second host")
        return url

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.url,) if isinstance(self.url, str) else self.url

    @property
    def embedded_path(self) -> Path | None:
        """The embedded broker's file, or None when RabbitMQ is used."""
        url = self.urls[0]
        return Path(url.removeprefix("embedded:")) if url.startswith("embedded:") else None


class Log(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Config(Section):
    """The whole configuration."""

    listen: Listen = Listen()
    admin: Admin = Admin()
    console: Console = Console()
    answers: dict[str, Answer] = Field(default_factory=dict)
    apps: dict[AppId, App] = Field(default_factory=dict)
    journal: Journal = Journal()
    broker: Broker = Broker()
    sinks: dict[Name, Sink] = Field(default_factory=dict)
    tracing: Tracing = Tracing()
    log: Log = Log()

    @model_validator(mode="after")
    def _room_for_bodies(self) -> Config:
        # Why: the journal calls itself full when one body does not fit; that has to mean nearly full.
        least_mb = -(-_BODIES_THAT_FIT * self.listen.max_body_bytes // 1_048_576)
        count = self.listen.processes
        if self.journal.max_mb // count < least_mb:
            each = "" if count == 1 else f" for each of {count} processes"
            raise ValueError(
                f"journal.max_mb: {self.journal.max_mb} is less than {_BODIES_THAT_FIT} times"
                f" listen.max_body_bytes{each}; say {least_mb * count} at least, or take smaller bodies"
            )
        return self

    @model_validator(mode="after")
    def _fail_closed(self) -> Config:
        if not is_loopback(self.listen.host):
            for app_id, app in self.apps.items():
                if not app.tokens and app.tokens_file is None and app.unsigned != "allow":
                    raise ValueError(
                        f"apps.{app_id}.tokens: listen.host {self.listen.host} can be reached from other"
                        " machines and this app has no token, so anyone could send its callbacks. Add the"
                        " token of the console's callback authentication, or say unsigned: allow"
                    )
        if not is_loopback(self.admin.host) and not self.admin.token.get_secret_value():
            raise ValueError(
                f"admin.token: admin.host {self.admin.host} can be reached from other machines; set a token"
            )
        return self


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a server that listens on *host*."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
