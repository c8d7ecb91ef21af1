"""The ledger: what was sent, written down before it was sent, and how it was answered.

JSON lines: a head, then for each callback an intent and, once it is over, its answer. Each line is one write
to the file, so the end of this process, by kill -9 too, loses none that was written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from gateway.callback import Callback
from gateway.errors import ConfigError
from gateway.ids import FACT_DIGITS
from gateway.normalise import ID_RECIPE, normalise

VERSION = 2
OK = "ok"
TIMEOUT = "timeout"
CONNECTION = "connection_error"
_APART_MS = 7 * 86_400_000  # two times of receipt that no id window joins: it is at most a day


@dataclass(frozen=True, slots=True)
class Head:
    """What holds for the whole ledger."""

    app_id: str
    started_ms: int
    """Unix milliseconds."""
    seed: int


@dataclass(frozen=True, slots=True)
class Expected:
    """One event that a callback must give."""

    type: str
    id: str
    """The event's id; only its first FACT_DIGITS where the time of receipt gives the others."""


@dataclass(slots=True)
class Entry:
    """One callback of a ledger that was read back."""

    number: int
    command: str
    expected: tuple[Expected, ...]
    answer: str = ""
    """``ok``, ``timeout``, ``connection_error``, the token of a refusal, or "" when none was written."""
    code: int = 0
    """``ErrorCode`` of the answer; not 0 in an ``ok`` where the receiver denied what was about to happen."""
    attempts: int = 0
    sent_ms: int = 0
    took_ms: float = 0.0

    @property
    def is_acknowledged(self) -> bool:
        return self.answer == OK


@dataclass(frozen=True, slots=True)
class Ledger:
    """A whole ledger."""

    head: Head
    entries: Mapping[int, Entry] = field(default_factory=dict)
    """By number, in the order of sending."""


def expected_events(app_id: str, query: str, body: bytes, *, is_signed: bool) -> tuple[Expected, ...]:
    """Return the events that the callback must give, from what the receiver would store; *query* unsigned."""
    events = normalise(_stored(app_id, query, body, 0, is_signed=is_signed), "0.0")
    if all(event.attributes.get("timesource") != "received" for event in events):
        return tuple(Expected(event.type, event.id) for event in events)
    # Why twice: what the time of receipt changes is known by its fact alone.
    later = normalise(_stored(app_id, query, body, _APART_MS, is_signed=is_signed), "0.0")
    return tuple(
        Expected(one.type, one.id if one.id == two.id else one.id[:FACT_DIGITS])
        for one, two in zip(events, later, strict=True)
    )


class LedgerFile:
    """A new ledger that is being written."""

    def __init__(self, path: Path, head: Head) -> None:
        """Create the file *path*. Raises ConfigError when it exists or can't be created."""
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        except FileExistsError:
            raise ConfigError(f"--ledger: {path} exists; a ledger is of one run, name a new file") from None
        except OSError as error:
            raise ConfigError(f"--ledger: {path}: {error.strerror}") from error
        self._write({"ledger": VERSION, "app": head.app_id, "started_ms": head.started_ms, "seed": head.seed})

    def intend(self, number: int, command: str, expected: tuple[Expected, ...]) -> None:
        """Write down that callback *number* is about to be sent. Raises OSError."""
        events = [{"type": one.type, "id": one.id} for one in expected]
        self._write({"n": number, "command": command, "events": events})

    def answered(self, entry: Entry) -> None:
        """Write down how the callback was answered, ``sent_ms`` in Unix time. Raises OSError."""
        self._write(
            {
                "n": entry.number,
                "answer": entry.answer,
                "code": entry.code,
                "attempts": entry.attempts,
                "sent_ms": entry.sent_ms,
                "took_ms": round(entry.took_ms, 3),
            }
        )

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, line: Mapping[str, Any]) -> None:
        rest = orjson.dumps(line) + b"\n"
        while rest:
            rest = rest[os.write(self._fd, rest) :]


def read_ledger(path: Path) -> Ledger:
    """Return the ledger at *path*; a last line that a crash of the machine tore is passed over.

    Raises ConfigError when it is not a ledger.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise ConfigError(f"--verify: {path}: {error.strerror}") from error
    try:
        head = orjson.loads(lines[0])
        if head["ledger"] != VERSION:
            raise ConfigError(f"--verify: {path} is a ledger of another version of the simulator")
        entries: dict[int, Entry] = {}
        for line in _objects(lines[1:]):
            _take(entries, line)
        return Ledger(Head(head["app"], head["started_ms"], head["seed"]), entries)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"--verify: {path} is not a ledger of gateway send") from error


def _objects(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        yield orjson.loads(line)


def _take(entries: dict[int, Entry], line: dict[str, Any]) -> None:
    number = line["n"]
    if "events" in line:
        expected = tuple(Expected(one["type"], one["id"]) for one in line["events"])
        entries[number] = Entry(number, line["command"], expected)
        return
    entry = entries[number]
    entry.answer, entry.code = line["answer"], line["code"]
    entry.attempts, entry.sent_ms, entry.took_ms = line["attempts"], line["sent_ms"], line["took_ms"]


def _stored(app_id: str, query: str, body: bytes, received_ms: int, *, is_signed: bool) -> Callback:
    return Callback(
        app_id=app_id,
        query=query,
        body=body,
        peer="",
        received_ms=received_ms,
        verified=is_signed,
        id_recipe=ID_RECIPE,
        id_window_s=1,
    )
