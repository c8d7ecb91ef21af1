"""``gateway journal`` beside real processes: a queue that was deleted comes back, and nothing seems damaged."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.gateway_process import Gateway, eventually, number_of
from tests.services import RabbitMQ, management


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    """Return a function that makes a Gateway in its own folder."""
    made: list[Gateway] = []

    def build(**sections: Any) -> Gateway:
        made.append(Gateway(tmp_path / str(len(made)), **sections))
        return made[-1]

    yield build
    for gateway in made:
        gateway.close()


def stat(gateway: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gateway.command("journal", "stat", "--json"))
    return found


def rows(dsn: str) -> list[tuple[str, str]]:
    """Return source and id of every event in the database; none before its table is there."""

    async def read() -> list[tuple[str, str]]:
        connection = await asyncpg.connect(dsn)
        try:
            found = await connection.fetch("SELECT source, id FROM im_events")
        except asyncpg.UndefinedTableError:
            return []
        finally:
            await connection.close()
        return [(row["source"], row["id"]) for row in found]

    return asyncio.run(read())


def test_replay_brings_back_the_events_of_a_deleted_queue(
    make: Any, rabbitmq: RabbitMQ, amqp_url: str, pg_dsn: str
) -> None:
    """A sink's queue is deleted with events in it; afterwards the rows are the events exactly, elsewhere no copy."""
    gateway = make(
        broker={"url": amqp_url, "management_url": rabbitmq.management_url},
        sinks={
            "crm": {"kind": "postgres", "dsn": pg_dsn},
            "audit": {"kind": "jsonl", "path": "var/events.jsonl"},
        },
    )
    began = datetime.now(UTC).isoformat()
    gateway.start("serve")
    gateway.start("work", "--sink", "audit")
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(200))
    eventually(lambda: len(gateway.lines()) == 200, "all in the file")
    vhost = urlsplit(amqp_url).path[1:]
    queue = f"/api/queues/{vhost}/im.sink.crm"

    def standing() -> bool:
        return json.loads(management.request(rabbitmq.management_port, "GET", queue)).get("messages") == 200

    eventually(standing, "all in the queue")
    management.request(rabbitmq.management_port, "DELETE", queue)
    assert all(sender.post(number) for number in range(200, 220))  # for a moment its exchange has no queue
    eventually(lambda: (stat(gateway)["head"], stat(gateway)["waiting"]) == (220, 0), "all confirmed")

    said = json.loads(
        gateway.command("journal", "replay", "--sink", "crm", "--since", began, "--rate", "0", "--json")
    )
    assert all(sender.post(number) for number in range(220, 240))
    gateway.start("work", "--sink", "crm", wait=False)

    assert (said["events"], said["sinks"], said["lost"]) == (220, {"crm": 220}, 0)
    eventually(lambda: len(rows(pg_dsn)) == 240, "all in the database", 60)
    eventually(lambda: len(gateway.lines()) == 240, "all in the file")
    events = gateway.lines()
    assert sorted(rows(pg_dsn)) == sorted((one["source"], one["id"]) for one in events)
    assert [number_of(one) for one in events] == list(range(240))
    assert "crm: 0 ready, 0 in retry, 0 parked" in gateway.command("topology", "show")


def test_beside_a_running_gateway_nothing_seems_damaged(make: Any) -> None:
    """While callbacks come and segments are trimmed, every command sees a sound journal and changes nothing."""
    gateway = make(journal={"segment_mb": 1, "max_mb": 64, "retain_mb": 1})
    gateway.start("run")
    stop = threading.Event()

    def post() -> None:
        number = 0
        with closing(gateway.sender()) as sender:
            while not stop.is_set():
                assert sender.post(number, Introduction="x" * 20_000)
                number += 1

    poster = threading.Thread(target=post)
    poster.start()
    firsts: set[int] = set()

    def look() -> bool:
        found = json.loads(gateway.command("journal", "verify", "--json").splitlines()[-1])
        firsts.add(found["first"])
        assert (found["damages"], found["lost"]) == (0, 0)
        assert found["good"] + found["trimmed"] == found["head"] - found["first"] + 1
        assert stat(gateway)["holes"] == 0
        gateway.command("journal", "replay", "--from", "1", "--sink", "exits", "--rate", "0")
        return len(firsts) > 1

    try:
        eventually(look, "segments were trimmed between two looks", 90)
    finally:
        stop.set()
        poster.join()
    eventually(lambda: stat(gateway)["waiting"] == 0, "all confirmed")
    levels = {json.loads(line)["level"] for line in gateway.logs().splitlines()}

    assert not levels & {"error", "critical"}


def test_rows_of_a_wrong_release_come_right(make: Any) -> None:
    """docs/operations.md: delete them as written there, replay that time; the sink had kept the wrong ones else."""
    gateway = make(sinks={"exits": {"kind": "sqlite", "path": "var/exits.db"}})
    gateway.start("run")
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(20))
    everything = "SELECT id, event FROM events ORDER BY id"
    right = eventually(
        lambda: (lambda them: len(them) == 20 and them)(query(gateway, everything)), "all rows"
    )
    eventually(lambda: stat(gateway)["waiting"] == 0, "all confirmed")
    query(gateway, "UPDATE events SET event = '{}'", "UPDATE member_exits SET member = 'wrong'")
    gateway.command("journal", "replay", "--from", "1", "--sink", "exits", "--rate", "0")
    page = (Path(__file__).parent.parent / "docs/operations.md").read_text()
    statements = page.split("```sql")[1].split("```")[0].replace("im_", "")
    for documented, real in (("2026-01-31T08", "2000-01-31T08"), ("2026-01-31T10", "2100-01-31T10")):
        statements = statements.replace(documented, real)
    eventually(lambda: "exits: 0 ready" in gateway.command("topology", "show"), "the copies were taken")
    kept = query(gateway, everything)
    query(gateway, *[one for one in statements.split(";") if one.strip()])
    gone = query(gateway, "SELECT member FROM member_exits UNION SELECT id FROM events")
    gateway.command("journal", "replay", "--sink", "exits", "--since", "1h", "--rate", "0")

    assert [event for _, event in kept] == ["{}"] * 20
    assert gone == []
    eventually(lambda: query(gateway, everything) == right, "the right rows")
    assert query(gateway, "SELECT count(*) FROM member_exits WHERE member = 'wrong'") == [(0,)]


def query(gateway: Gateway, *statements: str) -> list[Any]:
    """Return the rows of the last of *statements*; none while the sink has not made its tables."""
    if not (gateway.folder / "var/exits.db").exists():
        return []
    with closing(sqlite3.connect(gateway.folder / "var/exits.db", timeout=10)) as database, database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'member_exits'").fetchall():
            return []
        return [database.execute(statement).fetchall() for statement in statements][-1]
