"""A callback port as `gateway run` starts it, without broker and sinks."""

import contextlib
import time
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from gateway.config import Config
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.portfiles import PortFiles
from gateway.ports import listen_on
from gateway.receiver import Receiver
from gateway.server import FrontServer
from gateway.signature import sign

COMMAND = "CallbackCommand=Group.CallbackAfterMemberExit"
BODY = b'{"CallbackCommand":"Group.CallbackAfterMemberExit","GroupId":"@TGS#1"}'


@dataclass
class CallbackPort:
    """What a test wants of it."""

    port: int
    receiver: Receiver
    files: PortFiles
    journal: Journal
    metrics: Metrics
    server: FrontServer

    async def post(self, query=f"SdkAppid=1&{COMMAND}", headers=None, body=BODY, host="localhost", **client):
        """Send one callback on a connection of its own; return status and ErrorInfo."""
        scheme = "https" if client.get("ssl") else "http"
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(5)) as session,
            session.post(
                f"{scheme}://localhost:{self.port}/callback?{query}", data=body, headers=headers, **client
            ) as answer,
        ):
            return answer.status, (await answer.json())["ErrorInfo"]

    def look_at_files(self):
        """Look at tokens and certificates until what has changed is taken."""
        for _ in range(2):
            self.files.look()

    async def peers(self):
        """Return the peer of each callback that was stored."""
        return [one.callback.peer for one in self.journal.read(0, 1000, 10**9)]

    def value(self, name, **labels):
        return self.metrics.registry.get_sample_value(name, labels)


def signed(token, skew_s=0, app_id="1"):
    """Return the query of a callback signed with *token*."""
    now = str(int(time.time()) + skew_s)
    return f"SdkAppid={app_id}&{COMMAND}&Sign={sign(token, now)}&RequestTime={now}"


@contextlib.asynccontextmanager
async def callback_port(tmp_path, listen=None, apps=None):
    """Run a callback port with these settings."""
    config = Config.model_validate(
        {
            "listen": {"port": 0, **(listen or {})},
            "apps": apps or {"1": {}},
            "journal": {"dir": tmp_path / "journal", "min_free_mb": 0},
        }
    )
    metrics = Metrics()
    async with contextlib.AsyncExitStack() as stack:
        journal = Journal.open(config.journal, metrics)
        stack.push_async_callback(journal.close)
        receiver = Receiver(config, journal, metrics)
        files = PortFiles(config, receiver, metrics)
        server = FrontServer(receiver, config.listen, receiver, config.listen.max_connections)
        runner = web.ServerRunner(server, shutdown_timeout=1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await listen_on(runner, config.listen.host, 0, "listen.port", https=files.https(server))
        yield CallbackPort(runner.addresses[0][1], receiver, files, journal, metrics, server)
