"""Wiring: starts the long-lived tasks, handles signals, stops everything without loss."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop
from aiohttp import web

from gateway import allocator, build, ending
from gateway.admin import Health
from gateway.adminport import AdminPort
from gateway.adoption import adoption_of
from gateway.banner import banner
from gateway.broker import Broker
from gateway.config import Config, ServiceManager
from gateway.errors import FatalError
from gateway.forwarder import Forwarder
from gateway.journal import Journal
from gateway.logs import where
from gateway.metrics import Metrics
from gateway.notify import Notify
from gateway.portfiles import PortFiles
from gateway.ports import Https, listen_on, room_for_connections
from gateway.recent import Recent
from gateway.reload import Port, Reload
from gateway.sampler import Sampler
from gateway.server import FrontServer
from gateway.tracing import make_publishing, make_receiver, make_spans
from gateway.waiting import Watch
from gateway.worker import Worker

_log = logging.getLogger(__name__)
_FINISH_S = 5.0


def run(
    config: Config, read: Callable[[], Config], *, serves: bool, works: bool, only_sink: str | None = None
) -> int:
    """Run until a signal; return the exit code: 0 after a stop, 1 after a fault that could lose callbacks.

    *read* reads the configuration again. Raises ConfigError for what only shows when parts start: a port in
    use, a journal in use.
    """
    allocator.give_back_what_is_freed()
    allocator.look_for_cycles_at_leisure()
    gateway: Gateway | Supervisor
    if serves and config.listen.processes > 1:
        # Why imported here: one process is to know nothing of this.
        from gateway.processes.supervisor import Supervisor

        gateway = Supervisor(config, read, works=works)
    else:
        gateway = Gateway(Reload(config, read, serves=serves, works=works), only_sink)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(gateway.main())


class Gateway:
    """One process: receiver and forwarder when it *serves*, workers when it *works*."""

    def __init__(self, reload: Reload, only_sink: str | None = None) -> None:
        self._config = config = reload.config
        self._reload = reload
        self._serves = reload.serves
        self._names = ([only_sink] if only_sink else list(config.sinks)) if reload.works else []
        self._sampled = self._names if not self._serves else list(config.sinks)
        self._metrics, self._recent = Metrics(), Recent()
        self._journal: Journal | None = None
        self._forwarder: Forwarder | None = None
        self._server: FrontServer | None = None
        self._watch = Watch(config.journal.max_mb, config.journal.min_free_mb)
        self._signed: set[str] = set()
        self._workers: dict[str, Worker] = {}
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._notify = Notify(ServiceManager.of())
        self._spans = make_spans(config)
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()

    async def main(self) -> int:
        """Start, wait for a signal or a fault, stop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reload.ask)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        broker = self._make_broker()
        admin: web.AppRunner | None = None
        front: web.ServerRunner | None = None
        code = 0
        try:
            if self._serves:
                self._journal = await self._open_journal()
                publishing = make_publishing(broker, self._spans)
                self._forwarder = Forwarder(
                    *(self._journal, publishing, self._config.broker, self._metrics),
                    *(self._reload.redactions, self._recent),
                )
                self._start("forwarder", self._forwarder.run())
                if adoption := adoption_of(self._config, self._reload.redactions, publishing, self._metrics):
                    self._start("adoption", adoption.run())
            for name in self._names:
                self._workers[name] = build.make_worker(
                    *(name, self._config, broker, self._metrics), self._spans
                )
                self._start(f"worker {name}", self._workers[name].run())
            self._start("sampler", self._sampler(broker).run())
            admin = await self._start_admin(broker)
            front = await self._start_front()
            self._start("reload", self._reload.run())
            self._announce(front)
            self._start("line to the service manager", self._notify.run())
            code = await self._wait_for_the_end()
        finally:
            await self._shut_down(front, broker, admin)
        return code

    def _make_broker(self) -> Broker:
        for warning in build.check(self._config, serves=self._serves):
            _log.warning("%s", warning)
        return build.make_broker(self._config, self._metrics)

    async def _open_journal(self) -> Journal:
        return Journal.open(self._config.journal, self._metrics)

    def _announce(self, front: web.ServerRunner | None) -> None:
        port = int(front.addresses[0][1]) if front is not None else 0
        said = banner(self._config, port, serves=self._serves, sinks=self._names, signed=self._signed)
        print(said, flush=True)

    def _sampler(self, broker: Broker) -> Sampler:
        forwarder = self._forwarder
        fault = str if forwarder is None else lambda: forwarder.fault
        return Sampler(broker, self._sampled, self._metrics, self._journal, self._watch, fault)

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks[name] = asyncio.create_task(work, name=name)

    async def _start_front(self) -> web.ServerRunner | None:
        if self._journal is None:
            return None
        config, listen = self._reload.config, self._reload.config.listen
        receiver = make_receiver(config, self._journal, self._metrics, self._spans)
        files = PortFiles(config, receiver, self._metrics)
        self._signed = files.signed
        most = room_for_connections(listen.max_connections, tls=listen.tls_cert is not None)
        self._server = server = FrontServer(receiver, listen, receiver, most)
        self._reload.port = Port(files, receiver, server)
        self._metrics.connections_open.set_function(lambda: server.open_connections)
        runner = web.ServerRunner(server, shutdown_timeout=_FINISH_S)  # type: ignore[arg-type]
        await runner.setup()
        await self._listen(runner, files.https(server))
        self._metrics.processes_up.set(1)
        self._start("watch on files", files.watch())
        return runner

    async def _listen(self, runner: web.ServerRunner, https: Https | None) -> None:
        listen = self._config.listen
        await listen_on(runner, listen.host, listen.port, "listen.port", https=https)

    async def _start_admin(self, broker: Broker) -> web.AppRunner | None:
        port = AdminPort(
            *(self._config, self._metrics, self._health, broker),
            serves=self._serves,
            sinks=self._names,
            recent=self._recent if self._serves else None,
            reload=self._reload,
        )
        self._start("console", port.run())
        return await port.open()

    async def _wait_for_the_end(self) -> int:
        """Return 0 after a signal, 1 when the journal failed or a task ended that must not."""
        stop = asyncio.create_task(self._stop.wait())
        ends: set[asyncio.Future[Any]] = {stop, *self._tasks.values()}
        if self._journal is not None:
            ends.add(self._journal.failed)
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if self._stop.is_set():
            return 0
        for end in ends:
            if end.done():
                fault = None if end.cancelled() else end.exception()
                said = str(fault) if isinstance(fault, FatalError) else where(fault) if fault else "ended"
                name = end.get_name() if isinstance(end, asyncio.Task) else "journal"
                _log.critical("%s: %s; the process ends so that nothing is lost unseen", name, said)
        self._stop_now.set()
        return 1

    async def _shut_down(
        self, front: web.ServerRunner | None, broker: Broker, admin: web.AppRunner | None
    ) -> None:
        """Stop in the order that loses nothing: accept, answer, confirm, broker, journal."""
        self._stop.set()
        self._notify.stopping()
        if front is not None:
            await self._drain(front)
        if self._forwarder is not None and "forwarder" in self._tasks:
            self._forwarder.finish()
            _log.info("Stopping: waiting for the broker's confirms")
            await ending.unless(self._stop_now, asyncio.wait((self._tasks["forwarder"],), timeout=_FINISH_S))
        await ending.unless(self._stop_now, ending.cancel(self._tasks.values()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5 if self._stop_now.is_set() else _FINISH_S):
                await broker.close()
        _log.info("Stopping: the broker is closed")
        if self._journal is not None:
            waiting = self._journal.waiting
            with contextlib.suppress(FatalError):
                await self._journal.close()
            _log.info("Stopped: the journal is closed, %d callbacks wait in it for the next start", waiting)
        if admin is not None:
            await admin.cleanup()

    async def _drain(self, front: web.ServerRunner) -> None:
        assert self._server is not None
        self._server.is_draining = True
        drain_s = self._reload.config.listen.drain_s
        if not self._stop_now.is_set():
            _log.info(
                "Stopping: unready, answering for %g s more (listen.drain_s); a second signal stops at once",
                drain_s,
            )
            await ending.unless(self._stop_now, asyncio.sleep(drain_s))
        _log.info("Stopping: no new connections, requests under way finish")
        await ending.unless(self._stop_now, front.cleanup())

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    def _health(self) -> Health:
        causes, notes = [], []
        if self._stop.is_set():
            causes.append("stopping")
        if self._journal is not None and self._journal.is_full:
            causes.append("the journal is full: callbacks are refused with 503")
        if self._forwarder is not None and self._journal is not None and self._forwarder.fault:
            notes.append(f"the broker takes no events; {self._journal.waiting} callbacks wait in the journal")
        if self._watch.note:
            notes.append(self._watch.note)
        away = [f"sink {name} {why}" for name, one in self._workers.items() if (why := one.trouble)]
        (notes if self._serves else causes).extend(away)
        return Health(causes, notes)
