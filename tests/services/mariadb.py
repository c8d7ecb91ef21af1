"""A private MariaDB server on a free port of 127.0.0.1."""

import contextlib
import itertools
import secrets
import shutil
import signal
import socket
from typing import ClassVar
from urllib.parse import urlsplit

from tests.services.processes import HOST, Processes, ServerFailed, ServerMissing, free_ports, wait_until

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
STARTS = 3
USER = "gateway"
SETTINGS = {
    "bind-address": HOST,
    "skip-name-resolve": "1",
    "innodb-buffer-pool-size": "32M",
    "innodb-log-file-size": "16M",
    "innodb-fast-shutdown": "2",
    "performance-schema": "0",
    "max-connections": "50",
    "max-connect-errors": "1000000",  # looking whether it has started is one
    "table-open-cache": "100",
}


class MariaDB:
    """A server that runs from construction to ``close()``."""

    package: ClassVar[str] = "mariadb-server"
    host: str = HOST

    def __init__(self) -> None:
        if not self.is_installed():
            raise ServerMissing(self.package)
        self._password = secrets.token_hex(8)
        self._names = (f"test_{number}" for number in itertools.count(1))
        self._pid: int | None = None
        self._processes = Processes("mariadb-", user="mysql")
        self._folder = self._processes.folder
        try:
            self._make_data()
            self._start_first()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def is_installed() -> bool:
        return all(_program(name) for name in ("mariadbd", "mariadb-install-db", "mariadb"))

    @property
    def dsn(self) -> str:
        """The administrator's."""
        return self._dsn("mysql")

    @property
    def pid(self) -> int:
        """The process id of the server; raises when it is stopped."""
        if self._pid is None or not self.is_running():
            raise ServerFailed("MariaDB is stopped")
        return self._pid

    def is_running(self) -> bool:
        return self._pid is not None and self._processes.returncode(self._pid) is None

    def start(self, **settings: str) -> None:
        """Return once connections are accepted, on the same port and data as before.

        *settings* are the server's options (``ssl_ca`` for ``--ssl-ca``), in force until the next stop.
        """
        if not self.is_running():
            options = {**SETTINGS, **{name.replace("_", "-"): value for name, value in settings.items()}}
            self._pid = self._processes.spawn(
                *(_program("mariadbd") or "", "--no-defaults", f"--datadir={self._folder / 'data'}"),
                *(f"--socket={self._folder / 'socket'}", f"--pid-file={self._folder / 'pid'}"),
                *(f"--port={self.port}", f"--init-file={self._folder / 'users.sql'}"),
                *(f"--{key}={value}" for key, value in options.items()),
                env=self._env(),
                output=self._folder / "log",
            )
        wait_until(self._has_started, START_TIMEOUT_S, "MariaDB to start")

    def stop(self) -> None:
        """Stop the server in order, connections included; its data stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a crash does; what was committed stays."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let the server say nothing more, connections to it included, until ``ensure_running``."""
        self._processes.signal(self.pid, signal.SIGSTOP)

    def ensure_running(self) -> None:
        """Put right what a test left behind: a server that is stopped, killed or frozen."""
        if self.is_running():
            self._processes.signal(self.pid, signal.SIGCONT)
        self.start()

    def fresh_database(self) -> str:
        """Return the DSN of a new, empty database."""
        name = next(self._names)
        self.sql(f"CREATE DATABASE {name}")
        return self._dsn(name)

    def delete_database(self, dsn: str) -> None:
        """Drop it; connections that are still open go on without a database."""
        self.sql(f"DROP DATABASE {urlsplit(dsn).path[1:]}")

    def sql(self, statement: str) -> str:
        """Return what the server's own client printed for *statement*, run as the administrator."""
        return self._processes.run(
            *(_program("mariadb") or "", "--no-defaults", f"--host={HOST}", f"--port={self.port}"),
            *(f"--user={USER}", "--batch", "--skip-column-names", "--execute", statement),
            env=self._env(),
        )

    def disconnect(self, dsn: str) -> None:
        """End all connections to the database of *dsn*."""
        name = urlsplit(dsn).path[1:]
        found = self.sql(f"SELECT id FROM information_schema.processlist WHERE db = '{name}'")
        for connection in found.split():
            with contextlib.suppress(ServerFailed):  # Why: it may have gone meanwhile
                self.sql(f"KILL {connection}")

    def close(self) -> None:
        """End everything that belongs to the server and remove its folder."""
        self._processes.close()
        self._pid = None

    def _make_data(self) -> None:
        self._processes.run(
            *(_program("mariadb-install-db") or "", "--no-defaults", f"--datadir={self._folder / 'data'}"),
            *("--skip-test-db", "--auth-root-authentication-method=socket", "--skip-name-resolve"),
            env=self._env(),
        )
        self._processes.write(
            "users.sql",
            f"CREATE USER IF NOT EXISTS {USER}@'{HOST}' IDENTIFIED BY '{self._password}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO {USER}@'{HOST}' WITH GRANT OPTION;\n",
            mode=0o600,
        )

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
            log = (self._folder / "log").read_text(errors="replace")
            raise ServerFailed(f"MariaDB did not start:\n{log[-4000:]}")
        # Why no client of its own: one connection that is closed at the greeting costs a millisecond.
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=5) as client:
            return bool(client.recv(1))
        return False

    def _dsn(self, database: str) -> str:
        return f"mysql://{USER}:{self._password}@{HOST}:{self.port}/{database}"

    def _env(self) -> dict[str, str]:
        """Return the whole environment: nothing that is set outside shall change the server."""
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self._folder),
            "MYSQL_PWD": self._password,
        }


def _program(name: str) -> str | None:
    """Return the path of the program *name*; Debian keeps servers out of a user's PATH."""
    return shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
