"""What the supervisor tells a child: its task at the start, then words over a pair of sockets."""

from __future__ import annotations

import asyncio
import base64
import pickle
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gateway.config import Config

EXIT_CONFIG = 2
"""Of a child that can't work as it is configured."""
MOST_BYTES = 16 * 1_048_576
"""Of one line; a page of metrics is one."""


@dataclass(frozen=True, slots=True)
class Task:
    """What one child is to do, as it gets it on its standard input, pickled."""

    name: str
    """``receiver 2``; stands in its log lines."""
    config: Config
    """With its own journal folder and its share of what all have together."""
    serves: bool
    """It takes callbacks; else it works for all sinks."""
    samples: bool
    """It asks the broker for the depths of queues, which one is enough for."""
    listeners: tuple[int, ...]
    """Descriptors of the sockets that callers connect to."""
    turns: Path | None
    """The file by which processes declare broker objects one after the other."""


def packed(config: Config) -> str:
    """Return *config* as a word; it has secrets in it."""
    return base64.b64encode(pickle.dumps(config)).decode()


def unpacked(word: str) -> Config:
    """Return the configuration of which ``packed`` made *word*."""
    found = pickle.loads(base64.b64decode(word))  # noqa: S301 - from our supervisor, by a pair nobody else has
    assert isinstance(found, Config)
    return found


class Words:
    """One end of the pair: JSON objects, one a line. The end of the stream is the other's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def said(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what the other end says, until it is gone."""
        with suppress(OSError):
            # Why whole lines only: who is killed may be in the middle of one.
            while (line := await self._reader.readline()).endswith(b"\n"):
                yield orjson.loads(line)

    def say(self, word: str, value: Any = None) -> None:
        """Say ``{word: value}``; nothing happens when nobody is there any more."""
        if not self._writer.is_closing():
            self._writer.write(orjson.dumps({word: value}) + b"\n")

    async def close(self) -> None:
        """Send what was said, and end it."""
        with suppress(OSError):
            await self._writer.drain()
        self._writer.close()
