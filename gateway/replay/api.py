"""The journal over the admin port: where it stands, and one replay at a time, which goes on by itself."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from gateway.admin import ApiError
from gateway.broker import Broker
from gateway.config import SinkBase
from gateway.errors import ConfigError, Unavailable
from gateway.event import iso_time
from gateway.journal import JournalReader, open_readonly
from gateway.logs import where
from gateway.redact import Redaction
from gateway.replay import Replay
from gateway.replay.choice import Asked
from gateway.topology import Topology

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Job:
    """A replay, or the counting of one."""

    asked: Asked
    who: str
    work: Replay
    reader: JournalReader
    state: str = "running"
    """``running``, ``done``, ``stopped`` or ``failed``."""
    fault: str = ""

    def told(self) -> dict[str, Any]:
        counts = self.work.counts
        return {
            "state": self.state,
            "fault": self.fault,
            "asked": self.asked.model_dump(exclude_none=True),
            "first": self.work.after + 1,
            "last": self.work.to,
            "done": self.work.done,
            "callbacks": counts.callbacks,
            "events": counts.events,
            "types": dict(counts.types.most_common()),
            "sinks": dict(counts.sinks.most_common()),
            "unrouted": counts.unrouted,
            "lost": self.reader.lost,
            "trimmed": self.reader.trimmed,
        }


class JournalApi:
    """The routes; ``run`` does the replay that was asked for last."""

    def __init__(
        self,
        folders: Sequence[Path],
        topology: Topology,
        redactions: Mapping[str, Redaction],
        sinks: Mapping[str, SinkBase],
        make_broker: Callable[[], Broker],
    ) -> None:
        """*folders*: one journal a process. *make_broker*: a replay has a connection of its own."""
        self._folders = folders
        self._topology = topology
        self._redactions = redactions
        self._sinks = sinks
        self._make_broker = make_broker
        self._job: Job | None = None
        self._task: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        return [
            web.get("/api/journal", self._stat),
            web.get("/api/journal/replay", self._state),
            web.post("/api/journal/replay", self._start),
            web.post("/api/journal/replay/stop", self._stop),
        ]

    async def run(self) -> None:
        """Do what is asked for, one replay after the other, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            if self._job is None:
                continue
            async with asyncio.TaskGroup() as group:
                self._task = group.create_task(self._do(self._job))
            self._task = None

    async def _stat(self, request: web.Request) -> web.Response:
        told = [await asyncio.to_thread(_told, folder) for folder in self._folders]
        sinks = {name: sink.effect for name, sink in self._sinks.items()}
        return _json({"journals": told, "sinks": sinks})

    async def _state(self, request: web.Request) -> web.Response:
        return _json({"replay": self._job.told() if self._job else None})

    async def _start(self, request: web.Request) -> web.Response:
        try:
            asked = Asked.of(orjson.loads(await request.read()))
        except ValueError as error:
            raise ApiError(400, "bad_request", "the body is no JSON") from error
        asked.check(self._sinks)
        if asked.process > len(self._folders):
            raise ApiError(404, "no_such_journal", "there is no journal of this process")
        try:
            reader = await asyncio.to_thread(open_readonly, self._folders[asked.process - 1])
            after, to = asked.positions(reader)
        except (ConfigError, Unavailable) as fault:
            raise ApiError(503, "journal_unreadable", str(fault)) from fault
        # Why here: from this line to the next there is no wait in which another one could begin.
        if self._job is not None and self._job.state == "running":
            raise ApiError(409, "in_use", "a replay is under way; wait for its end, or stop it")
        work = Replay(reader, self._topology, self._redactions, asked.takes, after, to, asked.sink or "")
        self._job = Job(asked, str(request.remote), work, reader)
        self._asked.set()
        return _json({"replay": self._job.told()})

    async def _stop(self, request: web.Request) -> web.Response:
        if self._task is None or self._job is None:
            raise ApiError(409, "nothing_to_stop", "no replay is under way")
        _log.info("Audit: the replay of the journal is stopped over the admin port by %s", request.remote)
        self._task.cancel()
        return _json({"replay": self._job.told()})

    async def _do(self, job: Job) -> None:
        try:
            await (job.work.look() if job.asked.dry_run else self._publish(job))
            job.state = "done"
        except asyncio.CancelledError:
            job.state = "stopped"
            raise
        except (ConfigError, Unavailable) as fault:
            job.state, job.fault = "failed", str(fault)
        except Exception as fault:  # noqa: BLE001 - a bug of ours must not end the process; it is logged
            job.state, job.fault = "failed", "a bug of ours; the log has the place"
            _log.error("A replay of the journal over the admin port failed (%s)", where(fault))
        finally:
            if not job.asked.dry_run:
                _audit(job)

    async def _publish(self, job: Job) -> None:
        broker = self._make_broker()
        try:
            await job.work.run(broker, job.asked.rate)
        finally:
            await broker.close()


def _audit(job: Job) -> None:
    # Why as ASCII: it comes from outside, and no line of a log may be made up by it.
    _log.info(
        "Audit: replay of the journal over the admin port by %s: %s, %d events, confirmed up to position %d,"
        " chosen by %s",
        job.who,
        job.state,
        job.work.counts.events,
        job.work.done,
        json.dumps(job.asked.model_dump(exclude_none=True)),
    )


def _told(folder: Path) -> dict[str, Any]:
    """Return where the journal in *folder* stands, or ``fault``, a sentence."""
    try:
        reader = open_readonly(folder)
    except (ConfigError, Unavailable) as fault:
        return {"fault": str(fault)}
    begun_ms, written_ms = reader.times_ms or (0, 0)
    return {
        "id": reader.id,
        "first": reader.first,
        "head": reader.head,
        "cursor": reader.cursor,
        "segments": len(reader.segments),
        "bytes": reader.size,
        "retained_bytes": reader.retained,
        "begun": iso_time(begun_ms) if begun_ms else None,
        "last_written": iso_time(written_ms) if written_ms else None,
    }


def _json(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")
