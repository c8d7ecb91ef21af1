"""``gateway send``: a double of Tencent's side. Sends callbacks, or compares a ledger with what arrived."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from itertools import count as numbers
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from gateway import build
from gateway.banner import local_url
from gateway.catalogue import COMMANDS, ROWS
from gateway.cli.bar import bar
from gateway.cli.common import EXIT_FAULT, EXIT_INTERRUPTED, ConfigOption, exit_codes, load_config
from gateway.config import Config, load
from gateway.errors import ConfigError, Unavailable
from gateway.metrics import Metrics
from gateway.simulator import tally as tallying
from gateway.simulator import verify as verifying
from gateway.simulator.bodies import Bodies
from gateway.simulator.http1 import Target
from gateway.simulator.ledger import CONNECTION, Head, LedgerFile, read_ledger
from gateway.simulator.proof import look_into_queues, prove
from gateway.simulator.sender import Outgoing, Plan, Sender
from gateway.simulator.tally import Tally
from gateway.tokens import TokenFiles

_FIRST_COMMAND = "Group.CallbackAfterMemberExit"
# Why fixed: a seed has to give the same bodies tomorrow too, and they hold times. 2026-01-01T00:00:00Z.
_SEEDED_BASE_MS = 1_767_225_600_000


def send(
    config: ConfigOption = None,
    url: Annotated[
        str | None, typer.Option(help="Where to. Default: where the configuration listens.")
    ] = None,
    app_id: Annotated[
        str | None, typer.Option("--app", help="SDKAppID. Default: the configuration's first.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="GATEWAY_SEND_TOKEN", help="Default: the app's first; '' sends unsigned."),
    ] = None,
    command: Annotated[
        list[str] | None, typer.Option(help=f"May be repeated. Default: {_FIRST_COMMAND}.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every known command in turn.")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Callbacks. Default: one of each command.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, max=1e6, help="Callbacks a second. Default: as many as go.")
    ] = None,
    duration: Annotated[float | None, typer.Option(min=0.001, help="Seconds to send for.")] = None,
    connections: Annotated[int, typer.Option(min=1, max=10_000, help="Kept connections.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.001, max=3600, help="Seconds to wait for an answer.")] = 2.0,
    retry: Annotated[int, typer.Option(min=0, max=1000, help="Further attempts after a timeout.")] = 0,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same bodies in the same order.")
    ] = None,
    legacy: Annotated[
        bool, typer.Option("--legacy", help="As the old room and call engines: lower case.")
    ] = False,
    groups: Annotated[int, typer.Option(min=1, max=1_000_000, help="Different groups in the bodies.")] = 20,
    ledger: Annotated[Path | None, typer.Option(help="A new file for what was sent and answered.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    verify: Annotated[
        Path | None, typer.Option(help="Send nothing; compare this ledger with --sink.")
    ] = None,
    sink: Annotated[str | None, typer.Option(help="With --verify: the sink to read.")] = None,
    queue: Annotated[
        bool, typer.Option("--queue", help="With --verify: its queue and dead queue too.")
    ] = False,
    wait: Annotated[float, typer.Option(min=0, help="With --verify: seconds to wait for all.")] = 0,
) -> None:
    """Send callbacks as Tencent does; or, with --verify, tell which of them arrived.

    Exit code 0: every callback was acknowledged (--verify: everything acknowledged arrived). 1: not. 2: wrong
    options.
    """
    with exit_codes():
        if verify is not None:
            raise typer.Exit(_verify(load_config(config), verify, sink, wait, queue=queue, as_json=as_json))
        if sink is not None or queue or wait:
            raise ConfigError("--sink, --queue and --wait belong to --verify")
        loaded = _config(config, is_needed=url is None or app_id is None)
        names = _commands(command, every=every)
        app_id = _app(loaded, app_id)
        plan = Plan(
            target=_target(loaded, app_id, url),
            app_id=app_id,
            token=_token(loaded, app_id, token),
            connections=connections,
            timeout_s=timeout,
            retries=retry,
            rate_per_s=rate,
            count=count if count is not None or duration is not None else len(names),
            duration_s=duration,
        )
        now_ms = time.time_ns() // 1_000_000
        base_ms = now_ms if seed is None else _SEEDED_BASE_MS
        seed = random.SystemRandom().getrandbits(32) if seed is None else seed
        bodies = Bodies(seed, app_id, groups, base_ms, is_legacy=legacy)
        code = _send(plan, names, bodies, ledger, Head(app_id, now_ms, seed), as_json=as_json)
        raise typer.Exit(code)


def _send(
    plan: Plan, names: list[str], bodies: Bodies, path: Path | None, head: Head, *, as_json: bool
) -> int:
    """Send by *plan*, print the summary, return the exit code."""
    file = None if path is None else LedgerFile(path, head)
    tally = Tally()
    sender = Sender(plan, _callbacks(bodies, names), tally, file)
    code = 0
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_send_and_show(sender, tally, plan.total))
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except OSError as error:
        detail = f"{path}: {error.strerror}; what was sent since is not written down"
        raise Unavailable("ledger", detail) from error
    finally:
        if file is not None:
            file.close()
    summary = {"url": plan.target.url, "app": plan.app_id, "seed": head.seed, **tally.summary()}
    typer.echo(json.dumps(summary) if as_json else f"{tallying.render(summary)}\n{'seed':<18} {head.seed}")
    if tally.sent and tally.answers[CONNECTION] == tally.sent:
        typer.secho(f"Nothing speaks HTTP at {plan.target.url}: does the gateway run there?", err=True)
    return code or (0 if tally.is_all_acknowledged else EXIT_FAULT)


def _callbacks(bodies: Bodies, names: list[str]) -> Iterator[Outgoing]:
    for number in numbers(1):
        command = names[(number - 1) % len(names)]
        query, body = bodies.make(number, command)
        yield Outgoing(number, command, query, body)


async def _send_and_show(sender: Sender, tally: Tally, total: int | None) -> None:
    with bar(lambda: tally.sent, total):
        await sender.run()


def _verify(
    config: Config, path: Path, name: str | None, wait_s: float, *, queue: bool, as_json: bool
) -> int:
    """Compare, print the verdict, return the exit code."""
    if name is None or name not in config.sinks:
        known = ", ".join(config.sinks) or "none"
        raise ConfigError(f"--sink: name one of the configuration's sinks; it has: {known}")
    with asyncio.Runner() as runner:
        verdict = runner.run(_compare(config, path, name, wait_s, queue=queue))
    typer.echo(json.dumps(verdict.summary()) if as_json else verifying.render(verdict))
    return EXIT_FAULT if verdict.lost else 0


async def _compare(config: Config, path: Path, name: str, wait_s: float, *, queue: bool) -> verifying.Verdict:
    ledger = read_ledger(path)
    comparison = await prove(ledger, config.sinks[name], wait_s)
    if queue and not comparison.is_complete:
        broker = build.make_broker(config, Metrics())
        try:
            await look_into_queues(comparison, broker, name)
        finally:
            await broker.close()
    return comparison.verdict()


def _config(path: Path | None, *, is_needed: bool) -> Config:
    # Why: another host's gateway can be tried from a folder without a configuration.
    if path is None and not is_needed and not Path("config.yaml").exists():
        return load(None)
    return load_config(path)


def _commands(given: list[str] | None, *, every: bool) -> list[str]:
    if every and given:
        raise ConfigError("--all and --command: choose one")
    if every:
        return [row.name for row in ROWS]
    for name in given or ():
        if name not in COMMANDS:
            raise ConfigError(f"--command: {name!r} is not in the catalogue; --all sends every one of it")
    return given or [_FIRST_COMMAND]


def _app(config: Config, given: str | None) -> str:
    app_id = given or next(iter(config.apps), "")
    if not (app_id.isascii() and app_id.isdigit() and len(app_id) <= 20):
        raise ConfigError("--app: an SDKAppID has 1 to 20 digits; the configuration has no app to take")
    return app_id


def _target(config: Config, app_id: str, given: str | None) -> Target:
    if given is None:
        if app_id not in config.apps:
            raise ConfigError(f"--url: the configuration has no app {app_id} whose path could be taken")
        given = local_url(config, config.listen.port) + config.apps[app_id].path
    try:
        return Target.of(given)
    except ValueError as error:
        raise ConfigError(f"--url: {error}") from error


def _token(config: Config, app_id: str, given: str | None) -> str:
    if given is not None:
        return given
    if app_id not in config.apps:
        return ""
    app = config.apps[app_id]
    tokens = [token.get_secret_value() for token in app.tokens]
    tokens += TokenFiles({app_id: app}).tokens.get(app_id, ())
    return tokens[0] if tokens else ""
