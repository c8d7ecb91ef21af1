"""``gateway reload``: what runs on this host takes the changed configuration, and says what it can't take."""

from __future__ import annotations

import typer

from gateway.cli.admin_port import Port, nothing_runs, ports_of
from gateway.cli.common import EXIT_CONFIG, EXIT_FAULT, ConfigOption, exit_codes, load_config, run_async
from gateway.config import Config
from gateway.errors import Unavailable


def reload(config: ConfigOption = None) -> None:
    """Have the running gateway, and the worker beside it, take the changed configuration.

    Exit code 0: taken, what needs a restart is printed. 1: nothing runs here. 2: the file is wrong, and
    nothing has changed. The same as SIGHUP, which only writes to the log.
    """
    with exit_codes():
        loaded = load_config(config)
        raise typer.Exit(run_async(_reload(loaded)))


async def _reload(config: Config) -> int:
    ports = ports_of(config)
    codes = [code for port in ports if (code := await _one(port)) is not None]
    if not codes:
        raise nothing_runs(ports)
    return max(codes)


async def _one(port: Port) -> int | None:
    """Ask one process; return an exit code, None when none listens there."""
    try:
        told = await port.ask("POST", "/api/reload")
    except Unavailable as fault:
        typer.secho(f"{port.address}: {fault.detail}", err=True, fg=typer.colors.RED)
        if fault.reason == "bad_config":
            typer.secho(f"{port.address}: nothing was changed", err=True, fg=typer.colors.RED)
        return EXIT_CONFIG if fault.reason == "bad_config" else EXIT_FAULT
    if told is None:
        return None
    name = f"{told['role']} at {port.address}"
    typer.echo(f"{name}: in force now: {', '.join(told['changed']) or 'nothing new'}")
    if told["restart"]:
        typer.secho(
            f"{name}: needs a restart, until then the old values count: {', '.join(told['restart'])}",
            fg=typer.colors.YELLOW,
        )
    for warning in told["warnings"]:
        typer.secho(f"{name}: warning: {warning}", err=True, fg=typer.colors.YELLOW)
    return 0
