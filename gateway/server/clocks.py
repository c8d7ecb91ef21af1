"""The clocks of a connection: one deadline at a time, how long it has been idle, who waits for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """At most one call that is to come; setting it anew takes back the one before."""

    __slots__ = ("_call", "_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call = call
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        return self._handle is not None

    def set(self, seconds: float) -> None:
        self.clear()
        self._handle = self._loop.call_later(seconds, self._strike)

    def clear(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _strike(self) -> None:
        self._handle = None
        self._call()


class Idleness:
    """Calls when ``touch`` was not for so many seconds, and again; a touch costs no timer."""

    __slots__ = ("_call", "_handle", "_loop", "_patience_s", "_since_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, patience_s: float, call: Callable[[], None]) -> None:
        self._loop = loop
        self._patience_s = patience_s
        self._call = call
        self._since_s = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self.touch()
        self._handle = self._loop.call_later(self._patience_s, self._look)

    def touch(self) -> None:
        self._since_s = self._loop.time()

    def clear(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _look(self) -> None:
        left_s = self._since_s + self._patience_s - self._loop.time()
        self._handle = self._loop.call_later(left_s if left_s > 0 else self._patience_s, self._look)
        if left_s <= 0:
            self._call()


class Waiter:
    """Lets one wait until it is woken."""

    __slots__ = ("_loop", "_woken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._woken: asyncio.Future[None] | None = None

    async def wait(self, seconds: float | None) -> None:
        """Return once it is woken, or after so many *seconds*."""
        self._woken = self._loop.create_future()
        await asyncio.wait((self._woken,), timeout=seconds)

    def wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
