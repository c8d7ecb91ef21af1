"""How callbacks and events are printed: exactly, or for people, without a stranger's control characters."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from typing import Any

import typer

from gateway.cli.exits import visible, visible_json
from gateway.config import Config
from gateway.event import Event, iso_time, one_line
from gateway.journal import Stored
from gateway.normalise import command_named

MB = 1024 * 1024
_SHOWN_CHARACTERS = 4096


def note(text: str) -> None:
    """Say *text* on standard error."""
    typer.secho(text, err=True, fg=typer.colors.YELLOW)


def note_personal_data(config: Config) -> None:
    """Say what bodies hold."""
    hours = f"{config.journal.retain_h:g}"
    note(
        f"The journal keeps callbacks as they came for journal.retain_h ({hours} h), personal data included,"
        " whatever apps.<id>.redact says; treat this output accordingly."
    )


def note_events() -> None:
    """Say how events are made."""
    note(
        "Events are made by this release with the redact rules of today's configuration (they may hold"
        " personal data still), and their ids by the recipe and window stored with each callback."
    )


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


def line(stored: Stored, width: int) -> str:
    """Return the one line of *stored* for people; never its body."""
    callback = stored.callback
    return "  ".join(
        (
            f"{stored.position:>{width}}",
            iso_time(callback.received_ms),
            visible(callback.app_id),
            f"{visible(command_named(callback)) or '-':<36}",
            f"{len(callback.body):>7}",
            "verified" if callback.verified else "unsigned",
            visible(callback.peer),
        )
    )


def fields(stored: Stored) -> dict[str, Any]:
    """Return what ``list --json`` says of *stored*."""
    callback = stored.callback
    return {
        "position": stored.position,
        "received": iso_time(callback.received_ms),
        "app": callback.app_id,
        "command": command_named(callback),
        "bytes": len(callback.body),
        "verified": callback.verified,
        "peer": callback.peer,
    }


def whole(journal_id: str, stored: Stored) -> dict[str, Any]:
    """Return all of *stored*, the body included: text, or base64 where it is no UTF-8."""
    callback = stored.callback
    try:
        body = {"body": callback.body.decode()}
    except UnicodeDecodeError:
        body = {"body_base64": base64.b64encode(callback.body).decode()}
    return {
        "journal": journal_id,
        **fields(stored),
        "received_ms": callback.received_ms,
        "query": callback.query,
        "id_recipe": callback.id_recipe,
        "id_window_s": callback.id_window_s,
        **body,
    }


def as_json(value: Mapping[str, Any]) -> str:
    """Return *value* as one line of JSON in ASCII, which no terminal takes for anything else."""
    return json.dumps(value)


def event_lines(events: list[Event]) -> bytes:
    """Return *events*, one a line."""
    return b"".join(one_line(event.body) + b"\n" for event in events)
