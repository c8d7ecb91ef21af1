"""``gateway dead``: parked events of a sink; one command at a time has them in its hands."""

from __future__ import annotations

import typer

from gateway.cli.dead.exporting import export
from gateway.cli.dead.looking import list_, show
from gateway.cli.dead.removing import purge
from gateway.cli.dead.replaying import replay

app = typer.Typer(
    no_args_is_help=True,
    help="Parked events: look at them, give them back to their sink, export or remove them.",
)
app.command(name="list")(list_)
app.command()(show)
app.command()(replay)
app.command()(purge)
app.command()(export)

__all__ = ["app"]
