"""Classes as users write them, for the tests of sinks of kind python."""

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from gateway.sinks import Poison, Unavailable


class Lines:
    """Writes lines, the asynchronous way."""

    def __init__(self, path, fsync=True):
        self.path = Path(path)

    async def open(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)

    async def write(self, events):
        await asyncio.sleep(0)
        append(self.path, events)


class PlainLines:
    """The same in plain functions."""

    def __init__(self, *, path):
        self.path = Path(path)

    def open(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, events):
        append(self.path, events)

    def close(self):
        pass


def append(path, events):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.writelines(event.body.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n" for event in events)
        file.flush()
        os.fsync(file.fileno())


class Checked:
    """Options in a record."""

    class Options(BaseModel):
        path: Path
        size_mb: int = 3

    def __init__(self, options):
        self.options = options

    async def write(self, events):
        await asyncio.to_thread(append, self.options.path, events)


class Scripted:
    """Does what the class variables say."""

    seen: ClassVar = []
    on_write = staticmethod(lambda events: None)

    async def open(self):
        self.seen.append("open")

    async def write(self, events):
        self.seen.append([event.id for event in events])
        return self.on_write(events)

    async def close(self):
        self.seen.append("close")


class Picky:
    """Refuses whatever has an odd id, without saying which one it was."""

    def write(self, events):
        for event in events:
            if int(event.id) % 2:
                raise Poison("odd")


class Stuck:
    """Its write never returns while the gate is shut."""

    gate = threading.Event()

    def write(self, events):
        self.gate.wait()


class Blocks:
    """An `async def` that isn't: it blocks until the gate opens."""

    gate = threading.Event()

    async def write(self, events):
        assert self.gate.wait(30)


class BlocksAtFirst:
    """One that connects too early."""

    gate = threading.Event()

    def __init__(self):
        assert self.gate.wait(30)

    async def write(self, events):
        pass


class Waits:
    """Takes its time, as it may."""

    async def write(self, events):
        await asyncio.sleep(0.2)


class Ends:
    """What a slip with an iterator looks like."""

    def write(self, events):
        next(iter(()))


class Broken:
    """Fails wherever it can."""

    def __init__(self):
        raise RuntimeError("a secret")

    def write(self, events):
        raise RuntimeError("a secret")


class Leaves:
    def open(self):
        raise Unavailable("no_network", "nobody there")

    def write(self, events):
        raise SystemExit(3)

    def close(self):
        raise RuntimeError("a secret")


class NoWrite:
    pass


class WriteOfNothing:
    async def write(self):
        pass


class OpenOfSomething(Lines):
    async def open(self, place):
        pass


not_a_class = json.dumps
