"""Takes a changed configuration while requests are under way: by SIGHUP, or asked over the admin port.

What can't be taken is named, and counts as it did until a restart. A wrong file changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import orjson
from aiohttp import web

from gateway import build, logs
from gateway.admin import ApiError
from gateway.config import Config, changed_keys, with_changes
from gateway.destinations import topology_of
from gateway.errors import ConfigError
from gateway.logs import where
from gateway.portfiles import PortFiles
from gateway.receiver import Receiver
from gateway.rules import redactions_of
from gateway.server import FrontServer
from gateway.tokens import TokenFiles

_log = logging.getLogger(__name__)
_SERVES_ONLY = ("listen.", "answers.", "apps.", "journal.", "admin.port")
_WORKS_ONLY = ("admin.worker_port",)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What became of the changes, as keys."""

    role: str
    """``run``, ``serve`` or ``work``."""
    changed: list[str]
    """In force now."""
    restart: list[str]
    """In force after a restart."""
    warnings: list[str]
    """Sentences."""


class Port(NamedTuple):
    """The callback port, which most of it is for."""

    files: PortFiles
    receiver: Receiver
    server: FrontServer


class Reload:
    """Reads the configuration again with *read*, which raises ConfigError, and puts it in force."""

    def __init__(self, config: Config, read: Callable[[], Config], *, serves: bool, works: bool) -> None:
        self.config = config
        """What is in force."""
        self.redactions = redactions_of(config)
        """What each app's events may not show; the same mapping for ever, the forwarder reads it."""
        self.port: Port | None = None
        """Set once it is there."""
        self._read = read
        self.serves, self.works = serves, works
        self._asked = asyncio.Event()
        self._turn = asyncio.Lock()

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        return [web.post("/api/reload", self._answer)]

    def ask(self) -> None:
        """Have ``run`` reload; what handles SIGHUP."""
        self._asked.set()

    async def run(self) -> None:
        """Reload whenever it was asked for, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self.now()
            except ConfigError:
                pass  # it stands in the log
            except Exception as fault:  # noqa: BLE001 - a bug of ours must not end a gateway that works
                _log.error("Reading the configuration again failed (%s); nothing was changed", where(fault))

    async def now(self) -> Reloaded:
        """Reload; ConfigError when the configuration is wrong, and then nothing has changed."""
        async with self._turn:
            try:
                # Why away from the loop: a thousand apps take a second to read, and answers must not wait.
                new, tokens, found = await asyncio.to_thread(self._prepare)
            except ConfigError as fault:
                said = "; ".join(str(fault).splitlines())
                _log.error("The new configuration is wrong, nothing was changed: %s", said)
                raise
            self._take(new, tokens)
        _log.info("Reloaded the configuration; in force now: %s", ", ".join(found.changed) or "nothing new")
        if found.restart:
            _log.warning(
                "Some changes need a restart, until then the old values count: %s", ", ".join(found.restart)
            )
        for warning in found.warnings:
            _log.warning("%s", warning)
        return found

    def _take(self, new: Config, tokens: TokenFiles) -> None:
        """Put it in force; without a pause, so that no request sees half of it."""
        if self.port is not None:
            self.port.files.configure(new, tokens)
            self.port.receiver.configure(new)
            self.port.server.configure(new.listen)
        # Why added to: callbacks of an app that is gone may wait in the journal.
        self.redactions.update(redactions_of(new))
        logs.set_level(new.log)
        self.config = new

    def _prepare(self) -> tuple[Config, TokenFiles, Reloaded]:
        asked = self._read()
        build.check(asked, serves=self.serves)
        new = with_changes(self.config, asked)
        warnings = build.check(new, serves=self.serves)
        # Why read here, too: files may change between the check and this.
        tokens = TokenFiles(new.apps if self.serves else {})
        found = Reloaded(
            role="run" if self.serves and self.works else "serve" if self.serves else "work",
            changed=self._of_concern(self.config, new),
            restart=self._of_concern(new, asked),
            warnings=warnings,
        )
        return new, tokens, found

    def _of_concern(self, old: Config, new: Config) -> list[str]:
        """Return the keys that differ and count in this process."""
        others: tuple[str, ...] = () if self.serves else _SERVES_ONLY
        if not self.works:
            others = _WORKS_ONLY
            if topology_of(old) == topology_of(new):
                others += ("sinks.",)
        elif self.serves:
            others = _WORKS_ONLY
        return [key for key in changed_keys(old, new) if not key.startswith(others)]

    async def _answer(self, request: web.Request) -> web.Response:
        _log.info("Audit: reload over the admin port by %s", request.remote)
        try:
            found = await self.now()
        except ConfigError as fault:
            raise ApiError(422, "bad_config", str(fault)) from fault
        return web.Response(body=orjson.dumps(asdict(found)), content_type="application/json")
