"""One child: a gateway as ``run`` has it, on sockets, a journal and words of its supervisor's."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import sys
from contextlib import suppress
from typing import Any

import uvloop
from aiohttp import web

from gateway import allocator, build, logs, sums
from gateway.adoption import open_when_free
from gateway.broker import Broker
from gateway.config import ServiceManager
from gateway.errors import ConfigError
from gateway.journal import Journal
from gateway.notify import Notify
from gateway.ports import Https, listen_by
from gateway.processes.task import EXIT_CONFIG, MOST_BYTES, Task, Words, unpacked
from gateway.reload import Reload
from gateway.run import Gateway

_MOST_EVENTS, _MOST_BYTES = 50, 256 * 1024
"""Of events told at a time. Why few: it costs the same whether anybody looks or not."""
_PREDECESSOR_S = 20.0
"""Longer than a child takes to stop whose supervisor was killed."""


class Child(Gateway):
    """See ``Gateway``. Ends like one that got SIGTERM when its supervisor is gone."""

    def __init__(self, task: Task, words: Words) -> None:
        self._asked = task.config
        super().__init__(Reload(task.config, lambda: self._asked, serves=task.serves, works=not task.serves))
        self._notify = Notify(ServiceManager())  # the supervisor speaks for all
        self._task = task
        self._words = words
        self._told_events = 0
        self._listeners = [socket.socket(fileno=one) for one in task.listeners]
        if not task.samples:
            self._sampled = []

    async def main(self) -> int:
        listening = asyncio.create_task(self._listen_to_words())
        try:
            return await super().main()
        finally:
            listening.cancel()
            self._tell(0)
            await self._words.close()

    async def _listen_to_words(self) -> None:
        async for said in self._words.said():
            if "tell" in said:
                self._tell(said["tell"])
            elif "config" in said:
                number, word = said["config"]
                self._asked = unpacked(word)
                with suppress(ConfigError):  # it stands in the log
                    await self._reload.now()
                self._tell(number)
            elif "stop" in said:
                self._stop.set()
            elif "now" in said:
                self._stop.set()
                self._stop_now.set()
        # Why at once: nobody can see any more that it is unready, and a new supervisor waits for the port.
        config = self._reload.config
        listen = config.listen.model_copy(update={"drain_s": 0})
        self._reload.config = config.model_copy(update={"listen": listen})
        self._stop.set()

    def _tell(self, number: int) -> None:
        health = self._health()
        self._words.say(
            "told",
            {
                "number": number,
                "causes": health.causes,
                "notes": health.notes,
                "events": self._new_events(),
                "page": sums.packed(sums.page_of(self._metrics.shown)),
            },
        )

    def _new_events(self) -> list[str]:
        """Return the newest events since the last call, in order, for who looks at them in the console."""
        found, size = [], 0
        for _, body in self._recent.newest(self._told_events)[:_MOST_EVENTS]:
            size += len(body)
            if size > _MOST_BYTES:
                break
            found.append(body.decode("utf-8", "replace"))
        self._told_events = self._recent.count
        return found[::-1]

    def _make_broker(self) -> Broker:
        return build.make_broker(self._config, self._metrics, self._task.turns)

    async def _open_journal(self) -> Journal:
        return await open_when_free(self._config.journal, self._metrics, _PREDECESSOR_S)

    async def _start_admin(self, broker: Broker) -> web.AppRunner | None:
        return None

    async def _listen(self, runner: web.ServerRunner, https: Https | None) -> None:
        await listen_by(runner, self._listeners, "listen.port", https)

    def _announce(self, front: web.ServerRunner | None) -> None:
        self._words.say("ready", sorted(self._signed))

    def _on_signal(self) -> None:
        # Why once only: who ends all processes of a group or service ends the supervisor too, which says so.
        self._stop.set()


async def _run(task: Task, words_fd: int) -> int:
    pair = socket.socket(fileno=words_fd)
    for fd in (words_fd, *task.listeners):
        os.set_inheritable(fd, False)
    reader, writer = await asyncio.open_unix_connection(sock=pair, limit=MOST_BYTES)
    return await Child(task, Words(reader, writer)).main()


def main() -> int:
    """Do the task that stands on standard input; the argument is the descriptor of the words."""
    task: Any = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our supervisor, by a pipe nobody else has
    assert isinstance(task, Task)
    logs.configure(task.config.log, task.name)
    allocator.give_back_what_is_freed()
    allocator.look_for_cycles_at_leisure()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(task, int(sys.argv[-1])))
    except ConfigError as error:
        print(error, file=sys.stderr, flush=True)
        return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())
