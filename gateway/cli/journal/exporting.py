"""``gateway journal export``: callbacks, or their events, as JSON lines in a file or on standard output."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from gateway.cli.bar import bar
from gateway.cli.common import EXIT_FAULT, ConfigOption, exit_codes, load_config
from gateway.cli.journal import choosing, showing
from gateway.cli.journal.choosing import Choice, opened, passed_over
from gateway.cli.journal.showing import as_json, note
from gateway.errors import ConfigError, Unavailable
from gateway.journal import Stored
from gateway.replay import events_of
from gateway.rules import redactions_of


def export(
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="A new file, compressed when it ends in .gz; else standard output."
        ),
    ] = None,
    config: ConfigOption = None,
    since: choosing.Since = None,
    until: choosing.Until = None,
    command: choosing.Command = None,
    app_id: choosing.App = None,
    first: choosing.From = None,
    last: choosing.To = None,
    events: Annotated[bool, typer.Option("--events", help="The events instead of the callbacks.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    json_wanted: Annotated[
        bool, typer.Option("--json", help="Say what was written as one JSON object.")
    ] = False,
) -> None:
    """Write callbacks (or events) as JSON lines; all of FILE or nothing, readable by its owner only.

    Exit code 1: callbacks in the range were damaged; the others were written.
    """
    with exit_codes():
        loaded = load_config(config)
        target = None if target == Path("-") else target
        choice = Choice.of(since, until, command, app_id, first, last)
        reader = opened(loaded)
        redactions = redactions_of(loaded)
        if events:
            showing.note_events()
        else:
            showing.note_personal_data(loaded)
        if said := choice.reach(reader):
            note(said)

        def lines_of(stored: Stored) -> bytes:
            if events:
                return showing.event_lines(events_of(reader.id, stored, redactions))
            return as_json(showing.whole(reader.id, stored)).encode() + b"\n"

        after, to = choice.positions(reader)
        callbacks = lines = 0
        with _written(target, force=force) as write, bar(lambda: max(0, reader.position - after), to - after):
            for stored in choice.records(reader):
                data = lines_of(stored)
                write(data)
                callbacks += 1
                lines += data.count(b"\n")
        for said in passed_over(reader):
            note(said)
        found = {
            "file": None if target is None else str(target),
            "first": after + 1,
            "last": to,
            "callbacks": callbacks,
            "lines": lines,
            "lost": reader.lost,
            "trimmed": reader.trimmed,
        }
        text = f"{lines:,} lines of {callbacks:,} callbacks (positions {after + 1} to {to})"
        typer.echo(as_json(found) if json_wanted else text, err=target is None)
        if reader.lost:
            raise typer.Exit(EXIT_FAULT)


@contextmanager
def _written(target: Path | None, *, force: bool) -> Iterator[Callable[[bytes], object]]:
    """Yield what takes the bytes of *target*, which is there, whole, only once the block has ended.

    Raises ConfigError when it is there already and not to be replaced, Unavailable when it can't be written.
    """
    if target is None:
        yield showing.write if sys.stdout.isatty() else sys.stdout.buffer.write
        sys.stdout.flush()
        return
    if os.path.lexists(target) and not force:
        raise ConfigError(f"{target} is there already; --force replaces it")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with _compressed(part, is_gz=target.suffix == ".gz") as file:
            yield file.write
            file.flush()
        _put(part, target, force=force)
    except OSError as error:
        raise Unavailable("not_written", f"{target} can't be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _compressed(path: Path, *, is_gz: bool) -> Iterator[BinaryIO]:
    """Yield the new file *path*, for its owner only; on disk when the block ends."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        if is_gz:
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                yield packed  # type: ignore[misc]  # it has all of BinaryIO that is used
        else:
            yield file
        file.flush()
        os.fsync(fd)


def _put(part: Path, target: Path, *, force: bool) -> None:
    """Give *part* the name *target*; ConfigError when that came to be there meanwhile."""
    if force:
        part.replace(target)
        return
    try:
        target.hardlink_to(part)
    except FileExistsError:
        raise ConfigError(f"{target} came to be there meanwhile; --force replaces it") from None
    except OSError:
        # Why: some file systems know no second names; there nothing better guards what came meanwhile.
        part.replace(target)
