"""One fault's stage: gateway and worker as installed, real servers, a sender with a ledger, and the count."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.crash.table import Row
from tests.gateway_process import GATEWAY, Gateway, eventually
from tests.services import Postgres, RabbitMQ

RATE_PER_S = 1100
CONNECTIONS = 64
COMMANDS = ("Group.CallbackAfterMemberExit", "Group.CallbackAfterSendMsg", "State.StateChange")
WARM_S = 0.5
SETTLE_S = 180.0


class Scene:
    """Starts everything, is handed to the fault, and counts at the end."""

    def __init__(
        self, rabbitmq: RabbitMQ, postgres: Postgres, folder: Path, rounds: int, sections: dict[str, Any],
        *, is_timed: bool,
    ) -> None:  # fmt: skip
        self.rabbitmq, self.postgres, self.rounds = rabbitmq, postgres, rounds
        self.url = rabbitmq.fresh_vhost()
        self.vhost = urlsplit(self.url).path[1:]
        self.dsn = postgres.fresh_database()
        self.random = random.Random(f"{folder.name}-{rounds}")
        self._is_timed = is_timed
        self.faults: list[str] = []
        self.notes: list[str] = []
        self.damaged: list[int] = []
        """Positions whose records the fault has destroyed: the only ones that may be lost."""
        broker = {
            "url": self.url, "reconnect_min_s": 0.1, "reconnect_max_s": 1.0,
            "management_url": rabbitmq.management_url, **sections.pop("broker", {}),
        }  # fmt: skip
        sinks = sections.pop("sinks", None) or {
            "crm": {"kind": "postgres", "dsn": self.dsn},
            "audit": {"kind": "jsonl", "path": "var/events.jsonl"},
        }
        for sink in sinks.values():
            if sink["kind"] == "postgres":
                sink.setdefault("dsn", self.dsn)
        self.gateway = Gateway(folder, broker=broker, sinks=sinks, **sections)
        self.server: subprocess.Popen[bytes] | None = None
        self.worker: subprocess.Popen[bytes] | None = None
        self._senders: list[tuple[subprocess.Popen[bytes], Path]] = []

    # What runs

    def serve(self, *, wait: bool = True) -> None:
        """Start ``gateway serve``."""
        self.server = self.gateway.start("serve", wait=wait)

    def work(self, *, wait: bool = True) -> None:
        """Start ``gateway work``."""
        self.worker = self.gateway.start("work", wait=wait)

    def load(self, rate: int = RATE_PER_S, *options: str) -> None:
        """Start a sender with a ledger of its own; it goes on until ``finish``, or ``end_load``."""
        ledger = self.gateway.folder / f"ledger-{len(self._senders)}.jsonl"
        commands = [word for name in COMMANDS for word in ("--command", name)]
        out = (self.gateway.folder / f"{ledger.stem}.out").open("wb")
        with out:
            process = subprocess.Popen(
                [
                    *(GATEWAY, "send", *commands, "--rate", str(rate), "--duration", "100000", "--json"),
                    *("--connections", str(CONNECTIONS), "--ledger", str(ledger), *options),
                ],
                cwd=self.gateway.folder, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._senders.append((process, ledger))
        eventually(lambda: ledger.exists() and process.poll() is None, "the sender")

    def start(self) -> None:
        """Start all three and let them run for a moment."""
        self.serve()
        self.work()
        self.load()
        self.run_for(WARM_S)

    def run_for(self, seconds: float) -> None:
        """Let the load go on; the sender must live."""
        time.sleep(seconds)
        process, ledger = self._senders[-1]
        assert process.poll() is None, ledger.with_suffix(".out").read_text()

    def kill(self, process: subprocess.Popen[bytes] | None, number: int = signal.SIGKILL) -> int:
        """Signal *process* and wait for its end; return its exit code."""
        assert process is not None
        process.send_signal(number)
        return process.wait(30)

    # What is seen

    def metrics(self, *, of_worker: bool = False) -> dict[str, float]:
        """Return the samples of the gateway or the worker; empty while it does not answer."""
        try:
            return self.gateway.metrics(self.gateway.worker_port if of_worker else self.gateway.admin_port)
        except (OSError, ValueError):
            return {}

    def metric(self, name: str, *, of_worker: bool = False) -> float:
        return self.metrics(of_worker=of_worker).get(f"gateway_{name}", 0.0)

    def until(self, condition: Callable[[], Any], what: str, deadline_s: float = 30.0) -> float:
        """Wait until *condition* is true; return the seconds that took."""
        started_s = time.monotonic()
        eventually(condition, what, deadline_s)
        return time.monotonic() - started_s

    def until_flowing(self, deadline_s: float = 60.0) -> float:
        """Wait until the broker confirms new events; return the seconds that took."""
        before = self.metric("events_published_total")
        return self.until(lambda: self.metric("events_published_total") > before + 100, "events", deadline_s)

    def log(self) -> str:
        return self.gateway.logs()

    def expect(self, is_so: object, otherwise: str) -> None:
        """Note *otherwise* as a failure of this fault unless *is_so*."""
        if not is_so:
            self.faults.append(otherwise)

    def expect_fast(self, is_so: object, otherwise: str) -> None:
        """Like ``expect``, in the long form; the short one runs on busy machines and only notes it."""
        if not is_so:
            (self.faults if self._is_timed else self.notes).append(otherwise)

    @staticmethod
    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    def p99_ms(self, since_ms: int) -> float:
        """Return the 99th percentile of the answers 200 to what was sent since *since_ms* (Unix)."""
        _, ledger = self._senders[-1]
        took_ms = sorted(
            one["took_ms"] for one in _answers(ledger) if one["answer"] == "ok" and one["sent_ms"] >= since_ms
        )
        return float(took_ms[int(len(took_ms) * 0.99)]) if took_ms else float("inf")

    def sql(self, statement: str) -> list[str]:
        """Return the lines that psql prints for *statement* on the sink's database."""
        return self.postgres.query(self.dsn, statement).splitlines()

    # The end

    def end_load(self) -> None:
        """Stop the sender; what it waits for stays unanswered."""
        process, _ = self._senders[-1]
        if process.poll() is None:
            # Why not SIGINT: whatever runs in the background of a shell may have inherited that it is ignored.
            process.send_signal(signal.SIGTERM)
            process.wait(30)

    def finish(self, name: str, *, keeps_order: bool, must_lose: bool) -> Row:
        """End the load, mend everything, wait until all has arrived, and count."""
        self.run_for(WARM_S)
        self.end_load()
        self.rabbitmq.ensure_running()
        self.postgres.ensure_running()
        self._revive()
        self._drain()
        verdicts = [self._verify(ledger, 2 if must_lose else 30) for _, ledger in self._senders]
        answers = [_answers(ledger) for _, ledger in self._senders]
        lines = self._lines()
        if keeps_order and (broken := _order_breaks(lines)):
            self.faults.append(f"{broken} first arrivals out of order")
        return Row(
            fault=name,
            rounds=self.rounds,
            rate_per_s=round(max(map(_rate, answers))),
            acknowledged=sum(one["acknowledged"] for one in verdicts),
            refused=sum(one["refused"] for one in verdicts),
            unanswered=sum(one["unanswered"] for one in verdicts),
            arrived=sum(one["arrived"] for one in verdicts),
            lost=max(0, sum(one["lost"] for one in verdicts) - len(self.damaged)),
            duplicated=self._duplicates(),
            copies=len(lines) - len({line[0] for line in lines}),
            longest_ms=round(
                max(one["took_ms"] for them in answers for one in them if one["answer"] == "ok")
            ),
            faults=self.faults,
            notes=self.notes,
            must_lose=must_lose,
        )

    def close(self) -> None:
        """End all processes and give the servers back as they were."""
        for process, _ in self._senders:
            if process.poll() is None:
                process.kill()
            process.wait(30)
        self.gateway.close()
        self.rabbitmq.ensure_running()
        self.postgres.ensure_running()
        self.rabbitmq.retire_vhost(self.url)
        self.postgres.delete_database(self.dsn)

    def _revive(self) -> None:
        """Start what the fault has ended; what ended by itself is a failure."""
        for role, start in (("server", self.serve), ("worker", self.work)):
            process = getattr(self, role)
            if process is None or process.poll() is not None:
                start()

    def _drain(self) -> None:
        """Return once journal and queues are empty, so that the count needs to look once."""

        def is_empty() -> bool:
            found, theirs = self.metrics(), self.metrics(of_worker=True)
            return bool(found) and bool(theirs) and found["gateway_journal_waiting_records"] == 0 and all(
                theirs.get(f"gateway_sink_unacked_events{{sink={name}}}", 0) == 0
                and self.rabbitmq.ready(self.vhost, f"im.sink.{name}") == 0
                for name in ("crm", "audit")
            )  # fmt: skip

        self.until(is_empty, f"empty queues\n{self.log()[-3000:]}", SETTLE_S)

    def _verify(self, ledger: Path, wait_s: int) -> dict[str, Any]:
        done = subprocess.run(
            [GATEWAY, "send", "--verify", ledger, "--sink", "crm", "--wait", str(wait_s), "--json"],
            cwd=self.gateway.folder, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stdout + done.stderr
        verdict: dict[str, Any] = json.loads(done.stdout)
        if verdict["lost"] > len(self.damaged):
            self.faults.append(f"lost callbacks, by number in {ledger.name}: {verdict['lost_numbers']}")
        if verdict["unexpected"]:
            self.notes.append(f"{verdict['unexpected']} events that this ledger does not have")
        return verdict

    def _duplicates(self) -> int:
        [counts] = self.sql(
            "SELECT (SELECT count(*) - count(DISTINCT (source, id)) FROM im_events),"
            " (SELECT count(*) FROM im_member_exits) - (SELECT coalesce(sum(jsonb_array_length("
            "event->'data'->'members')), 0) FROM im_events WHERE type = 'im.group.member.exited')"
        )
        events, members = (int(one) for one in counts.split("|"))
        if members < 0:
            self.faults.append(f"{-members} members are missing in im_member_exits")
        return events + max(0, members)

    def _lines(self) -> list[tuple[str, str, tuple[str, int, int]]]:
        """Return id, partition key and position of each line of the log file, in order."""
        return [
            (event["id"], event["partitionkey"], _position(event["position"]))
            for event in self.gateway.lines()
        ]


def _answers(ledger: Path) -> list[dict[str, Any]]:
    """Return how each callback was answered."""
    entries = (json.loads(line) for line in ledger.read_bytes().split(b"\n")[1:-1])
    return [entry for entry in entries if "answer" in entry]


def _rate(answers: list[dict[str, Any]]) -> float:
    """Return the callbacks that were sent a second."""
    times = [one["sent_ms"] for one in answers]
    return len(times) / max(0.1, (max(times) - min(times)) / 1000)


def _position(text: str) -> tuple[str, int, int]:
    journal, position, item = text.split(".")
    return journal, int(position), int(item)


def _order_breaks(lines: list[tuple[str, str, tuple[str, int, int]]]) -> int:
    """Count first arrivals that come after a later one of their key."""
    seen: set[str] = set()
    last: dict[tuple[str, str], tuple[int, int]] = {}
    breaks = 0
    for event_id, key, (journal, position, item) in lines:
        if event_id not in seen:
            seen.add(event_id)
            breaks += last.get((journal, key), (0, 0)) > (position, item)
            last[journal, key] = max(last.get((journal, key), (0, 0)), (position, item))
    return breaks
