"""A private Redis server on a free port of 127.0.0.1."""

import secrets
import shutil
import signal
from collections.abc import Sequence
from typing import ClassVar

from tests.services.processes import HOST, Processes, ServerFailed, ServerMissing, free_ports, wait_until

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
STARTS = 3
PROGRAM = "redis-server"


class Redis:
    """A server that runs from construction to ``close()``; what it acknowledged survives ``kill()``."""

    package: ClassVar[str] = "redis-server"
    host: str = HOST

    def __init__(self, *settings: str) -> None:
        """Take more *settings* for the command line: ``"--cluster-enabled", "yes"``."""
        if not self.is_installed():
            raise ServerMissing(self.package)
        self._settings: Sequence[str] = settings
        self._password = secrets.token_hex(8)
        self._pid: int | None = None
        # Why nobody: Debian's own user of that name may be missing where the program came another way.
        self._processes = Processes("redis-", user="nobody")
        try:
            self._start_first()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def is_installed() -> bool:
        return shutil.which(PROGRAM) is not None and shutil.which("redis-cli") is not None

    @property
    def url(self) -> str:
        """The administrator's, of database 0."""
        return f"redis://:{self._password}@{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id of the server; raises when it is stopped."""
        if self._pid is None or not self.is_running():
            raise ServerFailed("Redis is stopped")
        return self._pid

    def is_running(self) -> bool:
        return self._pid is not None and self._processes.returncode(self._pid) is None

    def start(self) -> None:
        """Return once commands are answered, on the same port and data as before."""
        if not self.is_running():
            folder = self._processes.folder
            self._pid = self._processes.spawn(
                *(PROGRAM, "--port", str(self.port), "--bind", HOST, "--dir", folder),
                *("--requirepass", self._password, "--appendonly", "yes", "--appendfsync", "always"),
                *("--save", "", "--loglevel", "notice", "--daemonize", "no", *self._settings),
                env=self._env(),
                output=folder / "log",
            )
        wait_until(self._has_started, START_TIMEOUT_S, "Redis to start")

    def stop(self) -> None:
        """Stop the server in order; its data stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a crash does; what was acknowledged stays."""
        self._end(signal.SIGKILL)

    def ensure_running(self) -> None:
        """Put right what a test left behind: a server that is stopped, killed or frozen."""
        if self.is_running():
            self._processes.signal(self.pid, signal.SIGCONT)
        self.start()

    def cli(self, *words: str) -> str:
        """Return what redis-cli printed for one command, run as the administrator."""
        return self._processes.run(
            *("redis-cli", "-e", "-h", HOST, "-p", str(self.port), *words), env=self._env()
        ).strip()

    def close(self) -> None:
        """End everything that belongs to the server and remove its folder."""
        self._processes.close()
        self._pid = None

    def _start_first(self) -> None:
        """Choose a port and start; again with another if it was taken in between."""
        for attempt in range(1, STARTS + 1):
            (self.port,) = free_ports(1)
            try:
                self.start()
                return
            except ServerFailed:
                if attempt == STARTS:
                    raise

    def _end(self, number: int) -> None:
        if self.is_running():
            pid = self.pid
            self._processes.signal(pid, signal.SIGCONT)
            self._processes.signal(pid, number)
            self._processes.wait(pid, STOP_TIMEOUT_S)
        self._pid = None

    def _has_started(self) -> bool:
        if not self.is_running():
            log = (self._processes.folder / "log").read_text(errors="replace")
            raise ServerFailed(f"Redis did not start:\n{log[-4000:]}")
        try:
            return self.cli("PING") == "PONG"
        except ServerFailed:
            return False

    def _env(self) -> dict[str, str]:
        """Return the whole environment: nothing that is set outside shall change the server."""
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self._processes.folder),
            "REDISCLI_AUTH": self._password,
        }
