"""Starts the children, answers for them on the admin port, and stops them in the order that loses nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from gateway import build, ending, sums
from gateway.admin import Health
from gateway.adminport import AdminPort
from gateway.adoption import share_of, turns_of
from gateway.banner import banner
from gateway.config import Config, ServiceManager
from gateway.errors import ConfigError
from gateway.metrics import Metrics
from gateway.notify import Notify
from gateway.ports import bound_sockets
from gateway.processes.slot import Slot
from gateway.processes.task import Task
from gateway.recent import Recent
from gateway.reload import Reload, Reloaded

_log = logging.getLogger(__name__)
_LOOK_S = 1.0
_PORT_S = 5.0
_TRY_S = 0.1
_KILL_S = 15.0


class Supervisor:
    """``listen.processes`` receivers with forwarders, and one process for the workers where it *works*."""

    def __init__(self, config: Config, read: Callable[[], Config], *, works: bool) -> None:
        self._config = config
        self._works = works
        self._reload = _Reload(config, read, self._pass_on, works=works)
        self._notify = Notify(ServiceManager.of())
        self._metrics, self._recent = Metrics(), Recent()
        self._metrics.shown = sums.summed(self._page)
        self._sockets: list[socket.socket] = []
        self._receivers: list[Slot] = []
        self._workers: list[Slot] = []
        self._are_ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    async def main(self) -> int:
        """Start, wait for a signal, stop; return as ``run`` does. Raises ConfigError."""
        config, loop = self._config, asyncio.get_running_loop()
        for warning in build.check(config):
            _log.warning("%s", warning)
        loop.add_signal_handler(signal.SIGHUP, self._reload.ask)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        self._sockets = await self._open_port()
        turns = turns_of(config)
        if turns is not None and turns.exists():
            os.truncate(turns, 0)
        # Why a broker here: the API looks at parked events, whatever becomes of the workers' process.
        broker = build.make_broker(config, Metrics(), turns)
        admin = AdminPort(
            *(config, self._metrics, self._health, broker),
            serves=True,
            sinks=list(config.sinks) if self._works else [],
            recent=self._recent,
            reload=self._reload,
            refresh=self._refresh,
        )
        runner: web.AppRunner | None = None
        try:
            runner = await admin.open()
            self._make_slots()
            return await self._supervise(admin)
        finally:
            self._close_port()
            await broker.close()
            if runner is not None:
                await runner.cleanup()

    @property
    def _slots(self) -> list[Slot]:
        return [*self._receivers, *self._workers]

    def _health(self) -> Health:
        """Say unready when stopping, or when some of the callbacks are refused."""
        causes, notes = ["stopping"] if self._stop.is_set() else [], []
        for slot in self._slots:
            name = slot.task.name
            if not slot.is_ready:
                notes.append(f"{name} is being started")
            elif not slot.answers:
                notes.append(f"{name} does not answer")
            told = [f"{name}: {one}" for one in slot.health.causes if one != "stopping"]
            (causes if slot.task.serves else notes).extend(told)
            notes += [f"{name}: {one}" for one in slot.health.notes]
        if not any(slot.is_ready for slot in self._receivers):
            causes.append("no process takes callbacks")
        return Health(causes, notes)

    def _page(self) -> sums.Page:
        """Return what all processes count, this one included."""
        return sums.total([*(slot.page for slot in self._slots), sums.page_of(self._metrics.registry)])

    async def _refresh(self) -> None:
        """Have everybody tell how it is."""
        await asyncio.gather(*(slot.ask() for slot in self._slots))

    async def _pass_on(self, config: Config) -> None:
        """Have everybody go by *config*."""
        shares = [share_of(config, number + 1) for number in range(len(self._receivers))]
        told = zip(self._slots, [*shares, config], strict=False)
        await asyncio.gather(*(slot.configure(its) for slot, its in told))

    async def _supervise(self, admin: AdminPort) -> int:
        """Run the children until a signal; return the worst of what their ends mean."""
        beside = [
            asyncio.create_task(work)
            for work in (self._look(), self._kill_late(), self._reload.run(), admin.run(), self._speak())
        ]
        receivers = [asyncio.create_task(slot.run()) for slot in self._receivers]
        workers = [asyncio.create_task(slot.run()) for slot in self._workers]
        tasks = [*receivers, *workers]
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait((stop, *tasks), return_when=asyncio.FIRST_COMPLETED)
        self._stop.set()
        self._notify.stopping()
        self._close_port()
        _log.info("Stopping: all processes drain; a second signal stops them at once")
        for slots, ends in ((self._receivers, receivers), (self._workers, workers)):
            for slot in slots:
                slot.stop()
            if ends:
                await asyncio.wait(ends)
        await ending.cancel([stop, *beside])
        codes = await asyncio.gather(*tasks, return_exceptions=True)
        for one in codes:
            if isinstance(one, BaseException):
                raise one
        _log.info("Stopped: all processes have ended")
        return 1 if any(codes) else 0

    async def _look(self) -> None:
        """Ask everybody from time to time: what a child counted last is what is known when it is killed."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await asyncio.gather(*(slot.look() for slot in self._slots))

    async def _speak(self) -> None:
        """Tell the service manager once all are ready."""
        await self._are_ready.wait()
        await self._notify.run()

    async def _kill_late(self) -> None:
        """After a second signal, give the children a moment, and then no more."""
        await self._stop_now.wait()
        await asyncio.sleep(_KILL_S)
        for slot in self._slots:
            slot.kill()

    def _make_slots(self) -> None:
        config, count = self._config, self._config.listen.processes
        fds = tuple(one.fileno() for one in self._sockets)

        def make(name: str, its: Config, **more: Any) -> Slot:
            task = Task(name=name, config=its, turns=turns_of(config), **more)
            return Slot(task, self._metrics, self._recent, self._on_ready)

        for number in range(1, count + 1):
            first = number == 1
            its = share_of(config, number)
            samples = first and not self._works
            self._receivers.append(
                make(f"receiver {number}", its, serves=True, samples=samples, listeners=fds)
            )
        if self._works and config.sinks:
            self._workers.append(make("worker", config, serves=False, samples=True, listeners=()))

    def _on_ready(self) -> None:
        """Say that the gateway is ready, once, when all are."""
        if self._are_ready.is_set() or not self._sockets or not all(one.was_ready for one in self._slots):
            return
        self._are_ready.set()
        port = int(self._sockets[0].getsockname()[1])
        names = list(self._config.sinks) if self._works else []
        said = banner(self._config, port, serves=True, sinks=names, signed=self._receivers[0].signed)
        print(said, flush=True)

    async def _open_port(self) -> list[socket.socket]:
        """Bind; waits a moment for children of a supervisor that was killed. Raises ConfigError."""
        # Why not listen: callers would wait for the first child to be ready, who may go elsewhere meanwhile.
        listen, loop = self._config.listen, asyncio.get_running_loop()
        ends_s = loop.time() + _PORT_S
        while True:
            try:
                return await bound_sockets(listen.host, listen.port, "listen.port")
            except ConfigError:
                if loop.time() >= ends_s or self._stop.is_set():
                    raise
            await asyncio.sleep(_TRY_S)

    def _close_port(self) -> None:
        # Why before the children end: else callers would wait in a queue that nobody looks at.
        for one in self._sockets:
            one.close()
        self._sockets = []

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._stop_now.set()
            for slot in self._slots:
                slot.stop_now()
        self._stop.set()


class _Reload(Reload):
    """Reads the configuration for all processes, and passes on what is to be in force."""

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config],
        pass_on: Callable[[Config], Awaitable[None]],
        *,
        works: bool,
    ) -> None:
        super().__init__(config, read, serves=True, works=works)
        self._pass_on = pass_on

    async def now(self) -> Reloaded:
        found = await super().now()
        await self._pass_on(self.config)
        return found
