"""``gateway schema``: what the configuration and the events look like, for machines and for docs."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Annotated, Any

import typer

from gateway import __version__
from gateway.cli.common import exit_codes
from gateway.cli.config_table import config_table
from gateway.cli.markdown import markdown
from gateway.cli.metric_table import metric_table
from gateway.config import Broker, Config
from gateway.errors import ConfigError
from gateway.schema import DIALECT, asyncapi, event_schema, event_types


def schema(
    event_type: Annotated[
        str | None, typer.Argument(help="An event type; without one, the configuration.", metavar="TYPE")
    ] = None,
    events: Annotated[bool, typer.Option("--events", help="All event types, by name.")] = False,
    as_asyncapi: Annotated[
        bool, typer.Option("--asyncapi", help="An AsyncAPI 3 document of exchange, routing keys, events.")
    ] = False,
    exchange: Annotated[
        str | None, typer.Option(help="With --asyncapi: your broker.exchange, where it is another.")
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="The generated part of docs/events.md.")
    ] = False,
    as_metrics: Annotated[
        bool, typer.Option("--metrics", help="All metrics, as a table: that of docs/metrics.md.")
    ] = False,
    as_config: Annotated[
        bool,
        typer.Option("--config", help="All keys of the configuration, as tables: those of docs/config.md."),
    ] = False,
) -> None:
    """JSON Schema of the configuration or of events; AsyncAPI; all metrics."""
    with exit_codes():
        if as_markdown:
            typer.echo(markdown(), nl=False)
        elif as_metrics:
            typer.echo(metric_table(), nl=False)
        elif as_config:
            typer.echo(config_table(), nl=False)
        elif as_asyncapi:
            _print(asyncapi(exchange or Broker().exchange, __version__))
        elif events:
            _print({name: event_schema(name) for name in event_types()})
        elif event_type is not None:
            _print(_one(event_type))
        else:
            _print(config_schema())


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of config.yaml, ``${NAME}`` expanded."""
    return {"$schema": DIALECT, **Config.model_json_schema()}


def _one(event_type: str) -> dict[str, Any]:
    try:
        return event_schema(event_type)
    except KeyError:
        near = get_close_matches(event_type, event_types(), n=1, cutoff=0.0)
        raise ConfigError(f"there is no such event type; did you mean {near[0]}?") from None


def _print(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
