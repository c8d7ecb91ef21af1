"""A private RabbitMQ node with the management plug-in, on free ports of 127.0.0.1."""

import asyncio
import contextlib
import itertools
import secrets
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import aiormq

from tests.services import management
from tests.services.processes import HOST, Processes, ServerFailed, ServerMissing, free_ports, wait_until

SCRIPTS = Path("/usr/lib/rabbitmq/bin")  # Why: the ones in PATH insist on root or on the user rabbitmq
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
STARTS = 3
PLUGINS = ("rabbitmq_consistent_hash_exchange",)
SETTLED_S = 20.0  # from the start of the node, or from the end of the test, whichever is later


class RabbitMQ:
    """A node that runs from construction to ``close()``, with the user guest (password guest)."""

    package: ClassVar[str] = "rabbitmq-server"
    host: str = HOST

    def __init__(self) -> None:
        if not self.is_installed():
            raise ServerMissing(self.package)
        self._processes = Processes("rabbitmq-", user="rabbitmq")
        self._folder = self._processes.folder
        self._processes.write(".erlang.cookie", secrets.token_hex(16), mode=0o400)
        self._plugins: tuple[str, ...] = ()
        self._write_plugins(PLUGINS)
        self._settings: dict[str, str] = {}
        self._vhosts = (f"test-{number}" for number in itertools.count(1))
        self._retired: dict[str, float] = {}
        self._pid: int | None = None
        try:
            self._start_first()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def is_installed() -> bool:
        return (SCRIPTS / "rabbitmq-server").exists() and shutil.which("epmd") is not None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}/"

    @property
    def management_url(self) -> str:
        return f"http://guest:guest@{HOST}:{self.management_port}"

    @property
    def pid(self) -> int:
        """The process id of the Erlang VM; raises when the node is stopped."""
        if self._pid is None or not self.is_running():
            raise ServerFailed("RabbitMQ is stopped")
        return self._pid

    def is_running(self) -> bool:
        return self._pid is not None and self._processes.returncode(self._pid) is None

    def ctl(self, *args: str) -> str:
        """Return what ``rabbitmqctl`` printed; takes seconds, so prefer the management API."""
        return self._processes.run(SCRIPTS / "rabbitmqctl", "-q", "-n", self.node, *args, env=self._env())

    def start(self) -> None:
        """Return once AMQP and management accept connections, on the same ports and data as before."""
        if not self.is_running():
            self._pid = self._processes.spawn(
                SCRIPTS / "rabbitmq-server", env=self._env(), output=self._folder / "output"
            )
            self._started_at = time.monotonic()
        wait_until(self._has_started, START_TIMEOUT_S, "RabbitMQ to start")

    def stop(self) -> None:
        """Stop the node gracefully; its data stays."""
        if self.is_running():
            pid = self.pid
            self._processes.signal(pid, signal.SIGCONT)
            # Why: the plug-in's handler would hold up the end for 5 s, asking what is gone already.
            with contextlib.suppress(ServerFailed):
                self.ctl("eval", "gen_event:delete_handler(rabbit_event, rabbit_mgmt_db_handler, stop).")
            self._processes.signal(pid, signal.SIGTERM)
            self._processes.wait(pid, STOP_TIMEOUT_S)
        self._pid = None

    def kill(self) -> None:
        """End the node as a crash does; what it had on disk stays."""
        if self.is_running():
            pid = self.pid
            # Why: 3.10 writes down a new quorum queue only after 0.5 s; killed before, it has no leader
            #      ever after. No client can do anything about that, so it is not ours to test.
            with contextlib.suppress(ServerFailed):
                self._processes.signal(pid, signal.SIGCONT)
                self.ctl("eval", "[dets:sync(Table) || Table <- dets:all()].")
            self._processes.signal(pid, signal.SIGKILL, whole_tree=True)
            self._processes.wait(pid, STOP_TIMEOUT_S)
        self._pid = None

    def ensure_running(self) -> None:
        """Put right what a test left behind: a node that is stopped, killed or frozen."""
        if self.is_running():
            self._processes.signal(self.pid, signal.SIGCONT)
        self.start()

    def close_connections(self) -> None:
        """Close all AMQP connections from the broker's side."""
        self.ctl("close_all_connections", "--global", "closed by a test")

    def only_plugins(self, *plugins: str) -> None:
        """Restart with *plugins* beside the management; without arguments, with all that tests may use."""
        if (plugins or PLUGINS) != self._plugins:
            if self.is_running():
                self._delete_retired()
            self.stop()
            self._write_plugins(plugins or PLUGINS)
        self.start()

    def configure(self, **settings: str) -> None:
        """Restart with extra lines in rabbitmq.conf; without arguments, with none of them."""
        if settings != self._settings:
            if self.is_running():
                self._delete_retired()  # what stands at the start takes long to come up
            self.stop()
            self._settings = settings
            self._write_config()
        self.start()

    def fresh_vhost(self) -> str:
        """Return the URL of a new, empty virtual host."""
        self._delete_retired()
        name = next(self._vhosts)
        management.request(self.management_port, "PUT", f"/api/vhosts/{name}")
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        management.request(self.management_port, "PUT", f"/api/permissions/{name}/guest", rights)
        return self.url + name

    def delete_vhost(self, url: str) -> None:
        management.request(self.management_port, "DELETE", f"/api/vhosts/{urlsplit(url).path[1:]}")

    def ready(self, vhost: str, queue: str) -> int | None:
        """Return how many messages are ready in *queue*, None when it is not there.

        Asked by AMQP: what management says of a quorum queue is up to 5 s old.
        """
        return asyncio.run(_ready(self.url + vhost, queue))

    def manage(self, method: str, path: str, body: object = None) -> bytes:
        """Return the answer of the management API; raises ServerFailed."""
        return management.request(self.management_port, method, path, body)

    def keep(self, name: str, text: str) -> Path:
        """Return the path of a new file in the node's folder that only the node can read."""
        return self._processes.write(name, text, mode=0o600)

    def policy(self, vhost: str, name: str, pattern: str, definition: dict[str, object]) -> None:
        """Put an operator's policy in force for the queues whose names match *pattern*."""
        body = {"pattern": pattern, "definition": definition, "apply-to": "queues", "priority": 1}
        self.manage("PUT", f"/api/policies/{vhost}/{name}", body)

    def retire_vhost(self, url: str) -> None:
        """Delete it, but not before its queues have been up for a while.

        Why: deleting a queue with at-least-once dead-lettering in the moment in which it comes up can
        end ``rabbit_fifo_dlx_sup`` of 3.10, and from then on the node refuses all such queues (541).
        """
        self._retired[url] = time.monotonic()

    @property
    def settles_in_s(self) -> float:
        """How long to wait before a virtual host may be deleted; see ``retire_vhost``."""
        return max(0.0, self._started_at + SETTLED_S - time.monotonic())

    def _delete_retired(self) -> None:
        for url, since in list(self._retired.items()):
            if time.monotonic() > max(since, self._started_at) + SETTLED_S:
                self.delete_vhost(url)
                del self._retired[url]

    def close(self) -> None:
        """End everything that belongs to the node and remove its folder."""
        self._processes.close()
        self._pid = None

    def _start_first(self) -> None:
        """Choose ports and start; again with others if one was taken in between."""
        for attempt in range(1, STARTS + 1):
            self.port, self.management_port, self._dist_port, self._epmd_port = free_ports(4)
            self.node = f"gateway-tests-{self.port}@localhost"
            self._write_config()
            epmd = ("epmd", "-port", str(self._epmd_port), "-address", HOST)
            self._epmd_pid = self._processes.spawn(
                *epmd, env=self._env(), output=self._folder / "epmd-output"
            )
            try:
                self.start()
                return
            except ServerFailed:
                if attempt == STARTS:
                    raise
                self.kill()
                self._processes.signal(self._epmd_pid, signal.SIGKILL)

    def _write_plugins(self, plugins: tuple[str, ...]) -> None:
        self._plugins = plugins
        self._processes.write("enabled_plugins", f"[{','.join(('rabbitmq_management', *plugins))}].\n")

    def _write_config(self) -> None:
        settings = {
            "listeners.tcp.1": f"{HOST}:{self.port}",
            "management.tcp.ip": HOST,
            "management.tcp.port": str(self.management_port),
            "num_acceptors.tcp": "2",
            "collect_statistics_interval": "1000",  # what management shows is at most this old (ms)
            "disk_free_limit.absolute": "10MB",
            "raft.wal_max_size_bytes": "33554432",
            "log.file.level": "info",
            **self._settings,
        }
        text = "".join(f"{key} = {value}\n" for key, value in settings.items())
        self._processes.write("rabbitmq.conf", text)

    def _env(self) -> dict[str, str]:
        """Return the whole environment: nothing that is set outside shall change the node."""
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        # Why -sname here: the node need not start a second VM to look for epmd, which runs already.
        node = f"-sname {self.node} -kernel inet_dist_listen_min {self._dist_port}"
        node += f" inet_dist_listen_max {self._dist_port}"
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self._folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_CRASH_DUMP": "/dev/null",
            "RUNNING_UNDER_SYSTEMD": "true",  # the start script then becomes the VM: one process id
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "no-rabbitmq-env.conf"),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._folder / "no-advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self._folder / "generated"),
            "RABBITMQ_SCHEMA_DIR": str(self._folder / "schema"),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            # Why: half the time to start, for 1 % of a core when idle (where waking a core is slow).
            "RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD": "medium",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 2:2 {node} {loopback}",
            "RABBITMQ_CTL_ERL_ARGS": f"+S 1:1 {loopback}",
        }

    def _has_started(self) -> bool:
        if not self.is_running():
            raise ServerFailed(f"RabbitMQ did not start:\n{self._log_tail()}")
        return self._answers(self.port, b"AMQP\x00\x00\x09\x01") and self._answers(
            self.management_port, b"GET /api/ HTTP/1.0\r\n\r\n"
        )

    def _answers(self, port: int, request: bytes) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=5) as client:
            client.sendall(request)
            return bool(client.recv(1))
        return False

    def _log_tail(self) -> str:
        files = [self._folder / "output", *(self._folder / "log").glob("*.log")]
        texts = (path.read_text(errors="replace")[-4000:] for path in files if path.exists())
        return "\n".join(texts)


async def _ready(url: str, queue: str) -> int | None:
    connection = await aiormq.connect(url)
    try:
        channel = await connection.channel(publisher_confirms=False)
        found = await channel.queue_declare(queue, passive=True)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return None
    finally:
        await connection.close()
    return found.message_count
