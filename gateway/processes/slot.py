"""The place of one child: starts it, starts it again when it ends, and remembers what it counted."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gateway import sums
from gateway.admin import Health
from gateway.backoff import Backoff
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.metrics import Metrics
from gateway.processes.task import EXIT_CONFIG, MOST_BYTES, Task, Words, packed
from gateway.recent import Recent

_log = logging.getLogger(__name__)
_FIRST_S, _MOST_S = 0.2, 30.0
_WELL_S = 60.0
_ANSWER_S = 2.0
_TAKE_S = 20.0
_MOST_SILENT = 20
"""Looks in a row, 3 s each, that a child may leave without an answer: as long as ``WatchdogSec``."""
_NOT_STARTED = 71  # Source: EX_OSERR, sysexits.h


class Slot:
    """One child at a time, the present one or its successor."""

    def __init__(self, task: Task, metrics: Metrics, recent: Recent, on_ready: Callable[[], None]) -> None:
        self.task = task
        self.is_ready = False
        self.was_ready = False
        self.answers = True
        """It did when it was asked last."""
        self.signed: list[str] = []
        """Apps whose callbacks need a Sign, as the child has read it."""
        self.code: int | None = None
        """Exit code of the last child; negative: the signal that ended it."""
        self._metrics = metrics
        self._recent = recent
        self._on_ready = on_ready
        self._backoff = Backoff(_FIRST_S, _MOST_S, random.random)
        self._process: asyncio.subprocess.Process | None = None
        self._words: Words | None = None
        self._stop = asyncio.Event()
        self._health = Health()
        self._page: sums.Page = {}
        """Of the present child, as last told."""
        self._past: sums.Page = {}
        """What its predecessors counted."""
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._count = self._silent = 0

    async def run(self) -> int:
        """Keep a child running until ``stop``; return its exit code. ConfigError when none ever starts."""
        while True:
            started_s = time.monotonic()
            self.code = code = await self._live()
            self._bury()
            if self._stop.is_set():
                return code
            if code == EXIT_CONFIG and not self.was_ready:
                raise ConfigError(f"{self.task.name} can't start, as it says above")
            if time.monotonic() - started_s > _WELL_S:
                self._backoff.reset()
            delay_s = self._backoff.next_s()
            self._metrics.process_restarts.inc()
            _log.error(
                "Process %s ended (%s); its callbacks wait in its journal, it is started again in %.1f s",
                self.task.name,
                _meaning(code),
                delay_s,
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stop.wait()
                    return code

    def stop(self) -> None:
        """Let the child drain and end."""
        self._stop.set()
        if self._words is not None:
            self._words.say("stop")

    def stop_now(self) -> None:
        """Let it end at once."""
        self._stop.set()
        if self._words is not None:
            self._words.say("now")

    def kill(self) -> None:
        """End it without its consent, which loses nothing either."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def ask(self) -> None:
        """Have the child tell how it is."""
        await self._demand("tell", lambda number: number, _ANSWER_S)

    async def look(self) -> None:
        """Ask, as ``ask`` does, once a while; end one that was ready and answers no more."""
        await self.ask()
        # Why counted, not timed: where all were suspended for an hour, nobody hangs.
        self._silent = 0 if self.answers or not self.is_ready else self._silent + 1
        if self._silent >= _MOST_SILENT:
            self._silent = 0
            _log.error("Process %s hangs: it is killed, which loses nothing", self.task.name)
            self.kill()

    async def configure(self, config: Config) -> None:
        """Have the child, and its successors, go by *config*."""
        self.task = replace(self.task, config=config)
        await self._demand("config", lambda number: [number, packed(config)], _TAKE_S)

    async def _demand(self, word: str, value: Callable[[int], Any], patience_s: float) -> None:
        """Say *word*, and wait until the child has told that it is done; note whether it does."""
        if self._words is None:
            return
        self._count = number = self._count + 1
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._words.say(word, value(number))
        try:
            async with asyncio.timeout(patience_s):
                await answer
            self.answers = True
        except TimeoutError:
            self.answers = False
        finally:
            del self._asked[number]

    @property
    def health(self) -> Health:
        """What the child told last."""
        return self._health

    @property
    def page(self) -> sums.Page:
        """What the child and its predecessors count."""
        return sums.total((self._past, self._page))

    async def _live(self) -> int:
        """Start a child; return its exit code once it has ended."""
        ours, theirs = socket.socketpair()
        # Why its own session: a terminal's signals come to all of a group, and then again from here.
        self._process = None
        with theirs, suppress(OSError):
            self._process = await asyncio.create_subprocess_exec(
                *_command(self.task.name, theirs.fileno()),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(theirs.fileno(), *self.task.listeners),
                start_new_session=True,
            )
        if (process := self._process) is None:  # no memory, or too many processes
            ours.close()
            return _NOT_STARTED
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=MOST_BYTES)
        self._words = Words(reader, writer)
        if self._stop.is_set():
            self._words.say("stop")
        listening = asyncio.create_task(self._listen(self._words))
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.write(pickle.dumps(self.task))
            await process.stdin.drain()
        process.stdin.close()
        code = await process.wait()
        await asyncio.wait((listening,), timeout=_ANSWER_S)  # for its last words
        listening.cancel()
        writer.close()
        self._words = None
        return code

    async def _listen(self, words: Words) -> None:
        async for said in words.said():
            if "told" in said:
                self._take(said["told"])
            elif "ready" in said:
                self.signed = said["ready"]
                self.is_ready = self.was_ready = True
                self._on_ready()

    def _take(self, told: dict[str, Any]) -> None:
        self._silent = 0  # Why for a late answer too: who is slow does not hang
        self._health = Health(told["causes"], told["notes"])
        self._page = sums.unpacked(told["page"])
        if bodies := [one.encode() for one in told["events"]]:
            self._recent.note(bodies)
        if (answer := self._asked.get(told["number"])) is not None and not answer.done():
            answer.set_result(None)

    def _bury(self) -> None:
        """Keep what the child counted; its journal stands where it stood until the next one tells."""
        self.is_ready = False
        self._health = Health()
        self._past = sums.total((self._past, sums.growing(self._page)))
        self._page = sums.on_disk(self._page)


def _command(name: str, words_fd: int) -> list[str]:
    # Why: python -m would look into the present folder first, where anything may be called gateway.
    safe = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
    return [sys.executable, *safe, "-m", "gateway.processes.child", name, str(words_fd)]


def _meaning(code: int) -> str:
    if code == _NOT_STARTED:
        return "it can't be started: no memory, or too many processes"
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
