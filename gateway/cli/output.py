"""What commands print and the files they write: exactly, or without a stranger's control characters."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import typer

from gateway.cli.exits import visible, visible_json
from gateway.errors import ConfigError, Unavailable

_SHOWN_CHARACTERS = 4096


def note(text: str) -> None:
    """Say *text* on standard error."""
    typer.secho(text, err=True, fg=typer.colors.YELLOW)


def write(data: bytes, *, is_json: bool = True) -> None:
    """Print *data* exactly, or, to a terminal, with every character that is not printable as an escape."""
    if not sys.stdout.isatty():
        typer.echo(data, nl=False)
        return
    text = data.decode("utf-8", "backslashreplace")
    shown = visible_json(text) if is_json else "\n".join(map(visible, text.split("\n")))
    typer.echo(shown, nl=not shown.endswith("\n"))


def shortened(text: str) -> str:
    """Return the printable start of *text*, with how much follows."""
    left = len(text) - _SHOWN_CHARACTERS
    return visible(text[:_SHOWN_CHARACTERS]) + (f" … {left:,} characters more" if left > 0 else "")


def as_json(value: Mapping[str, Any]) -> str:
    """Return *value* as one line of JSON in ASCII, which no terminal takes for anything else."""
    return json.dumps(value)


@contextmanager
def written(target: Path | None, *, force: bool) -> Iterator[Callable[[bytes], object]]:
    """Yield what takes the bytes of *target*, which is there, whole, only once the block has ended.

    Raises ConfigError when it is there already and not to be replaced, Unavailable when it can't be written.
    """
    if target is None:
        yield write if sys.stdout.isatty() else sys.stdout.buffer.write
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
