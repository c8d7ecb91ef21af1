"""The private servers: they come up, keep their data over a restart, and leave nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pymysql
import pytest

from tests.conftest import running
from tests.services import MariaDB, Postgres, RabbitMQ, install
from tests.services.processes import ServerFailed, wait_until
from tests.services.supervisor import descendants

PARENT = """
import sys, time
from tests import services
server = getattr(services, sys.argv[1])()
print(server._processes._supervisor.pid, server._processes.folder, flush=True)
time.sleep(600)
"""


class Traces(NamedTuple):
    """What a server leaves on the machine while it runs."""

    processes: list[int]
    folder: Path

    @classmethod
    def of(cls, supervisor: int, folder: Path) -> "Traces":
        return cls([supervisor, *descendants(supervisor)], folder)

    def have_gone(self) -> bool:
        return not self.folder.exists() and not any(map(is_alive, self.processes))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def send(url: str, body: bytes) -> None:
    """Publish *body*, persistent, into the quorum queue ``kept``, and await the confirm."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("kept", durable=True, arguments={"x-queue-type": "quorum"})
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, "kept")


async def receive(url: str) -> bytes:
    async with await aio_pika.connect(url) as connection:
        queue = await (await connection.channel()).get_queue("kept")
        return (await queue.get(timeout=10)).body


@pytest.mark.parametrize("end", [RabbitMQ.stop, RabbitMQ.kill])
async def test_rabbitmq_keeps_what_it_confirmed(
    rabbitmq: RabbitMQ, amqp_url: str, end: Callable[[RabbitMQ], None]
) -> None:
    """A confirmed message outlives the node, which comes back at the same address."""
    await send(amqp_url, b"event")
    end(rabbitmq)
    with pytest.raises(OSError, match="onnect"):
        await aio_pika.connect(amqp_url)
    rabbitmq.start()

    assert await receive(amqp_url) == b"event"


async def test_rabbitmq_runs_with_other_settings_until_they_are_restored(
    rabbitmq: RabbitMQ, amqp_url: str
) -> None:
    """A message larger than a configured maximum is refused, and taken once the default is back."""
    rabbitmq.configure(max_message_size="1000")
    with pytest.raises(aio_pika.exceptions.ChannelPreconditionFailed):
        await send(amqp_url, bytes(2000))
    rabbitmq.configure()
    await send(amqp_url, bytes(2000))

    assert await receive(amqp_url) == bytes(2000)


async def test_rabbitmq_closes_connections(rabbitmq: RabbitMQ, amqp_url: str) -> None:
    """A client is told when the broker closes its connection."""
    connection = await aio_pika.connect(amqp_url)
    closed = asyncio.get_running_loop().create_future()
    connection.close_callbacks.add(lambda _, reason: closed.set_result(reason))
    await asyncio.to_thread(rabbitmq.close_connections)

    assert "closed by a test" in str(await closed)


async def test_vhosts_are_separate(rabbitmq: RabbitMQ, amqp_url: str) -> None:
    """What one test declares is not there for another."""
    await send(amqp_url, b"event")
    other = rabbitmq.fresh_vhost()
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await receive(other)
    rabbitmq.delete_vhost(other)


def test_rabbitmqctl_works_and_tells_why_it_fails(rabbitmq: RabbitMQ) -> None:
    """A command of the tool acts on our node; a wrong one raises with what the tool said."""
    assert rabbitmq.node in rabbitmq.ctl("eval", "node().")
    with pytest.raises(ServerFailed, match="no-such-command"):
        rabbitmq.ctl("no-such-command")


def test_a_frozen_node_is_woken(rabbitmq: RabbitMQ) -> None:
    """A test that fails while the node is frozen does not disturb the next one."""
    pid = rabbitmq.pid
    os.kill(pid, signal.SIGSTOP)
    rabbitmq.ensure_running()

    assert rabbitmq.pid == pid


@pytest.mark.parametrize("end", [Postgres.stop, Postgres.kill])
async def test_postgres_keeps_what_was_committed(
    postgres: Postgres, pg_dsn: str, end: Callable[[Postgres], None]
) -> None:
    """A committed row outlives the server, which comes back at the same address."""
    connection = await asyncpg.connect(pg_dsn)
    await connection.execute("CREATE TABLE kept AS SELECT 7 AS value")
    end(postgres)
    with pytest.raises(OSError, match="onnect"):
        await asyncpg.connect(pg_dsn)
    connection.terminate()
    postgres.start()
    connection = await asyncpg.connect(pg_dsn)

    assert await connection.fetchval("SELECT value FROM kept") == 7
    await connection.close()


def test_databases_are_separate(postgres: Postgres, pg_dsn: str) -> None:
    """Each asked-for database is another one, and a used one can be dropped."""
    other = postgres.fresh_database()

    assert other != pg_dsn
    postgres.delete_database(other)


def mysql_connection(dsn: str) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    url = urlsplit(dsn)
    return pymysql.connect(
        host=url.hostname,
        port=url.port or 0,
        user=url.username,
        password=url.password or "",
        database=url.path[1:],
    )


@pytest.mark.parametrize("end", [MariaDB.stop, MariaDB.kill])
def test_mariadb_keeps_what_was_committed(
    mariadb: MariaDB, mysql_dsn: str, end: Callable[[MariaDB], None]
) -> None:
    """A committed row outlives the server, which comes back at the same address."""
    with mysql_connection(mysql_dsn) as connection:
        connection.cursor().execute("CREATE TABLE kept AS SELECT 7 AS value")
    end(mariadb)
    with pytest.raises(pymysql.OperationalError, match="connect"):
        mysql_connection(mysql_dsn)
    mariadb.start()

    with mysql_connection(mysql_dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT value FROM kept")
        assert cursor.fetchone() == (7,)


def test_databases_of_mariadb_are_separate(mariadb: MariaDB, mysql_dsn: str) -> None:
    """Each asked-for database is another one, and a used one can be dropped."""
    other = mariadb.fresh_database()

    assert other != mysql_dsn
    mariadb.delete_database(other)


@pytest.mark.parametrize("name", ["rabbitmq", "postgres", "mariadb", "redis"])
def test_close_leaves_nothing(name: str, request: pytest.FixtureRequest) -> None:
    """After close no process and no folder is left, and another instance runs on undisturbed."""
    other = request.getfixturevalue(name)
    server = type(other)()
    traces = Traces.of(server._processes._supervisor.pid, server._processes.folder)
    assert server.pid in traces.processes
    server.close()

    assert traces.have_gone()
    assert other.is_running()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("rabbitmq", signal.SIGKILL),
        ("postgres", signal.SIGKILL),
        ("postgres", signal.SIGTERM),
        ("postgres", signal.SIGINT),
        ("redis", signal.SIGKILL),
        ("mariadb", signal.SIGKILL),
    ],
)
def test_a_killed_test_run_leaves_nothing(
    name: str, number: signal.Signals, request: pytest.FixtureRequest
) -> None:
    """However the process that started a server ends, the server ends too."""
    server = type(request.getfixturevalue(name)).__name__
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, server], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout
        supervisor, folder = parent.stdout.readline().split()
        traces = Traces.of(int(supervisor), Path(folder))
        parent.send_signal(number)

    assert len(traces.processes) >= 2
    wait_until(traces.have_gone, 20, f"the end of {traces}")


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_missing_server_skips_here_and_fails_on_ci(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to install a server to run the tests, but CI never leaves one out unnoticed."""
    monkeypatch.setattr(Postgres, "is_installed", lambda: False)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=r"postgresql is not installed; `make test` installs it"):
        next(running(Postgres))


def test_install_without_rights_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever may not install gets the command for an administrator, and a failure."""
    monkeypatch.setattr(install, "missing_packages", lambda: ["rabbitmq-server"])
    monkeypatch.setattr(install, "_can_sudo", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert install.install() == 1
    assert "apt-get install --no-install-recommends rabbitmq-server" in capsys.readouterr().err


@pytest.mark.parametrize("before", ["#!/bin/sh\nexit 104\n", None])
def test_install_keeps_services_from_starting(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services are held while packages are installed; a failure, too, restores what was there."""
    policy, clusters = tmp_path / "policy-rc.d", tmp_path / "createcluster.d"
    monkeypatch.setattr(install, "POLICY", policy)
    monkeypatch.setattr(install, "POLICY_BEFORE", tmp_path / "before")
    monkeypatch.setattr(install, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(install, "CLUSTERS", clusters)
    monkeypatch.setattr(install, "CLUSTERS_OFF", clusters / "off.conf")
    if before:
        policy.write_text(before)
        policy.chmod(0o755)

    def fail_while_installing() -> None:
        with install.services_held():
            assert subprocess.call([policy]) == 101
            assert (clusters / "off.conf").exists()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_while_installing()

    assert (policy.read_text() if policy.exists() else None) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "policy-rc.d"][: 2 if before else 1]
