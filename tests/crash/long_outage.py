"""``python -m tests.crash.long_outage``: RabbitMQ is away until a million callbacks wait, then it comes back.

Real processes: answers, memory, restarts with the backlog, publishing afterwards, order. Prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiormq

from tests.gateway_process import GATEWAY, Gateway, Sender, eventually
from tests.services import RabbitMQ

QUEUE = "im.sink.audit"
CONNECTIONS = 16
RETURN_S = 120.0
LEAST_PER_S = 200
_POSITION = b'"position":"'


@dataclass
class Figures:
    """What one run saw. Rates are a second, times seconds where not said otherwise."""

    callbacks: int = 0
    answers_before: dict[str, Any] = field(default_factory=dict)
    answers_outage: dict[str, Any] = field(default_factory=dict)
    """With nearly all of the backlog there."""
    answers_after: dict[str, Any] = field(default_factory=dict)
    """While the backlog is published."""
    rss_before_mb: float = 0.0
    rss_after_mb: float = 0.0
    backlog: int = 0
    backlog_mb: float = 0.0
    oldest_s: float = 0.0
    reminders: int = 0
    """Lines of the log that told how many wait."""
    starts_s: dict[str, float] = field(default_factory=dict)
    """From the start of the process to its first 200, by what the cursor file was."""
    published_before: float = 0.0
    published_after: float = 0.0
    accept_us: float = 0.0
    """Processor time of the gateway for one callback while the broker is away."""
    publish_before_us: float = 0.0
    """The same for publishing one event, as far as it is more than accepting."""
    publish_after_us: float = 0.0
    acknowledged: int = 0
    stored: int = 0
    arrived: int = 0
    copies: int = 0
    faults: list[str] = field(default_factory=list)
    """What did not hold, whatever the machine."""

    def slow(self) -> list[str]:
        """Return which measured bounds were not kept; all but the memory need a quiet machine."""
        grown_mb = self.rss_after_mb - self.rss_before_mb
        bounds = [
            (self._ratio("p99") <= 1.25, f"p99 of the answers rose by {self._ratio('p99'):.2f}"),
            (self._ratio("p50") <= 1.25, f"p50 of the answers rose by {self._ratio('p50'):.2f}"),
            (grown_mb < 50, f"memory grew by {grown_mb:.0f} MB"),
            (max(self.starts_s.values()) < 3, f"a start took {max(self.starts_s.values()):.1f} s"),
            (
                self.published_after >= 0.8 * self.published_before,
                f"published only {self.published_after:.0f}/s, before {self.published_before:.0f}/s",
            ),
        ]
        return [said for is_kept, said in bounds if not is_kept]

    def _ratio(self, name: str) -> float:
        return float(self.answers_outage["latency_ms"][name] / self.answers_before["latency_ms"][name])

    def render(self) -> str:
        """Return a table in Markdown."""

        def answers(found: dict[str, Any]) -> str:
            spread = found["latency_ms"]
            return f"{found['rate_per_s']:,.0f}/s, p50 {spread['p50']:.2f} ms, p99 {spread['p99']:.2f} ms"

        rows = [
            ("answers, broker there", answers(self.answers_before)),
            ("answers, end of the outage", answers(self.answers_outage)),
            ("answers, while the backlog is published", answers(self.answers_after)),
            ("resident memory before / after", f"{self.rss_before_mb:.0f} / {self.rss_after_mb:.0f} MB"),
            ("backlog", f"{self.backlog:,} callbacks, {self.backlog_mb:.0f} MB, {self.oldest_s:.0f} s old"),
            ("lines in the log about it", f"{self.reminders}"),
            *((f"start to first 200, {what}", f"{took_s:.2f} s") for what, took_s in self.starts_s.items()),
            ("published under load, before / after", f"{self.published_before:,.0f} / {self.published_after:,.0f} /s"),
            ("processor time to accept one", f"{self.accept_us:.0f} µs"),
            ("processor time to publish one, before / after", f"{self.publish_before_us:.0f} / {self.publish_after_us:.0f} µs"),
            ("acknowledged / stored / arrived", f"{self.acknowledged:,} / {self.stored:,} / {self.arrived:,}"),
            ("copies behind first arrivals", f"{self.copies:,}"),
            ("first arrivals in order, none missing", "no" if self.faults else "yes"),
        ]  # fmt: skip
        return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


class LongOutage:
    """One run: ``callbacks`` pile up while the broker is away."""

    def __init__(self, rabbitmq: RabbitMQ, folder: Path, callbacks: int) -> None:
        self.rabbitmq = rabbitmq
        self.url = rabbitmq.fresh_vhost()
        self.figures = Figures(callbacks)
        self.sample = max(2000, min(20_000, callbacks // 10))
        self.gateway = Gateway(
            folder,
            broker={"url": self.url, "reconnect_max_s": 1},
            sinks={"audit": {"kind": "jsonl", "path": "var/unused.jsonl"}},
        )
        self._load: _Load | None = None
        self._both_us = 0.0
        self.process = self.gateway.start("serve")

    def run(self) -> Figures:
        self._before()
        self._outage()
        self._restarts()
        self._return()
        self._look_at_the_queue()
        return self.figures

    def close(self) -> None:
        self.gateway.close()
        if self._load is not None:
            self._load.end()
        self.rabbitmq.ensure_running()
        self.rabbitmq.retire_vhost(self.url)

    def _before(self) -> None:
        self._send(self.sample // 4)  # what a first request costs is not measured
        eventually(self._is_all_published, "everything published", RETURN_S)
        cpu_s = self._cpu_s()
        load = self._load = _Load(lambda: self._send(self.sample), once=True)
        self.figures.published_before = self._published_per_s(lambda: load.is_over)
        load.end()
        eventually(self._is_all_published, "everything published", RETURN_S)
        self._both_us = (self._cpu_s() - cpu_s) / self.sample * 1e6
        self.figures.answers_before = self._best_of_three()
        eventually(self._is_all_published, "everything published", RETURN_S)

    def _outage(self) -> None:
        self.figures.rss_before_mb = self._rss_mb()
        self.rabbitmq.stop()
        self._send(self.figures.callbacks - 3 * self.sample)
        cpu_s = self._cpu_s()
        self.figures.answers_outage = self._best_of_three()
        self.figures.accept_us = (self._cpu_s() - cpu_s) / (3 * self.sample) * 1e6
        self.figures.publish_before_us = self._both_us - self.figures.accept_us
        self.figures.rss_after_mb = self._rss_mb()
        found = self._metrics()
        self.figures.backlog = int(found["gateway_journal_waiting_records"])
        self.figures.backlog_mb = found["gateway_journal_waiting_bytes"] / 1_048_576
        self.figures.oldest_s = found["gateway_journal_oldest_waiting_seconds"]
        self.figures.reminders = self.gateway.logs().count("wait on disk")
        self._expect(self.figures.backlog == self.figures.callbacks, f"{self.figures.backlog} wait")
        self._expect(self.figures.oldest_s > 0, "the metrics told no age of what waits")
        self._expect(self.figures.reminders >= 1, "the log told nothing of what waits")
        self._expect(self.gateway.get("/readyz")[0] == 200, "not ready though there is room")

    def _restarts(self) -> None:
        """Kill and start with the true cursor file, without one, and with one that says too little."""
        cursor = self.gateway.folder / "var/journal/cursor"
        self._kill()
        true = cursor.read_bytes()
        self._start("cursor file as it was")
        for what, change in (
            ("cursor file missing", cursor.unlink),
            ("cursor file damaged", lambda: cursor.write_bytes(b"\xff" * len(true))),
        ):
            self._kill()
            change()
            self._start(what)
        self._kill()
        cursor.write_bytes(true)
        self._start("cursor file stale")

    def _return(self) -> None:
        """Publish the backlog while callbacks come as fast as before."""
        self._expect(self._metric("journal_lost_records_total") == 0, "the restarts lost records")
        goal = self._metric("journal_head_position")
        self.rabbitmq.start()
        eventually(lambda: self._metric("events_published_total") > 0, "first events", RETURN_S)
        load = self._load = _Load(lambda: self._send(self.sample))
        before, cpu_s = self._metrics(), self._cpu_s()
        self.figures.published_after = self._published_per_s(
            lambda: self._metric("journal_cursor_position") >= goal
        )
        after, cpu_s = self._metrics(), self._cpu_s() - cpu_s
        self.figures.answers_after = load.end()
        eventually(self._is_all_published, "everything published", RETURN_S)
        accepted, published = (
            after[f"gateway_{name}"] - before[f"gateway_{name}"]
            for name in ("journal_head_position", "events_published_total")
        )
        self.figures.publish_after_us = (
            cpu_s / published * 1e6 - self.figures.accept_us * accepted / published
        )

    def _look_at_the_queue(self) -> None:
        self.figures.stored = int(self._metric("journal_head_position"))
        positions = asyncio.run(_positions(self.url, self.figures.stored))
        first_arrivals = list(dict.fromkeys(positions))
        self.figures.arrived = len(first_arrivals)
        self.figures.copies = len(positions) - len(first_arrivals)
        self._expect(self.figures.stored >= self.figures.acknowledged, "acknowledged more than stored")
        self._expect(first_arrivals == list(range(1, self.figures.stored + 1)), "not all in order")

    # Tools

    def _send(self, count: int) -> dict[str, Any]:
        """Send *count* callbacks as fast as they are answered; return the summary."""
        done = subprocess.run(
            [
                *(GATEWAY, "send", "--url", f"http://127.0.0.1:{self.gateway.port}/callback"),
                *("--app", "1400000000", "--count", str(count), "--connections", str(CONNECTIONS)),
                *("--timeout", "60", "--json"),  # how fast is measured, not a reason to fail
            ],
            cwd=self.gateway.folder, capture_output=True, text=True,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
        self.figures.acknowledged += found["ok"]
        self._expect(found["ok"] == count, f"of {count} callbacks only {found['ok']} were answered OK")
        return found

    def _best_of_three(self) -> dict[str, Any]:
        """Return the fastest of three: whatever else the machine does makes a run slower, never faster."""
        return min((self._send(self.sample) for _ in range(3)), key=lambda one: one["latency_ms"]["p99"])

    def _published_per_s(self, is_over: Callable[[], bool]) -> float:
        """Return the rate of publishing from its beginning until *is_over*."""
        seen = [(time.monotonic(), self._metric("events_published_total"))]
        ends_s = time.monotonic() + RETURN_S + self.figures.callbacks / LEAST_PER_S
        while not is_over():
            assert time.monotonic() < ends_s, "the backlog is not published"
            time.sleep(0.1)
            now = (time.monotonic(), self._metric("events_published_total"))
            if len(seen) == 1 and now[1] == seen[0][1]:
                seen.clear()  # the sender has not begun
            seen.append(now)
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])

    def _kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _start(self, what: str) -> None:
        started_s = time.monotonic()
        self.process = self.gateway.start("serve", wait=False)
        sender = Sender(self.gateway.port)
        eventually(lambda: sender.post(len(self.figures.starts_s)), f"a 200 with {what}")
        self.figures.starts_s[what] = time.monotonic() - started_s
        self.figures.acknowledged += len(sender.acknowledged)
        sender.close()

    def _expect(self, is_so: bool, otherwise: str) -> None:
        if not is_so and otherwise not in self.figures.faults:
            self.figures.faults.append(otherwise)

    def _metrics(self) -> dict[str, float]:
        return self.gateway.metrics()

    def _metric(self, name: str) -> float:
        return self._metrics()[f"gateway_{name}"]

    def _is_all_published(self) -> bool:
        return self._metric("journal_waiting_records") == 0

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _rss_mb(self) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        [kb] = (line.split()[1] for line in lines if line.startswith("VmRSS"))
        return int(kb) / 1024


class _Load:
    """Sends in a thread, again and again until told to end; keeps the last summary."""

    def __init__(self, send: Callable[[], dict[str, Any]], *, once: bool = False) -> None:
        self._send = send
        self._is_over = threading.Event()
        if once:
            self._is_over.set()
        self._last: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def end(self) -> dict[str, Any]:
        self._is_over.set()
        self._thread.join()
        return self._last

    def _run(self) -> None:
        while True:
            self._last = self._send()
            if self._is_over.is_set():
                return


async def _positions(url: str, least: int) -> list[int]:
    """Take everything out of the queue; return the journal positions in the order of arrival."""
    connection = await aiormq.connect(url)
    channel = await connection.channel()
    declared = await channel.queue_declare(QUEUE, passive=True)
    count = declared.message_count or 0
    positions: list[int] = []
    is_all = asyncio.Event()

    async def on_message(message: Any) -> None:
        at = message.body.index(_POSITION) + len(_POSITION)
        positions.append(int(message.body[at : at + 60].split(b".", 2)[1]))
        if len(positions) >= count:
            is_all.set()

    await channel.basic_qos(prefetch_count=2000)
    await channel.basic_consume(QUEUE, on_message, no_ack=True)
    if count:
        async with asyncio.timeout(60 + least / 1000):
            await is_all.wait()
    await connection.close()
    return positions


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.long_outage", description=__doc__)
    parser.add_argument("--callbacks", type=int, default=1_000_000, help="so many wait in the end")
    options = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    rabbitmq = RabbitMQ()
    try:
        with tempfile.TemporaryDirectory(prefix="long-outage-") as folder:
            outage = LongOutage(rabbitmq, Path(folder) / "gateway", options.callbacks)
            try:
                figures = outage.run()
            finally:
                outage.close()
    finally:
        rabbitmq.close()
    print(figures.render())
    said = [*figures.faults, *figures.slow()]
    for one in said:
        print(f"FAILED  {one}")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
