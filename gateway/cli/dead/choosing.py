"""What the commands on parked events share: which sink and events are meant, and taking the queue in hand."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar

import typer

from gateway import build
from gateway.broker import Broker
from gateway.cli.common import run_async, time_ms
from gateway.config import Config
from gateway.dead import Choice, Work
from gateway.errors import ConfigError, Unavailable
from gateway.event import iso_time
from gateway.metrics import Metrics

T = TypeVar("T")
Sink = Annotated[str | None, typer.Option(help="Of this sink; may be left out where there is only one.")]
Type = Annotated[
    str | None, typer.Option("--type", help="Only this type; * and ? stand for any text: 'im.group.*'.")
]
Reason = Annotated[str | None, typer.Option(help="Only parked for this reason: rejected, key_blocked, …")]
Group = Annotated[
    str | None, typer.Option(help="Only about this group or conversation: '@TGS#1' or 'group/@TGS#1'.")
]
App = Annotated[str | None, typer.Option("--app", help="Only of this app (SDKAppID).")]
Id = Annotated[str | None, typer.Option("--id", help="Only the event with this id.")]
Since = Annotated[
    str | None,
    typer.Option(help="Parked from this time on: 2026-01-31, 2026-01-31T08:00 (UTC), 30m, 2h, 7d."),
]
Until = Annotated[str | None, typer.Option(help="Parked before this time.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def choice_of(
    type_: str | None,
    reason: str | None,
    group: str | None,
    app: str | None,
    id_: str | None,
    since: str | None,
    until: str | None,
) -> Choice:
    """Return what the options mean; ConfigError when nothing could match."""
    now_ms = time.time_ns() // 1_000_000
    since_ms, until_ms = time_ms("--since", since, now_ms), time_ms("--until", until, now_ms)
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise ConfigError(
            f"--since, --until: {iso_time(since_ms)} not before {iso_time(until_ms)}: nothing can match"
        )
    return Choice(type_, reason, group, app, id_, since_ms, until_ms)


def sink_of(config: Config, name: str | None) -> str:
    """Return the sink that is meant; ConfigError when that is none, or not said though there are several."""
    known = ", ".join(config.sinks) or "none"
    if name is None and len(config.sinks) != 1:
        raise ConfigError(f"--sink: say of which sink; the configuration has: {known}")
    found = name if name is not None else next(iter(config.sinks))
    if found not in config.sinks:
        raise ConfigError(f"--sink: the configuration has no sink {found!r}; it has: {known}")
    return found


@asynccontextmanager
async def in_hand(config: Config, sink: str, command: str, choice: Choice, limit: int) -> AsyncIterator[Work]:
    """Take the dead queue of *sink* for ``gateway dead <command>``. Raises Unavailable."""
    who = f"gateway dead {command}, process {os.getpid()} on {socket.gethostname()}"
    async with connected(config) as broker, broker.dead(sink, who) as dead:
        yield Work(dead, choice, limit)


@asynccontextmanager
async def connected(config: Config) -> AsyncIterator[Broker]:
    """Open the broker of *config* for the block."""
    broker = build.make_broker(config, Metrics())
    try:
        yield broker
    finally:
        await broker.close()


def work_on(
    config: Config,
    sink: str,
    command: str,
    choice: Choice,
    job: Callable[[Work], Awaitable[T]],
    limit: int = 0,
) -> T:
    """Return what *job* makes of the parked events of *sink*. Raises Unavailable."""

    async def run() -> T:
        async with in_hand(config, sink, command, choice, limit) as work:
            return await job(work)

    return run_async(run())


def amiss(fault: Unavailable) -> str:
    return f"{fault.reason}: {fault.detail}"
