"""``gateway journal``: look into the journal, check it, publish from it again; a running gateway's too."""

from __future__ import annotations

import typer

from gateway.cli.journal.exporting import export
from gateway.cli.journal.looking import list_, show, stat
from gateway.cli.journal.replaying import replay
from gateway.cli.journal.verifying import verify

app = typer.Typer(
    no_args_is_help=True,
    help="The journal: what stands in it, whether it is sound, and publishing from it again.",
)
app.command()(stat)
app.command("list")(list_)
app.command()(show)
app.command()(verify)
app.command()(replay)
app.command()(export)
