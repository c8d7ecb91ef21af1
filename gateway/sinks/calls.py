"""Calls code of the user's own: on the event loop what is async, on a thread of its own what is not.

Whatever that code does, the caller gets its result, Poison or Unavailable; and the log names it when it holds
up the process.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from gateway.errors import Poison, Unavailable
from gateway.logs import where

BLOCKED_S = 5.0
"""How long async code may keep the event loop before the log names it."""
_ANSWER_S = 1.0
_LAST_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Running:
    """What runs in the thread."""

    name: str
    since_s: float
    has_ended: asyncio.Event


class Calls:
    """Calls of one sink's code, one at a time."""

    def __init__(self, sink: str) -> None:
        """Take the name *sink* for the log."""
        self._sink = sink
        self._running: _Running | None = None

    async def call(self, method: Callable[..., Any], *given: Any) -> Any:
        """Return ``method(*given)``. Raises Poison or Unavailable; all else is Unavailable("sink_error")."""
        try:
            if inspect.iscoroutinefunction(method):
                with self._watched(method.__qualname__):
                    return await method(*given)
            result = await self._in_thread(method, *given)
            return await result if inspect.isawaitable(result) else result
        except (Poison, Unavailable):
            raise
        # Why SystemExit too: sys.exit() in a sink must not end the gateway.
        except (Exception, SystemExit) as error:
            raise Unavailable("sink_error", where(error)) from error

    def make(self, cls: Callable[[], Any], name: str) -> Any:
        """Return ``cls()``, made on the event loop, as asynchronous drivers want it. Raises Unavailable."""
        try:
            with self._watched(name):
                return cls()
        except Unavailable:
            raise
        except (Exception, SystemExit) as error:
            raise Unavailable("sink_error", where(error)) from error

    async def _in_thread(self, method: Callable[..., Any], *given: Any) -> Any:
        name = getattr(method, "__qualname__", type(method).__name__)
        await self._wait_for_the_last()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        running = self._running = _Running(name, time.monotonic(), asyncio.Event())

        def settle(result: Any, error: BaseException | None) -> None:
            self._running = None
            running.has_ended.set()
            if done.done():
                return  # nobody waits any more
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        def work() -> None:
            result: Any = None
            fault: BaseException | None = None
            try:
                result = method(*given)
            except StopIteration as error:  # no future takes it
                fault = RuntimeError("StopIteration").with_traceback(error.__traceback__)
            except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
                fault = error
            with suppress(RuntimeError):  # the process ends, and the loop is closed
                loop.call_soon_threadsafe(settle, result, fault)

        # Why a thread a call, and a daemon: code that never returns can't be ended, and threads of a pool
        # would keep the process from ending.
        threading.Thread(target=work, name=f"sink-{self._sink}", daemon=True).start()
        return await done

    async def _wait_for_the_last(self) -> None:
        """Return when the call before, which may have been given up, has returned; or raise Unavailable."""
        running = self._running
        if running is None:
            return
        try:
            async with asyncio.timeout(_LAST_S):
                await running.has_ended.wait()
        except TimeoutError:
            raise Unavailable(
                "still_running",
                f"{running.name} has not returned for {time.monotonic() - running.since_s:.0f} s, and a"
                " thread can't be ended; give what it waits for a timeout",
            ) from None

    @contextmanager
    def _watched(self, name: str) -> Iterator[None]:
        """Name *name* in the log when the block keeps the event loop for long."""
        loop = asyncio.get_running_loop()
        thread_id = threading.get_ident()

        def look() -> None:
            answered = threading.Event()
            frame: FrameType | None = None
            with suppress(RuntimeError):  # the process ends, and the loop is closed
                loop.call_soon_threadsafe(answered.set)
                frame = None if answered.wait(_ANSWER_S) else sys._current_frames().get(thread_id)
            if frame is not None and self._is_inside(frame):
                _log.error(
                    "Sink %s: %s holds up the whole process (at %s): make it `def` instead of `async def`,"
                    " or give what blocks to asyncio.to_thread",
                    self._sink,
                    name,
                    _places(frame),
                )

        timer = threading.Timer(BLOCKED_S, look)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _is_inside(self, frame: FrameType | None) -> bool:
        """Say whether *frame* runs below a call of ours, not of another sink's."""
        while frame is not None:
            if (
                frame.f_code in (Calls.call.__code__, Calls.make.__code__)
                and frame.f_locals.get("self") is self
            ):
                return True
            frame = frame.f_back
        return False


def _places(frame: FrameType) -> str:
    return " > ".join(
        f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_stack(frame)[-3:]
    )
