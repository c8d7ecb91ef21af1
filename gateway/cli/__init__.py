"""The commands. Each one loads the configuration, calls one function, and turns errors into exit codes."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from gateway import __version__, leavers
from gateway import run as wiring
from gateway.cli import check as checking
from gateway.cli import dead, journal, topology
from gateway.cli import exits as rendering
from gateway.cli.common import (
    EXIT_FAULT,
    ConfigOption,
    config_path,
    exit_codes,
    load_config,
    run_async,
    time_ms,
)
from gateway.cli.reload import reload
from gateway.cli.schema import schema
from gateway.cli.send import send
from gateway.cli.tap import tap
from gateway.cli.top import top
from gateway.config import load
from gateway.errors import ConfigError
from gateway.exits import ExitsQuery

_PIPE_COLUMNS = 4096
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Durable ingress for Tencent Cloud Chat (IM) callbacks.",
)
app.add_typer(journal.app, name="journal")
app.add_typer(dead.app, name="dead")
app.add_typer(topology.app, name="topology")


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def run(config: ConfigOption = None) -> None:
    """Receiver, forwarder and workers in one process: the quick start."""
    _run(config, serves=True, works=True)


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Receiver and forwarder: callbacks to the broker."""
    _run(config, serves=True, works=False)


@app.command()
def work(
    config: ConfigOption = None,
    sink: Annotated[str | None, typer.Option(help="Only this sink; all by default.")] = None,
) -> None:
    """Workers: events from the broker to the sinks."""
    _run(config, serves=False, works=True, only_sink=sink)


@app.command()
def check(
    config: ConfigOption = None,
    connect: Annotated[bool, typer.Option(help="Also try the broker and each sink.")] = False,
) -> None:
    """Print the configuration in force, secrets masked; exit code 2 when it is wrong."""
    with exit_codes():
        loaded = load_config(config)
        checking.show(loaded)
        if connect and not run_async(checking.connect(loaded)):
            raise typer.Exit(EXIT_FAULT)


app.command()(reload)
app.command()(schema)
app.command()(send)
app.command()(top)
app.command()(tap)


@app.command()
def exits(
    config: ConfigOption = None,
    group: Annotated[str | None, typer.Option(help="Only this group, for example '@TGS#2J4SZEAEL'.")] = None,
    member: Annotated[str | None, typer.Option(help="Only this member.")] = None,
    operator: Annotated[str | None, typer.Option(help="Only exits by this operator.")] = None,
    since: Annotated[
        str | None, typer.Option(help="From this time on: 2026-01-31, 2026-01-31T08:00, 2h, 7d.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Before this time.")] = None,
    app_id: Annotated[str | None, typer.Option("--app", help="Only this app (SDKAppID).")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="At most so many rows, newest first.")
    ] = 100,
    sink: Annotated[
        str | None, typer.Option(help="Read from this sink; the first database by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array instead of a table.")] = False,
) -> None:
    """Who left which group, who removed them, how and when."""
    with exit_codes():
        loaded = load_config(config)
        now_ms = time.time_ns() // 1_000_000
        query = ExitsQuery(
            group=group,
            member=member,
            operator=operator,
            app=app_id,
            since_ms=time_ms("--since", since, now_ms),
            until_ms=time_ms("--until", until, now_ms),
            limit=limit,
        )
        found = run_async(leavers.read_exits(leavers.database(loaded, sink), query))
        if as_json:
            typer.echo(rendering.render_json(found))
        else:
            # Why wide: who pipes it into grep looks for whole names; a terminal folds at its own width.
            rendering.render_table(found, Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS))


def _run(path: ConfigOption, *, serves: bool, works: bool, only_sink: str | None = None) -> None:
    with exit_codes():
        config = load_config(path)
        read = partial(load, config_path(path))
        if only_sink is not None and only_sink not in config.sinks:
            known = ", ".join(config.sinks) or "none"
            raise ConfigError(f"--sink: the configuration has no sink {only_sink!r}; it has: {known}")
        if works and not serves and not config.sinks:
            raise ConfigError("sinks: none is configured, so there is nothing to work on")
        raise typer.Exit(wiring.run(config, read, serves=serves, works=works, only_sink=only_sink))
