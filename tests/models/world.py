"""One process on a clock of its own: an event loop and the journal's writer thread, of which one runs at a time.

Time moves only when neither has anything to do, so nothing sleeps and every history can be repeated.
"""

import asyncio
import math
import selectors
import threading
from collections import deque
from contextlib import ExitStack, contextmanager
from queue import Empty
from types import SimpleNamespace
from unittest import mock

START_S = 1_000_000.0
"""Far from zero, so that a forgotten start value shows."""
CLOCKS = (
    "gateway.forwarder",
    "gateway.outage",
    "gateway.journal.writer",
    "gateway.journal.cursor",
    "aiormq.tools",
)
"""Modules whose ``time`` is the model's."""


class Died(BaseException):
    """The process is dead; raised in it wherever it still tries to do something."""


class Stuck(AssertionError):
    """Nothing is under way that could ever end what is waited for."""


class Clock:
    """Stands in for the module ``time``."""

    def __init__(self):
        self.now_s = START_S

    def monotonic(self):
        return self.now_s

    time = monotonic

    def now_ms(self):
        return round(self.now_s * 1000)


class _Selector(selectors.SelectSelector):
    def __init__(self, idle):
        super().__init__()
        self._idle = idle

    def select(self, timeout=None):
        if timeout is None or timeout > 0:
            self._idle(timeout)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, world):
        self._world = world
        super().__init__(_Selector(world.idle))

    def time(self):
        return self._world.clock.now_s


class WriterThread(threading.Thread):
    """The writer's thread and queue in one: it runs only when the loop has given it the turn."""

    def __init__(self, world):
        super().__init__(name="writer", daemon=True)
        self._world = world
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._items = deque()
        self._work = None
        self.due_s = math.inf
        self._is_paused = True
        self.has_begun = self.has_ended = False
        self.pause_in = 0
        """Give the turn back before so many more calls to the disk; 0: never."""

    def start(self):
        self.has_begun = True
        super().start()

    def run(self):
        self._go.acquire()
        self._is_paused = False
        try:
            self._work()
        except Died:
            pass
        finally:
            self.has_ended = True
            self._back.release()

    def begin_with(self, *, target, **_):
        """Stand in for the making of the thread."""
        self._work = target
        return self

    def turn(self):
        """Let the thread run until it waits; False when it has nothing to do."""
        is_due = (
            self._items or self._is_paused or self.due_s <= self._world.clock.now_s or self._world.is_dead
        )
        if not self.has_begun or self.has_ended or not is_due:
            return False
        self._go.release()
        self._back.acquire()
        return True

    def called(self):
        """Note a call to the disk; it may be where the loop gets a turn meanwhile."""
        if self.pause_in and threading.current_thread() is self:
            self.pause_in -= 1
            if not self.pause_in:
                self._is_paused = True
                self._wait()
                self._is_paused = False

    def put(self, item):
        self._items.append(item)

    def get(self, timeout):
        due_s = self._world.clock.now_s + timeout
        while not self._items:
            if self._world.is_dead:
                raise Died
            if self._world.clock.now_s >= due_s:
                raise Empty
            self.due_s = due_s
            self._wait()
            self.due_s = math.inf
        return self._items.popleft()

    def get_nowait(self):
        if not self._items:
            raise Empty
        return self._items.popleft()

    def _wait(self):
        self._back.release()
        self._go.acquire()


class World:
    """One life of a process. ``run`` drives it, ``kill`` ends it wherever it stands."""

    def __init__(self, clock, disk=None):
        self.clock = clock
        self.disk = disk
        self.writer = None
        self.loop = _Loop(self)
        self._is_ending = False

    @property
    def is_dead(self):
        return self.disk is not None and self.disk.is_dead

    def run(self, work):
        """Return what the coroutine *work* returns; Stuck when it never would, Died when the disk says so."""
        return self.loop.run_until_complete(work)

    def idle(self, timeout):
        """Do what comes next while the loop waits: the writer's work, or a step of the clock."""
        if self.writer is not None and self.writer.turn():
            return
        if self.is_dead and not self._is_ending:
            raise Died
        due_s = math.inf if timeout is None else self.clock.now_s + timeout
        if self.writer is not None and self.writer.has_begun and not self.writer.has_ended:
            due_s = min(due_s, self.writer.due_s)
        if due_s == math.inf:
            raise Stuck("nothing will ever happen")
        self.clock.now_s = max(self.clock.now_s, due_s)

    def new_writer(self):
        """Stand in for the making of the writer's queue."""
        self.writer = WriterThread(self)
        return self.writer

    def kill(self):
        """End thread and loop; what either still tries on the disk raises Died."""
        self._is_ending = True
        if self.disk is not None:
            self.disk.is_dead = True
        while self.writer is not None and self.writer.turn():
            pass
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))
            for task in tasks:
                if not task.cancelled():
                    task.exception()
        self.loop.close()

    @contextmanager
    def in_force(self):
        """Make the gateway's modules use this world's clock and thread."""
        with ExitStack() as stack:
            for module in CLOCKS:
                stack.enter_context(mock.patch(f"{module}.time", self.clock))
            make = SimpleNamespace(Thread=lambda **how: self.writer.begin_with(**how))
            stack.enter_context(mock.patch("gateway.journal.intake.threading", make))
            stack.enter_context(mock.patch("gateway.journal.writer.SimpleQueue", self.new_writer))
            yield self
