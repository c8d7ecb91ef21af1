"""``gateway check``: what is in force, and with --connect whether the broker and the sinks can be reached."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import typer
import yaml

from gateway import build
from gateway.config import Config, masked
from gateway.errors import ConfigError, Unavailable
from gateway.metrics import Metrics


def show(config: Config) -> None:
    """Print *config* with secrets masked, then the warnings. Raises ConfigError."""
    warnings = build.check(config)
    typer.echo(yaml.safe_dump(masked(config), sort_keys=False, allow_unicode=True), nl=False)
    for name, sink in config.sinks.items():
        try:
            build.make_sink(name, sink)
        except ConfigError as fault:
            warnings.append(f"{fault}. Its worker can't start here")
    for warning in warnings:
        typer.secho(f"warning: {warning}", err=True, fg=typer.colors.YELLOW)


async def connect(config: Config) -> bool:
    """Try the broker and every sink, a line each; return whether all of them answered."""
    broker = build.make_broker(config, Metrics())
    is_well = await _try("broker", broker.check())
    await broker.close()
    for name in config.sinks:
        is_well &= await _try(f"sink {name}", _open(name, config))
    return is_well


async def _open(name: str, config: Config) -> str:
    sink = build.make_sink(name, config.sinks[name])
    try:
        await sink.open()
        return f"{config.sinks[name].kind} answers, its place is ready"
    finally:
        await sink.close()


async def _try(part: str, attempt: Awaitable[str]) -> bool:
    try:
        async with asyncio.timeout(30):
            said = await attempt
    except (Unavailable, ConfigError) as fault:
        detail = fault.detail if isinstance(fault, Unavailable) and fault.detail else str(fault)
        typer.secho(f"FAILED  {part}: {detail}", fg=typer.colors.RED)
        return False
    except TimeoutError:
        typer.secho(f"FAILED  {part}: no answer within 30 s", fg=typer.colors.RED)
        return False
    typer.secho(f"ok      {part}: {said}", fg=typer.colors.GREEN)
    return True
