"""``gateway dead purge``: removes parked events for ever."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.bar import bar
from gateway.cli.common import EXIT_FAULT, EXIT_INTERRUPTED, ConfigOption, exit_codes, load_config
from gateway.cli.dead import choosing
from gateway.cli.dead.replaying import rendered
from gateway.cli.output import as_json, note
from gateway.config import Config
from gateway.dead import Choice, Counts, Work
from gateway.errors import ConfigError, Unavailable


def purge(
    config: ConfigOption = None,
    sink: choosing.Sink = None,
    type_: choosing.Type = None,
    reason: choosing.Reason = None,
    group: choosing.Group = None,
    app: choosing.App = None,
    id_: choosing.Id = None,
    since: choosing.Since = None,
    until: choosing.Until = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is parked.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this they are only counted.")] = False,
    json_wanted: choosing.Json = False,
) -> None:
    """Remove parked events for ever; without --yes, say how many that would be.

    Export them first if anybody might ask: what is removed here stands nowhere else once the journal has
    given it up.
    """
    with exit_codes():
        loaded = load_config(config)
        choice = choosing.choice_of(type_, reason, group, app, id_, since, until)
        name = choosing.sink_of(loaded, sink)
        if choice.is_open and not everything:
            raise ConfigError(
                "say what to remove: --type, --reason, --group, --app, --id, --since, --until, or --all"
            )
        code, counts = _purge(loaded, name, choice, is_dry=not yes)
        found = {
            "sink": name,
            "dry_run": not yes,
            "events": counts.events,
            "types": dict(counts.types.most_common()),
            "reasons": dict(counts.reasons.most_common()),
        }
        typer.echo(as_json(found) if json_wanted else rendered(found, "purge"))
        if not yes and counts.events:
            note("Nothing was removed. Say --yes to remove them for ever.")
        raise typer.Exit(code)


def _purge(config: Config, sink: str, choice: Choice, *, is_dry: bool) -> tuple[int, Counts]:
    """Return the exit code and what was removed, or would be."""
    done = Counts()

    async def job(work: Work) -> None:
        nonlocal done
        done = work.chosen if is_dry else work.done
        with bar(lambda: work.seen, work.parked):
            if is_dry:
                await work.count()
                done = work.chosen
            else:
                await work.purge()

    try:
        choosing.work_on(config, sink, "purge", choice, job)
    except KeyboardInterrupt:
        note(f"Interrupted. {done.events:,} events were removed.")
        return EXIT_INTERRUPTED, done
    except Unavailable as fault:
        if fault.reason == "in_use":
            raise
        note(f"{choosing.amiss(fault)}. {done.events:,} events were removed, or the next few too.")
        return EXIT_FAULT, done
    return 0, done
