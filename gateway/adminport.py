"""Wiring of the admin port: health, metrics, the console, and the APIs of parked events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from gateway import __version__, build, leavers
from gateway.admin import Admin, Health
from gateway.adoption import journals_of, turns_of
from gateway.broker import Broker
from gateway.config import Config, is_loopback
from gateway.console import Events, Exits, Overview, Pages
from gateway.console.stream import Streams
from gateway.dead.api import DeadApi
from gateway.errors import ConfigError
from gateway.metrics import Metrics
from gateway.ports import limit_connections, listen_on
from gateway.recent import Recent
from gateway.reload import Reload
from gateway.replay.api import JournalApi

_log = logging.getLogger(__name__)
_CONNECTIONS = 64
_IDLE_S = 30.0


class AdminPort:
    """What one process offers its operators."""

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        health: Callable[[], Health],
        broker: Broker,
        *,
        serves: bool,
        sinks: Sequence[str],
        reload: Reload,
        recent: Recent | None = None,
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """*sinks*: those that this process works for; *recent*: the last events, where it publishes;
        *reload*: replays go by its redactions, as the forwarder does; *refresh* brings *metrics* and *health*
        up to date, where they are not of this process."""
        self._config = config.admin
        self._serves = serves
        streams, works_for = Streams(), {name: config.sinks[name] for name in sinks}
        about = {"version": __version__, "serves": serves, "works": list(sinks), "sinks": list(config.sinks)}
        self._overview = Overview(metrics, health, about, config.console.silence_min * 60, streams)
        self._journal = JournalApi(
            journals_of(config) if serves else [],
            *(build.topology_of(config), reload.redactions, config.sinks),
            lambda: build.make_broker(config, Metrics(), turns_of(config)),
        )
        every = [
            *reload.routes(),
            *Pages().routes(),
            *self._overview.routes(),
            *Exits(leavers.readers(config)).routes(),
            *Events(recent, streams, shows_content=config.console.show_content).routes(),
            *self._journal.routes(),
            *DeadApi(broker, works_for, shows_content=config.console.show_content).routes(),
        ]
        self._admin = Admin(
            config.admin.token.get_secret_value(),
            health,
            metrics,
            every,
            view_token=config.admin.view_token.get_secret_value(),
            is_local=is_loopback(config.admin.host),
            refresh=refresh,
        )

    async def open(self) -> web.AppRunner:
        """Listen; ConfigError where the port of a gateway can't be had."""
        config = self._config
        runner = web.AppRunner(
            self._admin.application(), access_log=None, shutdown_timeout=1.0, keepalive_timeout=_IDLE_S
        )
        await runner.setup()
        limit_connections(runner, _CONNECTIONS)
        if self._serves:
            await listen_on(runner, config.host, config.port, "admin.port")
            return runner
        try:
            await listen_on(runner, config.host, config.worker_port, "admin.worker_port")
        except ConfigError as fault:
            # Why go on: several workers on one host are normal, and only one can have the port.
            _log.warning("%s; this worker runs without health and metrics", fault)
        return runner

    async def run(self) -> None:
        """Keep the console's history, and replay what is asked for, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._overview.run())
            group.create_task(self._journal.run())
