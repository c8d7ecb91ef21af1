"""What the gateway prints when it is ready: where it listens, what it takes, where events go, what to try."""

from __future__ import annotations

import shlex
from collections.abc import Collection

from gateway.config import (
    AmqpSink,
    Config,
    HttpSink,
    JsonlSink,
    MysqlSink,
    PostgresSink,
    PythonSink,
    RedisSink,
    SinkBase,
    SqliteSink,
    mask_url,
    place,
)
from gateway.patterns import narrowed

_SAMPLE = (
    '{"CallbackCommand":"Group.CallbackAfterMemberExit","GroupId":"@TGS#2J4SZEAEL","Type":"Public",'
    '"ExitType":"Kicked","Operator_Account":"leckie",'
    '"ExitMemberList":[{"Member_Account":"jared"},{"Member_Account":"tommy"}],"EventTime":"1670574414123"}'
)
"""The documented sample. Source: trtc.io/document/34373."""


def banner(
    config: Config, port: int, *, serves: bool, sinks: list[str], signed: Collection[str] | None = None
) -> str:
    """Return the lines for the terminal; no secret is in them. *port* is the one really bound.

    *signed* are the apps whose callbacks need a Sign; None: those with tokens in the configuration.
    """
    if signed is None:
        signed = [app_id for app_id, app in config.apps.items() if app.tokens]
    lines = ["", "IM callback gateway is ready."]
    if serves:
        base = f"{_scheme(config)}://{_bracketed(config.listen.host)}:{port}"
        for app_id, app in config.apps.items():
            kind = "signed callbacks" if app_id in signed else "unsigned callbacks"
            lines.append(f"  accepts     {base}{app.path}  app {app_id}, {kind}")
        lines.append(f"  journal     {config.journal.dir}, answers leave when {config.listen.ack_after}")
    lines.append(f"  events      {', '.join(mask_url(url) for url in config.broker.urls)}")
    for name in sinks:
        sink = config.sinks[name]
        lines.append(f"  sink {name:<5}  {_place(sink)}  ({', '.join(narrowed(sink.events, sink.apps))})")
    if serves and not sinks and config.sinks:
        lines.append(f"  sinks       {', '.join(config.sinks)}: run `gateway work` to feed them")
    admin_port = config.admin.port if serves else config.admin.worker_port
    lines.append(
        f"  admin       http://{_bracketed(config.admin.host)}:{admin_port}/console/, /metrics, /readyz"
    )
    if serves:
        lines += ["", "Try it from another terminal:", "", _curl(config, port, signed)]
    return "\n".join([*lines, ""])


def local_url(config: Config, port: int) -> str:
    """Return the callback port's URL, without a path, as a program on this machine reaches it."""
    # Why apart: a socket on :: takes IPv6 only.
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
    return f"{_scheme(config)}://{_bracketed(own.get(config.listen.host, config.listen.host))}:{port}"


def _place(sink: SinkBase) -> str:
    if isinstance(sink, (JsonlSink, SqliteSink)):
        return f"{sink.kind} {sink.path}"
    if isinstance(sink, RedisSink):
        return f"redis {mask_url(sink.url.get_secret_value())} {sink.stream}"
    if isinstance(sink, (PostgresSink, MysqlSink)):
        return f"{sink.kind} {mask_url(sink.dsn.get_secret_value())}"
    if isinstance(sink, HttpSink):
        return f"http {place(sink.url)}/…"
    if isinstance(sink, AmqpSink):
        return f"amqp {', '.join(mask_url(url) for url in sink.url)} exchange {sink.exchange or '(default)'}"
    return f"python {sink.target}" if isinstance(sink, PythonSink) else sink.kind


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _scheme(config: Config) -> str:
    return "https" if config.listen.tls_cert is not None else "http"


def _curl(config: Config, port: int, signed: Collection[str]) -> str:
    app_id, app = next(iter(config.apps.items()))
    url = (
        f"{local_url(config, port)}{app.path}?SdkAppid={app_id}&CallbackCommand=Group.CallbackAfterMemberExit"
        "&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI"
    )
    data = shlex.quote(_SAMPLE)
    curl = "curl -sS"
    if config.listen.tls_client_ca is not None:
        curl += " --cert CLIENT.pem --key CLIENT.key"
    if app_id not in signed:
        return f"{curl} {shlex.quote(url)} -d {data}"
    sign = 'T=$(date +%s); S=$(printf %s "$TOKEN$T" | sha256sum | cut -d" " -f1)'
    return f'TOKEN=…; {sign}; {curl} "{url}&RequestTime=$T&Sign=$S" -d {data}'
