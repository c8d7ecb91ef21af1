"""Which callbacks of the journal a command is about: options, their meaning, what is no longer kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from gateway.adoption import numbers_in, share_of
from gateway.cli.common import load_config, time_ms
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.event import iso_time
from gateway.journal import JournalReader, Stored, open_readonly
from gateway.normalise import command_named

Since = Annotated[
    str | None,
    typer.Option(help="Received from this time on: 2026-01-31, 2026-01-31T08:00 (UTC), 30m, 2h, 7d."),
]
Until = Annotated[str | None, typer.Option(help="Received before this time.")]
Command = Annotated[
    str | None, typer.Option(help="Only this command; * and ? stand for any text: 'Group.*'.")
]
App = Annotated[str | None, typer.Option("--app", help="Only this app (SDKAppID).")]
Process = Annotated[
    int | None,
    typer.Option(
        min=1, help="The journal of this process; needed where listen.processes has made several of them."
    ),
]
From = Annotated[int | None, typer.Option("--from", min=1, help="From this position on.")]
To = Annotated[int | None, typer.Option("--to", min=1, help="Up to this position, itself included.")]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which callbacks are meant; None means any."""

    since_ms: int | None = None
    """Inclusive."""
    until_ms: int | None = None
    """Exclusive."""
    command: str | None = None
    app: str | None = None
    first: int | None = None
    last: int | None = None
    """Inclusive."""

    @classmethod
    def of(
        cls,
        since: str | None,
        until: str | None,
        command: str | None,
        app: str | None,
        first: int | None,
        last: int | None,
    ) -> Choice:
        """Return what the options mean; ConfigError when nothing could match."""
        now_ms = time.time_ns() // 1_000_000
        since_ms, until_ms = time_ms("--since", since, now_ms), time_ms("--until", until, now_ms)
        if since_ms is not None and until_ms is not None and since_ms >= until_ms:
            raise ConfigError(
                f"--since, --until: {iso_time(since_ms)} not before {iso_time(until_ms)}: nothing can match"
            )
        if first is not None and last is not None and first > last:
            raise ConfigError(f"--from, --to: {first} lies behind {last}, nothing can match")
        return cls(since_ms, until_ms, command, app, first, last)

    @property
    def is_open(self) -> bool:
        """Nothing was chosen: all that is there is meant."""
        return self == Choice()

    def takes(self, stored: Stored) -> bool:
        """Say whether *stored* is meant, its position aside."""
        callback = stored.callback
        return (
            (self.since_ms is None or callback.received_ms >= self.since_ms)
            and (self.until_ms is None or callback.received_ms < self.until_ms)
            and (self.app is None or callback.app_id == self.app)
            and (self.command is None or fnmatchcase(command_named(callback), self.command))
        )

    def positions(self, reader: JournalReader) -> tuple[int, int]:
        """Return (after, to): behind which position to read *reader*, and up to which."""
        after = reader.first - 1 if self.since_ms is None else reader.behind(self.since_ms)
        after = max(after, (self.first or 1) - 1)
        return after, max(after, reader.head if self.last is None else min(reader.head, self.last))

    def records(self, reader: JournalReader) -> Iterator[Stored]:
        """Yield the callbacks meant, in the order of their positions."""
        return (stored for stored in reader.records(*self.positions(reader)) if self.takes(stored))

    def reach(self, reader: JournalReader) -> str:
        """Say what was asked for and is no longer kept; "" when the journal still has all of it."""
        if reader.first <= (self.first or 1):
            return ""
        oldest = next(reader.records(), None)
        if self.since_ms is not None and oldest and oldest.callback.received_ms <= self.since_ms:
            return ""
        asked = iso_time(self.since_ms) if self.since_ms is not None else f"position {self.first or 1}"
        keeps = (
            f"reaches back to {iso_time(oldest.callback.received_ms)} (position {oldest.position})"
            if oldest
            else "keeps nothing at present"
        )
        return (
            f"The journal {keeps}; asked from {asked}. What came before is no longer kept"
            " (journal.retain_mb, journal.retain_h)."
        )


def load(path: Path | None, process: int | None) -> Config:
    """Return the configuration with the journal of *process* as ``journal.dir``; ConfigError if none."""
    config = load_config(path)
    folder = config.journal.dir
    there = [1, *numbers_in(folder)]
    if process is None and len(there) > 1:
        raise ConfigError(
            f"journal.dir: {folder} has the journals of several processes; name one of them:"
            f" {', '.join(f'--process {number}' for number in there)}"
        )
    if process is not None and process not in there:
        raise ConfigError(
            f"--process {process}: {folder} has no journal of it; there are: {', '.join(map(str, there))}"
        )
    return share_of(config, process or 1)


def opened(config: Config) -> JournalReader:
    """Return the journal of *config*, as it stands now."""
    return open_readonly(config.journal.dir)


def passed_over(reader: JournalReader) -> list[str]:
    """Return sentences on what *reader* came across and could not give."""
    said = []
    if reader.lost:
        said.append(
            f"{reader.lost} positions in this range are damaged or missing and were passed over;"
            " gateway journal verify names them."
        )
    if reader.trimmed:
        said.append(
            f"{reader.trimmed} callbacks were removed by the gateway while this read the journal:"
            " they are no longer kept (journal.retain_mb, journal.retain_h)."
        )
    return said
