"""Journals of several processes: which folder is whose, and who forwards one whose process is gone.

The first process has ``journal.dir`` itself, as one alone does, so that ``listen.processes`` may be raised
and lowered; process 2 has the folder ``process-2`` in it, and so on.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

from gateway import config, sums
from gateway.broker import Publishing
from gateway.config import Config
from gateway.errors import ConfigError, FolderInUse
from gateway.forwarder import Forwarder
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.redact import Redaction

_log = logging.getLogger(__name__)
_TURNS = "topology.lock"
_TRY_S = 0.2
_LOOK_S = 0.1
_NAME = re.compile(r"process-([1-9][0-9]{0,3})")


def folder_of(folder: Path, number: int) -> Path:
    """Return the journal of process *number*, counted from 1, below ``journal.dir``."""
    return folder if number == 1 else folder / f"process-{number}"


def share_of(config: Config, number: int) -> Config:
    """Return what process *number* goes by: its journal, and its part of the disk that all have together."""
    count, journal = config.listen.processes, config.journal
    its = {
        "dir": folder_of(journal.dir, number),
        "max_mb": journal.max_mb // count,
        "retain_mb": journal.retain_mb // count,
    }
    apps = {
        app_id: app.model_copy(update={"max_backlog_mb": -(-app.max_backlog_mb // count)})
        for app_id, app in config.apps.items()
    }
    return config.model_copy(update={"journal": journal.model_copy(update=its), "apps": apps})


def numbers_in(folder: Path) -> list[int]:
    """Return the processes whose journals stand in ``journal.dir``, the first one aside."""
    names = [_NAME.fullmatch(path.name) for path in folder.glob("process-*") if path.is_dir()]
    return sorted(number for name in names if name and (number := int(name[1])) > 1)


def journals_of(config: Config) -> list[Path]:
    """Return the journals of all processes, those that are no more included."""
    mine = range(2, config.listen.processes + 1)
    folder = config.journal.dir
    return [folder, *(folder_of(folder, number) for number in sorted({*mine, *numbers_in(folder)}))]


def turns_of(config: Config) -> Path | None:
    """Return the file by which the processes declare one after the other; None for one alone."""
    return config.journal.dir / _TURNS if config.listen.processes > 1 else None


def left_over(config: Config) -> list[Path]:
    """Return the journals of processes that *config* does not have any more."""
    folder = config.journal.dir
    return [folder_of(folder, number) for number in numbers_in(folder) if number > config.listen.processes]


async def open_when_free(limits: config.Journal, metrics: Metrics, deadline_s: float | None) -> Journal:
    """Return the journal once no other process has it; FolderInUse after *deadline_s*; ConfigError."""
    loop = asyncio.get_running_loop()
    ends_s = None if deadline_s is None else loop.time() + deadline_s
    while True:
        try:
            return Journal.open(limits, metrics)
        except FolderInUse:
            if ends_s is not None and loop.time() >= ends_s:
                raise
        await asyncio.sleep(_TRY_S)


class Adoption:
    """Forwards journals, one after the other, each until nothing waits in it."""

    def __init__(
        self, config: Config, folders: Sequence[Path], redactions: Mapping[str, Redaction], broker: Publishing
    ) -> None:
        self._config = config
        self._redactions = redactions
        self._broker = broker
        self._journals = {folder: Metrics() for folder in folders}
        self._forwarding = asyncio.Lock()

    @property
    def registries(self) -> list[CollectorRegistry]:
        """Metrics of each journal."""
        return [one.registry for one in self._journals.values()]

    async def run(self) -> None:
        """Forward until cancelled. Raises FatalError, as a journal does."""
        await asyncio.gather(*(self._forward(*one) for one in self._journals.items()))
        await asyncio.Event().wait()  # Why: a task that ends ends the process

    async def _forward(self, folder: Path, metrics: Metrics) -> None:
        limits = self._config.journal.model_copy(update={"dir": folder})
        # Why all are opened at once: what waits in them is to be seen.
        try:
            journal = await open_when_free(limits, metrics, None)
        except ConfigError as fault:
            # Why go on: this process has a journal of its own that can be used.
            _log.error(
                "What waits in %s, of a process that is no more, can't be forwarded: %s", folder, fault
            )
            return
        try:
            async with self._forwarding:
                if journal.waiting:
                    await self._empty(journal, folder, metrics)
        finally:
            await journal.close()

    async def _empty(self, journal: Journal, folder: Path, metrics: Metrics) -> None:
        _log.warning(
            "%d callbacks wait in %s, of a process that listen.processes does not have any more;"
            " they are forwarded now",
            journal.waiting,
            folder,
        )
        forwarder = Forwarder(journal, self._broker, self._config.broker, metrics, self._redactions)
        task = asyncio.create_task(forwarder.run())
        try:
            # Why looking: a hole that is passed over moves the cursor too, and nobody tells of it.
            while journal.waiting and not task.done() and not journal.failed.done():  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)
            for end in (task, journal.failed):
                if end.done():
                    end.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        _log.info("All callbacks of %s are with the broker", folder)


def adoption_of(
    config: Config, redactions: Mapping[str, Redaction], broker: Publishing, metrics: Metrics
) -> Adoption | None:
    """Return who forwards journals of processes that are no more; None without any.

    Each of them has metrics of its own; what *metrics* shows is all together.
    """
    if not (folders := left_over(config)):
        return None
    adoption = Adoption(config, folders, redactions, broker)
    metrics.shown = sums.summed(lambda: sums.together(metrics.registry, adoption.registries))
    return adoption
