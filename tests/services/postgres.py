"""A private PostgreSQL server on a free port of 127.0.0.1."""

import contextlib
import itertools
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from tests.services.processes import HOST, Processes, ServerFailed, ServerMissing, free_ports, wait_until

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
STARTS = 3
USER = "gateway"
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "fsync": "off",  # survives the death of the server, not of the machine: what a test needs
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "300",
    "dynamic_shared_memory_type": "mmap",  # in the data folder, so that nothing stays in /dev/shm
    "autovacuum": "off",
    "jit": "off",
}


class Postgres:
    """A server that runs from construction to ``close()``."""

    package: ClassVar[str] = "postgresql"
    host: str = HOST

    def __init__(self) -> None:
        if (programs := _programs()) is None:
            raise ServerMissing(self.package)
        self._programs = programs
        self._password = secrets.token_hex(8)
        self._names = (f"test_{number}" for number in itertools.count(1))
        self._pid: int | None = None
        self._processes = Processes("postgres-", user="postgres")
        self._data = self._processes.folder / "data"
        try:
            self._make_cluster()
            self._start_first()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def is_installed() -> bool:
        return _programs() is not None

    @property
    def dsn(self) -> str:
        """The administrator's."""
        return self._dsn("postgres")

    @property
    def pid(self) -> int:
        """The process id of the postmaster; raises when the server is stopped."""
        if self._pid is None or not self.is_running():
            raise ServerFailed("PostgreSQL is stopped")
        return self._pid

    def is_running(self) -> bool:
        return self._pid is not None and self._processes.returncode(self._pid) is None

    def start(self) -> None:
        """Return once connections are accepted, on the same port and data as before."""
        if not self.is_running():
            settings = {**SETTINGS, "port": str(self.port)}
            self._pid = self._processes.spawn(
                *(self._programs / "postgres", "-D", self._data),
                *(f"--{key}={value}" for key, value in settings.items()),
                env=self._env(),
                output=self._processes.folder / "log",
                end_signal=signal.SIGQUIT,  # Why: after SIGKILL its System V segment would stay
            )
        wait_until(self._has_started, START_TIMEOUT_S, "PostgreSQL to start")

    def stop(self) -> None:
        """Stop the server in order, connections included; its data stays."""
        self._end(signal.SIGINT, whole_tree=False)

    def kill(self) -> None:
        """End the server and all its backends as a crash does; what was committed stays."""
        self._end(signal.SIGKILL, whole_tree=True)

    def ensure_running(self) -> None:
        """Put right what a test left behind: a server that is stopped, killed or frozen."""
        if self.is_running():
            self._processes.signal(self.pid, signal.SIGCONT, whole_tree=True)
        self.start()

    def fresh_database(self) -> str:
        """Return the DSN of a new, empty database."""
        name = next(self._names)
        self.sql(f"CREATE DATABASE {name}")
        return self._dsn(name)

    def delete_database(self, dsn: str) -> None:
        """Drop it, connections that are still open included."""
        self.sql(f"DROP DATABASE {urlsplit(dsn).path[1:]} WITH (FORCE)")

    def sql(self, statement: str) -> str:
        """Return what psql printed for one statement, run as the administrator."""
        return self.query(self.dsn, statement)

    def query(self, dsn: str, statement: str) -> str:
        """Return what psql printed for one statement, run in the database of *dsn*."""
        name = urlsplit(dsn).path[1:]
        return self._processes.run(
            *(self._programs / "psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"),
            *("-d", f"host={HOST} port={self.port} dbname={name} user={USER}", "-c", statement),
            env=self._env(),
        )

    @contextlib.contextmanager
    def locked(self, dsn: str, table: str) -> Iterator[None]:
        """Hold *table* against writing, as a forgotten transaction of an administrator does."""
        name = urlsplit(dsn).path[1:]
        mark = f"lock-{secrets.token_hex(4)}"
        pid = self._processes.spawn(
            *(self._programs / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d"),
            f"host={HOST} port={self.port} dbname={name} user={USER} application_name={mark}",
            *("-c", f"BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE; SELECT pg_sleep(3600)"),
            env=self._env(),
            output=self._processes.folder / "locker",
        )
        holders = (
            f"SELECT pid FROM pg_stat_activity WHERE application_name = '{mark}' AND wait_event = 'PgSleep'"
        )
        try:
            wait_until(lambda: bool(self.sql(holders)), START_TIMEOUT_S, f"the lock of {table}")
            yield
        finally:
            # Why: a backend that sleeps does not notice that its client is gone.
            self.sql(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{mark}'"
            )
            self._processes.wait(pid, STOP_TIMEOUT_S)

    def disconnect(self, dsn: str) -> None:
        """End all connections to the database of *dsn*."""
        name = urlsplit(dsn).path[1:]
        self.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    def close(self) -> None:
        """End everything that belongs to the server and remove its folder."""
        self._processes.close()
        self._pid = None

    def _make_cluster(self) -> None:
        password_file = self._processes.write("password", self._password, mode=0o600)
        self._processes.run(
            *(self._programs / "initdb", "-D", self._data, "-U", USER, "--no-sync"),
            *("--encoding=UTF8", "--locale=C.UTF-8", "--auth=password", f"--pwfile={password_file}"),
            env=self._env(),
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

    def _end(self, number: int, *, whole_tree: bool) -> None:
        if self.is_running():
            pid = self.pid
            self._processes.signal(pid, signal.SIGCONT, whole_tree=True)
            self._processes.signal(pid, number, whole_tree=whole_tree)
            self._processes.wait(pid, STOP_TIMEOUT_S)
        self._pid = None

    def _has_started(self) -> bool:
        if not self.is_running():
            log = (self._processes.folder / "log").read_text(errors="replace")
            raise ServerFailed(f"PostgreSQL did not start:\n{log[-4000:]}")
        try:
            self._processes.run(
                *(self._programs / "pg_isready", "-q", "-h", HOST, "-p", str(self.port)), env=self._env()
            )
        except ServerFailed:
            return False
        return True

    def _dsn(self, database: str) -> str:
        return f"postgresql://{USER}:{self._password}@{HOST}:{self.port}/{database}"

    def _env(self) -> dict[str, str]:
        """Return the whole environment: nothing that is set outside shall change the server."""
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self._processes.folder),
            "PGPASSWORD": self._password,
        }


def _programs() -> Path | None:
    """Return the folder of the newest server's programs; Debian keeps them out of PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    found = str(versions[-1]) if versions else shutil.which("initdb")
    return Path(found).parent if found else None
