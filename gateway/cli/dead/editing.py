"""``gateway dead replay --edit``: one parked event in somebody's editor, then back to its sink."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import typer

from gateway.broker import Delivery
from gateway.cli.common import EXIT_FAULT
from gateway.cli.dead import choosing
from gateway.cli.exits import visible
from gateway.cli.output import note
from gateway.config import Config
from gateway.dead import Choice, Work, indented, mended
from gateway.errors import ConfigError


def replay_edited(
    config: Config, sink: str, choice: Choice, editor: str, *, may_rename: bool, is_dry: bool
) -> int:
    """Let somebody edit the one event, then replay what was made of it; returns the exit code."""
    found = choosing.work_on(config, sink, "replay", choice, _all)
    if not found:
        note(f"No event {visible(choice.id or '')} is parked for sink {sink}.")
        return EXIT_FAULT
    if len(found) > 1:
        note(f"{len(found)} parked events have this id; the first of them is edited, the others stay.")
    original = found[0].body
    # Why nothing is held meanwhile: an editor may stay open for longer than RabbitMQ waits.
    text = _edited(found[0], editor, may_rename=may_rename)
    if text is None:
        note("Nothing was changed, so nothing was replayed.")
        return 0
    if is_dry:
        typer.echo("Would replay 1 edited event; it is one still.")
        return 0

    async def job(work: Work) -> bool:
        return await work.replace(original, lambda one: mended(one, text, may_rename=may_rename))

    if not choosing.work_on(config, sink, "replay", choice, job):
        note("The event is not parked any more: somebody replayed or removed it meanwhile.")
        return EXIT_FAULT
    typer.echo(f"Replayed 1 edited event to sink {sink}")
    return 0


def _edited(delivery: Delivery, editor: str, *, may_rename: bool) -> str | None:
    """Return the event as somebody left it in *editor*; None: as it was. ConfigError when it is none."""
    before = text = indented(delivery.body.decode("utf-8", "replace"))
    while True:
        text = _in_editor(text, editor)
        if text == before:
            return None
        try:
            mended(delivery, text, may_rename=may_rename)
        except ValueError as error:
            said = f"What was edited can't be replayed: {visible(str(error))}"
            if not sys.stdin.isatty() or not typer.confirm(f"{said}. Edit again?", default=True):
                raise ConfigError(f"{said}. Nothing was changed") from error
        else:
            return text


def _in_editor(text: str, editor: str) -> str:
    """Return *text* as *editor* left it; ConfigError when it can't be run, or says that it failed."""
    handle, name = tempfile.mkstemp(suffix=".json")  # for its owner only: it may hold personal data
    path = Path(name)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        code = subprocess.run([*shlex.split(editor), name], check=False).returncode  # noqa: S603 - the user's own
        if code:
            raise ConfigError(f"$EDITOR: {editor} ended with exit code {code}; nothing was changed")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"$EDITOR: {editor} can't be used ({error}); nothing was changed") from error
    finally:
        path.unlink(missing_ok=True)


async def _all(work: Work) -> list[Delivery]:
    return [delivery async for delivery in work.look()]
