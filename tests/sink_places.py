"""The places that the sinks write to, behind one face: make a sink, look inside, take away, bring back."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pymysql
import redis.asyncio
from pydantic import SecretStr

from gateway.broker.rabbitmq.outlet import Outlet
from gateway.config import (
    AmqpSink,
    HttpSink,
    JsonlSink,
    MysqlSink,
    PostgresSink,
    PythonSink,
    RedisSink,
    SinkBase,
    SqliteSink,
)
from gateway.exits import ExitsQuery, MemberExit
from gateway.sinks import Sink, mysql, postgres, sqlite
from gateway.sinks.http import Http
from gateway.sinks.jsonl import Jsonl
from gateway.sinks.mysql import Mysql
from gateway.sinks.postgres import Postgres
from gateway.sinks.python import Own
from gateway.sinks.redis import Redis
from gateway.sinks.sqlite import Sqlite
from tests import services
from tests.rabbitmq_world import admin_channel
from tests.tcp_proxy import TcpProxy
from tests.webhook_service import WebhookService


class Place(Protocol):
    """What the contract suite asks of each kind."""

    @property
    def config(self) -> SinkBase:
        """The configuration of its sinks."""
        ...

    def sink(self) -> Sink:
        """Return one more sink on this place."""
        ...

    async def events(self) -> list[Any]:
        """Return the events written, parsed, in the order they were written where the kind keeps one."""
        ...

    async def exits(self, query: ExitsQuery = ExitsQuery(limit=10_000)) -> list[MemberExit]:  # noqa: B008 - frozen
        """Return the member exits written."""
        ...

    def take_away(self) -> None:
        """Make the place unusable, as an outage does."""
        ...

    def bring_back(self) -> None:
        """End the outage; what was written is there again."""
        ...


class _Folder:
    """A folder that gives way to a file in an outage; read-only would not stop root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "place"
        self._aside = folder / "aside"

    def take_away(self) -> None:
        if self.folder.exists():
            self.folder.rename(self._aside)
        self.folder.write_text("in the way")

    def bring_back(self) -> None:
        self.folder.unlink()
        if self._aside.exists():
            self._aside.rename(self.folder)


class JsonlPlace(_Folder):
    @property
    def config(self) -> JsonlSink:
        return JsonlSink(kind="jsonl", path=self.folder / "events.jsonl")

    def sink(self, **changes: Any) -> Jsonl:
        return Jsonl(self.config.model_copy(update=changes), "audit")

    async def events(self) -> list[Any]:
        return [json.loads(line) for line in (self.folder / "events.jsonl").read_bytes().splitlines()]


class PythonPlace(_Folder):
    """A file that a class of the user's own writes."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder)
        self._class = name

    @property
    def config(self) -> PythonSink:
        options = {"path": str(self.folder / "events.jsonl")}
        return PythonSink(kind="python", target=f"tests.own_sinks:{self._class}", options=options)

    def sink(self) -> Own:
        return Own(self.config, "mine")

    async def events(self) -> list[Any]:
        return [json.loads(line) for line in (self.folder / "events.jsonl").read_bytes().splitlines()]


class AmqpPlace:
    """A queue behind an exchange of somebody else's, in another virtual host; the network to it may end."""

    def __init__(self, url: str, proxy: TcpProxy) -> None:
        self.url = url
        self.proxy = proxy

    async def declare(self) -> None:
        async with admin_channel(self.url) as channel:
            exchange = await channel.declare_exchange("their.events", "topic", durable=True)
            queue = await channel.declare_queue("theirs", durable=True)
            await queue.bind(exchange, "#")

    @property
    def config(self) -> AmqpSink:
        return AmqpSink(kind="amqp", url=(self.proxy.through(self.url),), exchange="their.events")

    def sink(self, **changes: Any) -> Outlet:
        return Outlet(self.config.model_copy(update=changes), "copy")

    async def messages(self, queue: str = "theirs") -> list[aio_pika.abc.AbstractIncomingMessage]:
        """Return what stands in *queue*, in order; it stays there."""
        found = []
        async with admin_channel(self.url) as channel:
            source = await channel.get_queue(queue)
            while (message := await source.get(fail=False)) is not None:
                found.append(message)
        return found

    async def events(self) -> list[Any]:
        return [json.loads(message.body) for message in await self.messages()]

    def take_away(self) -> None:
        self.proxy.refuse()

    def bring_back(self) -> None:
        self.proxy.flow()


class SqlitePlace(_Folder):
    @property
    def config(self) -> SqliteSink:
        return SqliteSink(kind="sqlite", path=self.folder / "events.db")

    def sink(self) -> Sqlite:
        return Sqlite(self.config, "exits")

    def rows(self, sql: str) -> list[Any]:
        with closing(sqlite3.connect(self.config.path, isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()

    async def events(self) -> list[Any]:
        return [json.loads(row[0]) for row in self.rows("SELECT event FROM events ORDER BY seq")]

    async def exits(self, query: ExitsQuery = ExitsQuery(limit=10_000)) -> list[MemberExit]:  # noqa: B008
        return await sqlite.read_exits(self.config, query)


class PostgresPlace:
    def __init__(self, server: services.Postgres, dsn: str) -> None:
        self.server = server
        self.dsn = dsn

    @property
    def config(self) -> PostgresSink:
        return PostgresSink(kind="postgres", dsn=SecretStr(self.dsn))

    def sink(self, **changes: Any) -> Postgres:
        return Postgres(self.config.model_copy(update=changes), "exits")

    async def run(self, *statements: str) -> list[Any]:
        """Return the rows of the last of *statements*."""
        connection = await asyncpg.connect(self.dsn)
        try:
            for statement in statements:
                rows = await connection.fetch(statement)
            return list(rows)
        finally:
            await connection.close()

    async def events(self) -> list[Any]:
        rows = await self.run("SELECT event FROM im_events ORDER BY inserted_at, id")
        return [json.loads(row["event"]) for row in rows]

    async def exits(self, query: ExitsQuery = ExitsQuery(limit=10_000)) -> list[MemberExit]:  # noqa: B008
        return await postgres.read_exits(self.config, query)

    def take_away(self) -> None:
        self.server.stop()

    def bring_back(self) -> None:
        self.server.start()


class RedisPlace:
    def __init__(self, server: services.Redis, url: str) -> None:
        self.server = server
        self.url = url

    @property
    def config(self) -> RedisSink:
        return RedisSink(kind="redis", url=SecretStr(self.url), write_timeout_s=10)

    def sink(self, **changes: Any) -> Redis:
        return Redis(self.config.model_copy(update=changes), "cache")

    async def entries(self, stream: str = "im:events") -> list[dict[str, str]]:
        """Return the fields of each entry, oldest first."""
        async with redis.asyncio.Redis.from_url(self.url, decode_responses=True) as client:
            return [fields for _, fields in await client.xrange(stream)]

    async def events(self) -> list[Any]:
        return [json.loads(entry["event"]) for entry in await self.entries()]

    async def exits(self, query: ExitsQuery = ExitsQuery(limit=10_000)) -> list[MemberExit]:  # noqa: B008
        raise NotImplementedError

    def take_away(self) -> None:
        self.server.stop()

    def bring_back(self) -> None:
        self.server.start()


class MysqlPlace:
    def __init__(self, server: services.MariaDB, dsn: str) -> None:
        self.server = server
        self.dsn = dsn

    @property
    def config(self) -> MysqlSink:
        return MysqlSink(kind="mysql", dsn=SecretStr(self.dsn))

    def sink(self, **changes: Any) -> Mysql:
        return Mysql(self.config.model_copy(update=changes), "exits")

    def run(self, *statements: str) -> list[Any]:
        """Return the rows of the last of *statements*."""
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def connect(self) -> Any:
        url = urlsplit(self.dsn)
        return pymysql.connect(
            host=url.hostname, port=url.port or 0, user=url.username, password=url.password or "",
            database=url.path[1:], autocommit=True,
        )  # fmt: skip

    async def events(self) -> list[Any]:
        return [json.loads(row[0]) for row in self.run("SELECT event FROM im_events ORDER BY seq")]

    async def exits(self, query: ExitsQuery = ExitsQuery(limit=10_000)) -> list[MemberExit]:  # noqa: B008
        return await mysql.read_exits(self.config, query)

    def take_away(self) -> None:
        self.server.stop()

    def bring_back(self) -> None:
        self.server.start()


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class HttpPlace:
    def __init__(self, service: WebhookService, **changes: Any) -> None:
        self.service = service
        self.changes = changes

    @property
    def config(self) -> HttpSink:
        config = HttpSink(
            kind="http",
            url=SecretStr(self.service.url),
            secrets=(SecretStr(SECRET),),
            allow_networks=("127.0.0.0/8",),
        )
        return config.model_copy(update=self.changes)

    def sink(self, **changes: Any) -> Http:
        return Http(self.config.model_copy(update=changes), "hook")

    async def events(self) -> list[Any]:
        return self.service.taken

    async def exits(self, query: ExitsQuery = ExitsQuery(limit=10_000)) -> list[MemberExit]:  # noqa: B008
        raise NotImplementedError

    def take_away(self) -> None:
        self.service.deafen()

    def bring_back(self) -> None:
        self.service.listen()
