"""``gateway dead replay``: gives parked events back to their sink, as they are or edited."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.bar import bar
from gateway.cli.common import EXIT_FAULT, EXIT_INTERRUPTED, ConfigOption, exit_codes, load_config
from gateway.cli.dead import choosing
from gateway.cli.dead.editing import replay_edited
from gateway.cli.exits import visible
from gateway.cli.output import as_json, note
from gateway.config import Config
from gateway.dead import Choice, Counts, Work
from gateway.errors import ConfigError, Unavailable


def replay(
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
    limit: Annotated[int, typer.Option(min=0, help="At most so many events; 0: all that match.")] = 0,
    rate: Annotated[
        float, typer.Option(min=0, max=1e6, help="Events a second; 0: as fast as it goes.")
    ] = 500,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would go back; change nothing.")
    ] = False,
    edit: Annotated[
        bool, typer.Option("--edit", help="Edit the one event that --id names in $EDITOR first.")
    ] = False,
    rename: Annotated[
        bool, typer.Option("--rename", help="An edited event may have another id or source.")
    ] = False,
    editor: Annotated[
        str, typer.Option(help="The editor.", envvar=["VISUAL", "EDITOR"], show_default=False)
    ] = "vi",
    yes: Annotated[
        bool, typer.Option("--yes", help="Also to a sink that writes an event again when it comes again.")
    ] = False,
    json_wanted: choosing.Json = False,
) -> None:
    """Give parked events back to their sink alone, in the order in which they were parked.

    Each comes as a first attempt, and leaves the dead queue once its copy is confirmed: wherever this ends,
    one may be in both, none in neither. Events whose sink still refuses them are parked again, behind.
    """
    with exit_codes():
        loaded = load_config(config)
        choice = choosing.choice_of(type_, reason, group, app, id_, since, until)
        name = choosing.sink_of(loaded, sink)
        _check(loaded, name, choice, everything=everything, is_allowed=yes or dry_run)
        if edit:
            if choice.id is None:
                raise ConfigError("--edit: name the one event with --id")
            raise typer.Exit(replay_edited(loaded, name, choice, editor, may_rename=rename, is_dry=dry_run))
        code, counts = _replay(loaded, name, choice, rate, limit, is_dry=dry_run)
        found = {
            "sink": name,
            "dry_run": dry_run,
            "events": counts.events,
            "types": dict(counts.types.most_common()),
            "reasons": dict(counts.reasons.most_common()),
        }
        typer.echo(as_json(found) if json_wanted else rendered(found, "replay"))
        raise typer.Exit(code)


def rendered(found: dict[str, Any], verb: str) -> str:
    """Return what *found* counts for people; *verb* is ``replay`` or ``purge``."""
    said = f"Would {verb}" if found["dry_run"] else f"{verb.capitalize()}{'d' if verb[-1] == 'e' else 'ed'}"
    if not found["events"]:
        return f"{said} nothing: no parked event of sink {found['sink']} matches."
    lines = [f"{said} {found['events']:,} parked events of sink {found['sink']}"]
    lines += [f"  type {visible(name)}: {count:,}" for name, count in found["types"].items()]
    lines += [f"  reason {visible(name) or '-'}: {count:,}" for name, count in found["reasons"].items()]
    return "\n".join(lines)


def _check(config: Config, name: str, choice: Choice, *, everything: bool, is_allowed: bool) -> None:
    if choice.is_open and not everything:
        raise ConfigError(
            "say what to replay: --type, --reason, --group, --app, --id, --since, --until, or --all"
        )
    sink = config.sinks[name]
    if sink.effect != "once" and not is_allowed:
        raise ConfigError(
            f"--yes: {name} ({sink.kind}) writes an event again when it comes again: one that it wrote before"
            " it was parked, or whose replay is interrupted, may be there twice. Say --yes if that is fine"
        )


def _replay(
    config: Config, sink: str, choice: Choice, rate_per_s: float, limit: int, *, is_dry: bool
) -> tuple[int, Counts]:
    """Return the exit code and what went back, or would; when it ends early, say how far it came."""
    done = Counts()

    async def job(work: Work) -> None:
        nonlocal done
        with bar(lambda: work.seen, work.parked):
            await work.count()
        if is_dry:
            done = work.chosen
            return
        done = work.done
        with bar(lambda: work.done.events, min(limit or work.chosen.events, work.chosen.events)):
            await work.replay(rate_per_s)

    try:
        choosing.work_on(config, sink, "replay", choice, job, limit)
    except KeyboardInterrupt:
        note(f"Interrupted. {_how_far(done)}")
        return EXIT_INTERRUPTED, done
    except Unavailable as fault:
        if fault.reason == "in_use":
            raise
        note(f"{choosing.amiss(fault)}. {_how_far(done)}")
        return EXIT_FAULT, done
    return 0, done


def _how_far(done: Counts) -> str:
    return (
        f"{done.events:,} events are back with their sink and out of the dead queue; of the next"
        " few, a copy may be there too. To go on, say the same again"
    )
