"""Fixtures that every test may use: real servers, started when the first test asks for them."""

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import TypeVar

import pytest
from hypothesis import settings

from tests.rabbitmq_world import forward, make, work  # noqa: F401 - fixtures
from tests.services import MariaDB, Postgres, RabbitMQ, Redis
from tests.sink_places import AmqpPlace
from tests.tcp_proxy import TcpProxy
from tests.webhook_service import WebhookService

# Why: how long one example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
# Why: a run in the background of a shell inherits that SIGINT is ignored, and so would the processes under test.
signal.signal(signal.SIGINT, signal.default_int_handler)

Server = TypeVar("Server", MariaDB, Postgres, RabbitMQ, Redis)
SERVERS = ("rabbitmq", "postgres", "mariadb", "redis")

settings.register_profile("soak", max_examples=10_000, deadline=None, print_blob=True)


def running(kind: type[Server]) -> Iterator[Server]:
    """Yield a started server and close it; where its program is missing skip here, fail on CI."""
    if not kind.is_installed():
        reason = f"{kind.package} is not installed; `make test` installs it where it may use apt-get."
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    server = kind()
    yield server
    server.close()


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """One node for the whole run; a test may stop, kill or reconfigure it."""
    yield from running(RabbitMQ)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the whole run; a test may stop or kill it."""
    yield from running(Postgres)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """One server for the whole run; a test may stop or kill it."""
    yield from running(MariaDB)


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    """One server for the whole run; a test may stop or kill it."""
    yield from running(Redis)


@pytest.fixture(autouse=True)
def _servers_are_up(request: pytest.FixtureRequest) -> None:
    """Start again what an earlier test left stopped, so that each failure stays with its own test."""
    for name in SERVERS:
        if name in request.fixturenames:
            request.getfixturevalue(name).ensure_running()


@pytest.fixture
def amqp_url(rabbitmq: RabbitMQ) -> Iterator[str]:
    """The URL of a virtual host that only this test sees."""
    url = rabbitmq.fresh_vhost()
    yield url
    rabbitmq.retire_vhost(url)


@pytest.fixture
def amqp_place(rabbitmq: RabbitMQ, amqp_url: str) -> Iterator[AmqpPlace]:
    """Somebody else's exchange and queue in a virtual host of their own, behind a proxy."""
    with TcpProxy(rabbitmq.port) as proxy:
        place = AmqpPlace(amqp_url, proxy)
        asyncio.run(place.declare())
        yield place


@pytest.fixture
def pg_dsn(postgres: Postgres) -> Iterator[str]:
    """The DSN of a database that only this test sees."""
    dsn = postgres.fresh_database()
    yield dsn
    postgres.ensure_running()
    postgres.delete_database(dsn)


@pytest.fixture
def mysql_dsn(mariadb: MariaDB) -> Iterator[str]:
    """The DSN of a database that only this test sees."""
    dsn = mariadb.fresh_database()
    yield dsn
    mariadb.ensure_running()
    mariadb.delete_database(dsn)


@pytest.fixture
def redis_url(redis: Redis) -> str:
    """The URL of a Redis that is empty when the test begins."""
    redis.cli("FLUSHALL")
    return redis.url


@pytest.fixture
def webhook_service() -> Iterator[WebhookService]:
    """An HTTP service that takes events."""
    with WebhookService() as service:
        yield service
