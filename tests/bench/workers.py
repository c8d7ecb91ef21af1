"""Events a second from RabbitMQ into PostgreSQL by one process on one core, beside a plain consumer.

Both have the same events in a queue of their own, and a primary key that keeps each event once. The plain one
writes a row an event; the gateway's tables have their usual columns and indexes.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import asyncpg

from tests.bench.peers import HERE
from tests.gateway_process import GATEWAY, Gateway, eventually
from tests.services import Postgres, RabbitMQ

_CORE = "1"
COMMANDS = {
    "group messages (a row each)": "Group.CallbackAfterSendMsg",
    "member exits (a row each, and one a member)": "Group.CallbackAfterMemberExit",
}


def measure(rabbitmq: RabbitMQ, postgres: Postgres, rounds: int, events: int) -> str:
    """Return the table in Markdown."""
    lines = [
        "| into PostgreSQL, one core | plain, events/s | gateway work, events/s | × |",
        "|---|---:|---:|---:|",
    ]
    for what, command in COMMANDS.items():
        plain: list[float] = []
        ours: list[float] = []
        for number in range(rounds):
            with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
                one = _Round(rabbitmq, postgres, Path(folder) / "gateway", events, command)
                try:
                    plain.append(one.plain())
                    ours.append(one.ours())
                finally:
                    one.close()
            print(
                f"round {number + 1}: {what}: plain {plain[-1]:,.0f}/s, gateway work {ours[-1]:,.0f}/s",
                flush=True,
            )
        ratio = median(ours) / median(plain)
        lines.append(f"| {what} | {median(plain):,.0f} | {median(ours):,.0f} | {ratio:.1f} |")
    return "\n".join(lines)


class _Round:
    """Two queues full of the same events, and who empties them."""

    def __init__(
        self, rabbitmq: RabbitMQ, postgres: Postgres, folder: Path, events: int, command: str
    ) -> None:
        self._rabbitmq, self._postgres, self._events = rabbitmq, postgres, events
        self._url, self._dsn = rabbitmq.fresh_vhost(), postgres.fresh_database()
        self._gateway = Gateway(
            folder,
            broker={"url": self._url},
            sinks={
                "crm": {"kind": "postgres", "dsn": self._dsn},
                "plain": {"kind": "jsonl", "path": "var/unused.jsonl"},
            },
        )
        server = self._gateway.start("serve")
        subprocess.run(
            [
                *(GATEWAY, "send", "--url", f"http://127.0.0.1:{self._gateway.port}/callback", "--app", "1400000000"),
                *("--count", str(events), "--connections", "32", "--command", command),
            ],
            cwd=folder, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        eventually(
            lambda: self._gateway.metrics()["gateway_journal_waiting_records"] == 0,
            "everything published",
            120,
        )
        server.terminate()
        server.wait()
        self._sql("CREATE TABLE plain (source text, id text, event jsonb, PRIMARY KEY (source, id))")

    def plain(self) -> float:
        return self._rate(
            [sys.executable, str(HERE / "plain_consumer.py"), self._url, self._dsn, "im.sink.plain"], "plain"
        )

    def ours(self) -> float:
        return self._rate([GATEWAY, "work", "--sink", "crm"], "im_events")

    def close(self) -> None:
        self._gateway.close()
        self._rabbitmq.retire_vhost(self._url)
        self._postgres.delete_database(self._dsn)

    def _rate(self, command: Sequence[str], table: str) -> float:
        """Return the events a second between the first and the last row."""
        process = subprocess.Popen(
            ["taskset", "-c", _CORE, *command], cwd=self._gateway.folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            seen: list[tuple[float, int]] = []
            while not seen or seen[-1][1] < self._events:
                assert process.poll() is None, f"{command[0]} has ended"
                count = self._count(table)
                if count:
                    seen.append((time.monotonic(), count))
                time.sleep(0.1)
            return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])
        finally:
            process.terminate()
            process.wait()

    def _count(self, table: str) -> int:
        try:
            return int(self._sql(f"SELECT count(*) FROM {table}")[0][0])
        except asyncpg.UndefinedTableError:
            return 0

    def _sql(self, statement: str) -> list[asyncpg.Record]:
        async def run() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self._dsn)
            try:
                return list(await connection.fetch(statement))
            finally:
                await connection.close()

        return asyncio.run(run())
