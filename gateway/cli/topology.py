"""``gateway topology``: what stands on the broker for this configuration, and moving unrouted events back."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer
from yarl import URL

from gateway import build
from gateway.broker import Broker
from gateway.cli.common import EXIT_FAULT, ConfigOption, exit_codes, load_config, run_async
from gateway.config import Config
from gateway.errors import ConfigError, Unavailable
from gateway.metrics import Metrics
from gateway.topology import Binding, Topology

_HOW_TO_DECLARE = (
    "Before the first start that is as it should be. `gateway topology apply` declares everything; so do"
    " `gateway serve` and `gateway work`, unless broker.declare says check or off."
)

app = typer.Typer(no_args_is_help=True, help="The exchanges, queues and bindings of this configuration.")


@app.command()
def show(config: ConfigOption = None) -> None:
    """Print the broker objects, and queues bound to them that no sink of the configuration reads."""
    with exit_codes():
        loaded = load_config(config)
        _print_objects(build.topology_of(loaded))
        run_async(_print_foreign(loaded))


@app.command()
def apply(
    config: ConfigOption = None,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Then name bindings of our sinks that the configuration has no more."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: remove them.")] = False,
) -> None:
    """Declare everything, whatever broker.declare says; for a user with configure rights.

    RabbitMQ keeps a binding until somebody removes it, so a sink whose events became fewer still gets the
    others, which its worker passes over. Queues, and what stands in them, stay in any case.
    """
    with exit_codes():
        loaded = load_config(config)
        if loaded.broker.embedded_path is not None:
            raise ConfigError("broker.url: the embedded broker needs no declaring")
        if yes and not prune:
            raise ConfigError("--yes: says that --prune shall remove, and there is no --prune")
        forced = loaded.model_copy(update={"broker": loaded.broker.model_copy(update={"declare": "apply"})})
        run_async(_apply(forced))
        typer.echo("All exchanges, queues and bindings stand.")
        if prune:
            _prune(loaded, is_dry=not yes)


@app.command()
def rescue(config: ConfigOption = None) -> None:
    """Publish what stands in the unrouted queue again: a sink added since gets its events."""
    with exit_codes():
        loaded = load_config(config)
        moved, left = run_async(_rescue(loaded))
        typer.echo(f"{moved} events were published again; {left} stand in the unrouted queue now.")


def _prune(config: Config, *, is_dry: bool) -> None:
    """Remove bindings that the configuration does not name; where nobody can tell them, say how to."""
    try:
        found = run_async(_pruned(config, is_dry=is_dry))
    except Unavailable as fault:
        if fault.reason != "management":
            raise
        typer.secho(f"Which bindings there are can't be told: {fault.detail}. By hand:", err=True)
        typer.echo(_by_hand(config))
        raise typer.Exit(EXIT_FAULT) from None
    for one in found:
        verb = "would remove" if is_dry else "removed"
        typer.echo(f"{verb}  {one.source} -> {one.destination} [{one.routing_key}]")
    if not found:
        typer.echo("No binding of these sinks is one too many.")
    elif is_dry:
        typer.secho(
            "Nothing was removed. Start all processes with this configuration first: those with the old one"
            " would bind again. Then say --yes",
            err=True,
        )


def _by_hand(config: Config) -> str:
    """Return the commands that list the bindings of our sinks and remove one."""
    topology = build.topology_of(config)
    vhost = shlex.quote(URL(config.broker.urls[0]).path.removeprefix("/") or "/")
    lines = [f"rabbitmqctl list_bindings -p {vhost} source_name destination_name routing_key"]
    for sink in topology.sinks:
        lines += [
            f"# of {sink.exchange} keep {', '.join(sink.patterns)}; remove each other KEY:",
            f"rabbitmqadmin --vhost={vhost} delete binding source={topology.events} destination_type=exchange"
            f" destination={sink.exchange} properties_key=KEY",
        ]
    return "\n".join(lines)


async def _pruned(config: Config, *, is_dry: bool) -> list[Binding]:
    broker = build.make_broker(config, Metrics())
    try:
        return await broker.prune(is_dry=is_dry)
    finally:
        await broker.close()


async def _apply(config: Config) -> None:
    broker = build.make_broker(config, Metrics())
    try:
        async with broker.publisher():
            return
    finally:
        await broker.close()


async def _rescue(config: Config) -> tuple[int, int]:
    broker = build.make_broker(config, Metrics())
    try:
        return await broker.rescue(), await broker.unrouted()
    finally:
        await broker.close()


async def _print_foreign(config: Config) -> None:
    broker = build.make_broker(config, Metrics())
    try:
        await _print_depths(broker, config)
        foreign = await broker.foreign_queues()
    except Unavailable as fault:
        typer.secho(f"\nWhat stands there can't be told: {fault.detail}", fg=typer.colors.YELLOW)
        if fault.reason == "missing":
            typer.secho(_HOW_TO_DECLARE, fg=typer.colors.YELLOW)
        return
    finally:
        await broker.close()
    for name in foreign:
        typer.secho(
            f"! {name} gets our events though no sink of this configuration reads it: delete it, unbind it,"
            " or list it under broker.ignore",
            fg=typer.colors.YELLOW,
        )
    if not foreign:
        typer.echo("\nNo other queue is bound to these exchanges.")


async def _print_depths(broker: Broker, config: Config) -> None:
    depths = {name: await broker.depth(name) for name in config.sinks}
    unrouted = await broker.unrouted()
    typer.echo("\nwaiting")
    for name, depth in depths.items():
        typer.echo(f"  {name}: {depth.ready} ready, {depth.retry} in retry, {depth.dead} parked")
    typer.echo(f"  unrouted: {unrouted}\n")


def _print_objects(topology: Topology) -> None:
    typer.echo("exchanges")
    for exchange in topology.exchanges():
        typer.echo(f"  {exchange.name} ({exchange.kind}){_arguments(exchange.arguments)}")
    typer.echo("queues")
    for queue in topology.queues():
        typer.echo(f"  {queue.name}{_arguments(queue.arguments)}")
    typer.echo("bindings")
    for binding in topology.bindings():
        key = f" [{binding.routing_key}]" if binding.routing_key else ""
        typer.echo(f"  {binding.source} -> {binding.destination}{key}")


def _arguments(arguments: object) -> str:
    pairs = dict(arguments) if isinstance(arguments, dict) else {}
    return "  " + ", ".join(f"{name}={value}" for name, value in pairs.items()) if pairs else ""
