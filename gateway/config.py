"""The configuration: one YAML file, typed records, every default, and errors that name the full key path.

The only module that reads the environment and YAML. It checks shapes; ``run.check`` checks what needs the
catalogue, the broker's names and the sinks.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from gateway.errors import ConfigError

ENV_PREFIX = "GATEWAY__"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_URL_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^/@\s:]*:)[^@/\s]*@")
Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Patterns = Annotated[tuple[str, ...], Field(min_length=1)]


class Section(BaseModel):
    """Base of all records: unknown keys are errors, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Listen(Section):
    """The port that callbacks come to."""

    host: str = "127.0.0.1"
    port: Port = 8080
    ack_after: Literal["journaled", "confirmed", "written"] = "journaled"
    answer_deadline_ms: Annotated[int, Field(ge=100, le=60_000)] = 1500
    signature_window_s: Positive = 60
    max_body_bytes: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 1_048_576
    max_header_bytes: Annotated[int, Field(ge=1024, le=1_048_576)] = 8190
    max_headers: Positive = 128
    max_inflight: Positive = 2048
    max_inflight_mb: Positive = 256
    max_connections: Positive = 4096
    header_timeout_s: Seconds = 5
    body_timeout_s: Seconds = 10
    keepalive_timeout_s: Seconds = 75
    retry_after_s: Positive = 1
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 10
    processes: Annotated[int, Field(ge=1, le=1)] = 1


class Admin(Section):
    """The port for health and metrics."""

    host: str = "127.0.0.1"
    port: Port = 8081
    token: SecretStr = SecretStr("")


class App(Section):
    """One app (SDKAppID) whose callbacks are taken."""

    path: Annotated[str, Field(pattern=r"^/[^?#\s]*$")] = "/callback"
    tokens: tuple[SecretStr, ...] = ()
    unsigned: Literal["loopback", "allow"] = "loopback"

    @field_validator("tokens")
    @classmethod
    def _no_empty_token(cls, tokens: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        # Why: an empty token (an unset variable, say) would make every Sign computable by anyone.
        if any(not token.get_secret_value() for token in tokens):
            raise ValueError("a token may not be empty; leave the list empty to accept unsigned callbacks")
        return tokens


class Journal(Section):
    """The durable log of callbacks on local disk."""

    dir: Path = Path("var/journal")
    max_mb: Positive = 4096
    min_free_mb: Annotated[int, Field(ge=0)] = 512
    retain_mb: Annotated[int, Field(ge=0)] = 256
    retain_h: Annotated[float, Field(ge=0)] = 168
    segment_mb: Annotated[int, Field(ge=1, le=1024)] = 64
    id_window_s: Annotated[int, Field(ge=1, le=86_400)] = 10

    @model_validator(mode="after")
    def _room(self) -> Journal:
        if self.max_mb < 2 * self.segment_mb:
            raise ValueError(f"max_mb must be at least two segments ({2 * self.segment_mb})")
        if self.retain_mb > self.max_mb - self.segment_mb:
            raise ValueError("retain_mb must leave room for one segment below max_mb")
        return self


class Broker(Section):
    """Where events are published: ``amqp(s)://…`` (one or several) or ``embedded:PATH``."""

    url: str | tuple[str, ...] = "embedded:var/broker.db"
    exchange: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")] = "im.events"
    declare: Literal["apply", "check", "off"] = "apply"
    ignore: tuple[str, ...] = ()
    management_url: str = ""
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    heartbeat_s: Positive = 10
    connect_timeout_s: Seconds = 5
    confirm_timeout_s: Seconds = 30
    reconnect_min_s: Seconds = 0.5
    reconnect_max_s: Seconds = 15
    publish_batch_events: Positive = 256
    max_unconfirmed: Positive = 2048

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str | tuple[str, ...]) -> str | tuple[str, ...]:
        urls = (url,) if isinstance(url, str) else url
        if not urls:
            raise ValueError("name at least one URL")
        for one in urls:
            if not re.match(r"^(amqps?://[^/\s]|embedded:\S)", one):
                raise ValueError("must be amqp://…, amqps://… or embedded:PATH")
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


class SinkBase(Section):
    """What all sinks have."""

    events: Patterns = ("#",)
    batch_max_events: Annotated[int, Field(ge=1, le=10_000)] = 500
    batch_max_wait_ms: Annotated[int, Field(ge=0, le=60_000)] = 20
    write_timeout_s: Seconds = 30
    hold_max_s: Seconds = 60

    @field_validator("events")
    @classmethod
    def _routable(cls, events: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in events:
            if not pattern or len(pattern.encode()) > 255 or any(part == "" for part in pattern.split(".")):
                raise ValueError("a topic pattern has 1 to 255 bytes and no empty word: im.group.#")
        return events


class JsonlSink(SinkBase):
    """One event a line in a file."""

    kind: Literal["jsonl"]
    path: Path
    rotate_mb: Annotated[int, Field(ge=0)] = 256


class SqliteSink(SinkBase):
    """A SQLite file with a table of events and one of member exits."""

    kind: Literal["sqlite"]
    path: Path


class PostgresSink(SinkBase):
    """A PostgreSQL database with a table of events and one of member exits."""

    kind: Literal["postgres"]
    dsn: SecretStr
    table_prefix: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,30}$")] = "im_"


Sink = Annotated[JsonlSink | SqliteSink | PostgresSink, Field(discriminator="kind")]


class Log(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


class Config(Section):
    """The whole configuration."""

    listen: Listen = Listen()
    admin: Admin = Admin()
    apps: dict[Annotated[str, Field(pattern=r"^[0-9]{1,20}$")], App] = Field(default_factory=dict)
    journal: Journal = Journal()
    broker: Broker = Broker()
    sinks: dict[Name, Sink] = Field(default_factory=dict)
    log: Log = Log()

    @model_validator(mode="after")
    def _fail_closed(self) -> Config:
        if not is_loopback(self.listen.host):
            for app_id, app in self.apps.items():
                if not app.tokens and app.unsigned != "allow":
                    raise ValueError(
                        f"apps.{app_id}.tokens: listen.host {self.listen.host} can be reached from other machines,"
                        " and this app has no token, so anyone could send its callbacks. Add the token of the"
                        " console's callback authentication, or say unsigned: allow"
                    )
        if not is_loopback(self.admin.host) and not self.admin.token.get_secret_value():
            raise ValueError(
                f"admin.token: admin.host {self.admin.host} can be reached from other machines; set a token"
            )
        return self


def load(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Read the YAML file *path* (None: defaults only), then ``GATEWAY__A__B=value`` from *environ*.

    Raises ConfigError with one line a fault.
    """
    raw: Any = {}
    name = str(path) if path else "environment"
    if path is not None:
        try:
            raw = yaml.load(path.read_text("utf-8"), _Loader) or {}  # noqa: S506 - a SafeLoader subclass
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; name another file with --config") from error
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{name}: the top level must be a mapping of sections, like 'listen:'")
    raw = _expand(raw, environ, "")
    _override(raw, environ)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{name}: {_explain(fault, raw)}" for fault in error.errors())) from None


def masked(config: Config) -> dict[str, Any]:
    """Return *config* as plain values for printing: tokens and passwords are ``***``."""

    def mask(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: mask(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [mask(inner) for inner in value]
        return mask_url(value) if isinstance(value, str) else value

    plain: dict[str, Any] = mask(config.model_dump(mode="json"))
    for name, sink in config.sinks.items():
        if isinstance(sink, PostgresSink):
            plain["sinks"][name]["dsn"] = mask_url(sink.dsn.get_secret_value())
    return plain


def mask_url(text: str) -> str:
    """Return *text* with the password of each URL in it replaced by ``***``."""
    return _URL_PASSWORD.sub(r"\g<head>***@", text)


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a server that listens on *host*."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where YAML would silently keep the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if isinstance(key, (str, int)) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            if isinstance(key, (str, int)):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _expand(value: Any, environ: Mapping[str, str], path: str) -> Any:
    if isinstance(value, dict):
        # Why str(key): YAML reads an app id as a number.
        return {str(key): _expand(inner, environ, f"{path}{key}.") for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, environ, f"{path}{at}.") for at, inner in enumerate(value)]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name not in environ and default is None:
            raise ConfigError(
                f"{path[:-1]}: the environment has no {name}; set it, or give a default: ${{{name}:-…}}"
            )
        return environ.get(name) or default or ""

    return _VARIABLE.sub(fill, value)


def _override(raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    for name, text in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX):
            continue
        *parents, leaf = name.removeprefix(ENV_PREFIX).lower().split("__")
        place = raw
        for part in parents:
            inner = place.setdefault(part, {})
            if inner is None:
                inner = place[part] = {}
            if not isinstance(inner, dict):
                raise ConfigError(f"environment: {name}: {part} is a value and has no keys")
            place = inner
        try:
            place[leaf] = yaml.safe_load(text) if text.lstrip()[:1] in ("[", "{") else text
        except yaml.YAMLError as error:
            raise ConfigError(f"environment: {name}: not readable as a YAML list or mapping") from error


def _explain(fault: Any, raw: Any) -> str:
    where = [str(part) for part in fault["loc"] if part not in ("jsonl", "sqlite", "postgres")]
    path = ".".join(where) or "top level"
    if fault["type"] == "extra_forbidden":
        allowed = _keys_at(fault["loc"][:-1])
        near = get_close_matches(where[-1], allowed, 1, 0.5)
        hint = f"did you mean {'.'.join([*where[:-1], near[0]])}? " if near else ""
        return f"{path}: unknown key; {hint}Allowed here: {', '.join(allowed)}"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error" and message.startswith(("apps.", "admin.")):
        return message
    secret = any(word in path for word in ("token", "dsn", "url"))
    value = fault.get("input")
    shown = "" if secret or isinstance(value, (dict, list)) else f" (it is {value!r})"
    return f"{path}: {message[0].lower()}{message[1:]}{shown}"


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    kinds: dict[str, type[Section]] = {"jsonl": JsonlSink, "sqlite": SqliteSink, "postgres": PostgresSink}
    model: type[Section] = Config
    for part in location:
        if part in kinds:
            model = kinds[str(part)]
        elif part in Config.model_fields and model is Config:
            model = {"listen": Listen, "admin": Admin, "apps": App, "journal": Journal, "broker": Broker}.get(
                str(part), Log if part == "log" else Config
            )
    return sorted(model.model_fields)
