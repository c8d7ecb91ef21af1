"""What the commands share: finding the configuration, and turning errors into words and exit codes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from gateway import logs
from gateway.cli.exits import parse_time
from gateway.config import Config, load
from gateway.errors import ConfigError, Unavailable

T = TypeVar("T")
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The YAML file; ./config.yaml by default.", envvar="GATEWAY_CONFIG"),
]
EXIT_FAULT = 1
EXIT_CONFIG = 2
EXIT_INTERRUPTED = 130


@contextmanager
def exit_codes() -> Iterator[None]:
    """Print what a command raised as a sentence: 2 for a wrong configuration, 1 for a part that is away."""
    try:
        yield
    except ConfigError as error:
        typer.secho(str(error), err=True, fg=typer.colors.RED)
        raise typer.Exit(EXIT_CONFIG) from None
    except Unavailable as error:
        typer.secho(f"{error.reason}: {error.detail}", err=True, fg=typer.colors.RED)
        raise typer.Exit(EXIT_FAULT) from None


def config_path(path: Path | None) -> Path:
    """Return *path*, or ./config.yaml; ConfigError when that is not there."""
    found = path or Path("config.yaml")
    if path is None and not found.exists():
        raise ConfigError(
            "no config.yaml here: name a file with --config, or change to the folder that has it"
        )
    return found


def load_config(path: Path | None) -> Config:
    """Return the configuration of *path*, or of ./config.yaml, and set up logging by it."""
    config = load(config_path(path))
    logs.configure(config.log)
    return config


def time_ms(option: str, text: str | None, now_ms: int) -> int | None:
    """Return the time that *option* names, Unix milliseconds; ConfigError when *text* is none."""
    try:
        return None if text is None else parse_time(text, now_ms)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* to its end."""
    return asyncio.run(work)
