"""How callbacks and events are printed: exactly, or for people, without a stranger's control characters."""

from __future__ import annotations

import base64
from typing import Any

from gateway.cli.exits import visible
from gateway.cli.output import note
from gateway.config import Config
from gateway.event import Event, iso_time, one_line
from gateway.journal import Stored
from gateway.normalise import command_named

MB = 1024 * 1024


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


def event_lines(events: list[Event]) -> bytes:
    """Return *events*, one a line."""
    return b"".join(one_line(event.body) + b"\n" for event in events)
