"""Opens the admin port of a process."""

from __future__ import annotations

import logging

from aiohttp import web

from gateway.admin import Admin
from gateway.config import Admin as AdminConfig
from gateway.errors import ConfigError
from gateway.ports import limit_connections, listen_on

_log = logging.getLogger(__name__)
_CONNECTIONS = 64
_IDLE_S = 30.0


async def open_admin_port(admin: Admin, config: AdminConfig, *, serves: bool) -> web.AppRunner:
    """Listen on ``admin.port`` where the process *serves*, else on ``worker_port``; return what listens.

    Raises ConfigError when the gateway's port is in use.
    """
    runner = web.AppRunner(
        admin.application(), access_log=None, shutdown_timeout=1.0, keepalive_timeout=_IDLE_S
    )
    await runner.setup()
    limit_connections(runner, _CONNECTIONS)
    if serves:
        await listen_on(runner, config.host, config.port, "admin.port")
        return runner
    try:
        await listen_on(runner, config.host, config.worker_port, "admin.worker_port")
    except ConfigError as fault:
        # Why go on: several workers on one host are normal, and only one can have the port.
        _log.warning("%s; this worker runs without health and metrics", fault)
    return runner
