"""Workers into files, another exchange and a class of the user's own, killed under load: real processes."""

import asyncio
import gzip
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_process import Gateway, Sender, eventually, number_of
from tests.sink_places import AmqpPlace

CLASS = """
import sqlite3

class Leavers:
    def __init__(self, path):
        self.path = path

    def open(self):
        self.db = sqlite3.connect(self.path, check_same_thread=False)
        self.db.execute("CREATE TABLE IF NOT EXISTS leavers (source, id, member, PRIMARY KEY (source, id, member))")

    def write(self, events):
        with self.db:
            for event in events:
                for member in event.data["members"]:
                    row = (event.source, event.id, member)
                    self.db.execute("INSERT OR IGNORE INTO leavers VALUES (?, ?, ?)", row)
"""
COUNT = 400


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events in the file *path* and those put aside; where both stand there, the compressed one."""
    files = [one for one in path.parent.iterdir() if one.name.startswith(path.name) and one.suffix != ".lock"]
    names = {one.name for one in files}
    for file in files:
        if file.suffix == ".part" or f"{file.name}.gz" in names:
            continue
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        yield from (json.loads(line) for line in content.splitlines())


def send_some_twice(sender: Sender) -> None:
    for number in range(COUNT):
        for _ in range(2 if number % 3 == 0 else 1):
            sender.post(number)


def is_taking(gateway: Gateway) -> bool:
    try:
        found = gateway.metrics(gateway.worker_port)
    except OSError:
        return False
    return all(found.get(f"gateway_sink_available{{sink={name}}}") == 1 for name in ("files", "copy", "own"))


@pytest.mark.timeout(240)
def test_workers_killed_under_load_leave_what_was_sent(
    rabbitmq: Any, amqp_place: AmqpPlace, tmp_path: Path
) -> None:
    """kill -9 in the middle of batches and of compressing: each event is there, in the class's table once."""
    ours = rabbitmq.fresh_vhost()
    small = {"batch_max_events": 20, "batch_max_wait_ms": 0}
    sinks = {
        "files": {"kind": "jsonl", "path": "var/events.jsonl", "rotate_h": 0.00005, "gzip": True, **small},
        "copy": {"kind": "amqp", "url": amqp_place.url, "exchange": "their.events", **small},
        "own": {"kind": "python", "target": "my_sinks:Leavers", "options": {"path": "leavers.db"}, **small},
    }
    gateway = Gateway(tmp_path, broker={"url": ours}, sinks=sinks)
    (tmp_path / "my_sinks.py").write_text(CLASS)
    try:
        gateway.start("serve")
        sender = gateway.sender()
        thread = threading.Thread(target=send_some_twice, args=(sender,))
        thread.start()
        for life in range(6):
            worker = gateway.start("work", wait=False)
            eventually(lambda: is_taking(gateway) or worker.poll() is not None, "the worker takes events")  # noqa: B023
            assert worker.poll() is None, gateway.logs()
            time.sleep(0.03 * (life % 4))
            worker.kill()
            worker.wait()
        thread.join()
        last = gateway.start("work")

        def members() -> list[str]:
            with closing(sqlite3.connect(tmp_path / "leavers.db")) as db:
                return sorted(row[0] for row in db.execute("SELECT member FROM leavers"))

        def copies() -> list[int]:
            return [number_of(event) for event in asyncio.run(amqp_place.events())]

        eventually(lambda: len(members()) >= COUNT, "all in the class's table", 60)
        eventually(lambda: len(set(copies())) >= COUNT, "all in the other exchange", 60)
        eventually(
            lambda: len({event["id"] for event in lines(tmp_path / "var/events.jsonl")}) >= COUNT,
            "all in files",
        )
        assert gateway.stop(last) == 0
    finally:
        gateway.close()
        rabbitmq.retire_vhost(ours)

    assert set(sender.acknowledged) == set(range(COUNT))
    assert members() == sorted(f"u{number}" for number in range(COUNT))
    assert list(dict.fromkeys(copies())) == list(range(COUNT))
    found = [number_of(event) for event in lines(tmp_path / "var/events.jsonl")]
    assert set(found) == set(range(COUNT))
    assert len(found) - COUNT <= 6 * 2 * 20  # two batches a kill may come again
    assert list((tmp_path / "var").glob("events.jsonl.2*.gz"))
