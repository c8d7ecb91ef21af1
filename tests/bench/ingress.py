"""Callbacks a second and processor time a callback, from socket to confirmed message, beside peers.

wrk with 256 connections; rounds interleaved, medians. What a gateway has accepted and not published when wrk
ends is published before its processor time is read, so that nothing is left out of it; and before what
stands in the queue is counted, so that whoever loses shows.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import aiormq

from gateway.signature import sign
from tests.bench.peers import TOKEN, Peers
from tests.process_tree import children_of
from tests.services import RabbitMQ

CONNECTIONS = 256
OVERLOAD = 4096
"""Connections with a request under way each: twice what listen.max_inflight lets in."""
QUEUES = ("bench.queue", "im.sink.bench")
_LUA = Path(__file__).with_name("callbacks.lua")


@dataclass(frozen=True)
class Result:
    """One round of one peer."""

    per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    slowest_ms: float
    answered: int
    """Answers, 2xx or not."""
    bad: int
    """Of those the other ones, and errors of the socket."""
    rss_mb: float
    queued: int | None = None
    """Events in the queue once all were published; None where the broker was away."""

    @property
    def lost(self) -> int:
        """How many of those that were answered 2xx stand in no queue."""
        return 0 if self.queued is None else max(0, self.answered - self.bad - self.queued)

    @property
    def doubled(self) -> int:
        """How many stand there beyond what was sent: the last request of each connection has no answer."""
        return 0 if self.queued is None else max(0, self.queued - self.answered - CONNECTIONS)


Results = dict[str, list[Result]]


def measure(
    rabbitmq: RabbitMQ, folder: Path, rounds: int, seconds: int, only: str = ""
) -> tuple[Results, str]:
    """Return all results and the tables in Markdown."""
    url = rabbitmq.fresh_vhost()
    asyncio.run(_declare(url))
    peers = Peers(folder, url)
    names = [name for name in peers.names if only in name]
    results: Results = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            result = _round(peers, name, seconds)
            results[name].append(result)
            print(f"round {number + 1}: {name}: {result.per_s:,.0f}/s, {result.cpu_us:.0f} us", flush=True)
            asyncio.run(_empty(url))
    said = _table(results) + "".join(f"\n\n{name}: left out, {why}" for name, why in peers.absent.items())
    for name in names:
        if name.startswith("gateway"):
            half = CONNECTIONS / median(one.per_s for one in results[name]) * 2
            results[f"{name}, half the rate"] = [_round(peers, name, seconds, delay_ms=half * 1000)]
            asyncio.run(_empty(url))
            results[f"{name}, overload"] = [_round(peers, name, seconds, connections=OVERLOAD)]
            asyncio.run(_empty(url))
    return results, f"{said}\n\n{_latencies(results)}"


def as_json(results: Results) -> dict[str, list[dict[str, float | int | None]]]:
    """Return *results* as what JSON can hold."""
    return {name: [asdict(one) for one in found] for name, found in results.items()}


def _round(
    peers: Peers, name: str, seconds: int, *, connections: int = CONNECTIONS, delay_ms: float = 0
) -> Result:
    signs = peers.folder / "signs"
    now = int(time.time())
    signs.write_text("".join(f"{at} {sign(TOKEN, str(at))}\n" for at in range(now, now + seconds + 60)))
    with peers.running(name) as (port, process):
        time.sleep(1.0)  # what a start costs is not measured
        before_s = _cpu_s(process.pid)
        found = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(_LUA), f"http://127.0.0.1:{port}"],
            env={**os.environ, "BENCH_SIGNS": str(signs), **({"BENCH_DELAY_MS": str(delay_ms)} if delay_ms else {})},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        rss_mb = _rss_mb(process.pid)
        _until_idle(process.pid)
        cpu_s = _cpu_s(process.pid) - before_s
        queued = None if "away" in name or "only" in name else asyncio.run(_queued(peers.url))
    count = int(_find(r"(\d+) requests in", found))
    bad = sum(map(int, re.findall(r"(?:Non-2xx or 3xx responses|connect|read|write|timeout):? (\d+)", found)))
    return Result(
        float(_find(r"Requests/sec:\s+([\d.]+)", found)), cpu_s / count * 1e6,
        *(_ms(_find(rf"\n *{what} +(\S+)", found)) for what in ("50%", "99%", "p99.9", "slowest")),
        count, bad, rss_mb, queued,
    )  # fmt: skip


def _table(results: dict[str, list[Result]]) -> str:
    floor = next(
        (median(one.cpu_us for one in found) for name, found in results.items() if "only" in name), 0.0
    )
    confirmed = next(
        (median(one.per_s for one in found) for name, found in results.items() if "aio-pika" in name), 0.0
    )
    lines = [
        "| | callbacks/s | µs/callback | × floor's µs | × aiohttp + aio-pika | p50 ms | p99 ms | p99.9 ms | bad"
        " | lost | doubled | RSS MB of one process |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in results.items():
        per_s, cpu_us = median(one.per_s for one in found), median(one.cpu_us for one in found)
        lines.append(
            f"| {name} | {per_s:,.0f} | {cpu_us:.0f} | {cpu_us / floor if floor else 0:.2f}"
            f" | {per_s / confirmed if confirmed else 0:.1f} | {median(one.p50_ms for one in found):.1f}"
            f" | {median(one.p99_ms for one in found):.1f} | {median(one.p999_ms for one in found):.1f}"
            f" | {sum(one.bad for one in found)} | {sum(one.lost for one in found)}"
            f" | {sum(one.doubled for one in found)} | {max(one.rss_mb for one in found):.0f} |"
        )
    return "\n".join(lines)


def _latencies(results: Results) -> str:
    """Return how long answers take at half of the highest rate, and with more callers than there is room for."""
    lines = [
        "| | callbacks/s | p50 ms | p99 ms | p99.9 ms | slowest ms | other than 200 | lost |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in results.items():
        if name.endswith(("half the rate", "overload")):
            one = found[0]
            lines.append(
                f"| {name} | {one.per_s:,.0f} | {one.p50_ms:.1f} | {one.p99_ms:.1f} | {one.p999_ms:.1f}"
                f" | {one.slowest_ms:.0f} | {one.bad} | {one.lost} |"
            )
    return "\n".join(lines)


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found, text
    return found[1]


def _ms(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def _cpu_s(pid: int) -> float:
    """Return what the process and those it has started have used."""
    return sum(map(_cpu_of_one_s, (pid, *children_of(pid))))


def _cpu_of_one_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    """Return what the largest of the process and those it has started has."""
    return max(map(_rss_of_one_mb, (pid, *children_of(pid))))


def _rss_of_one_mb(pid: int) -> float:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024  # type: ignore[index]


def _until_idle(pid: int) -> None:
    """Return once the process uses hardly any processor time: all that it accepted is published."""
    while True:
        before_s = _cpu_s(pid)
        time.sleep(0.5)
        if _cpu_s(pid) - before_s < 0.05:
            return


async def _declare(url: str) -> None:
    connection = await aiormq.connect(url)
    channel = await connection.channel()
    await channel.exchange_declare("bench.events", exchange_type="topic", durable=True)
    await channel.queue_declare("bench.queue", durable=True, arguments={"x-queue-type": "quorum"})
    await channel.queue_bind("bench.queue", "bench.events", routing_key="#")
    await connection.close()


async def _queued(url: str) -> int:
    """Return how many events stand in the queues, once that number stays."""
    connection = await aiormq.connect(url)
    last, ends_s = -1, time.monotonic() + 60
    while time.monotonic() < ends_s:
        found = 0
        for queue in QUEUES:
            channel = await connection.channel()
            with suppress(aiormq.exceptions.ChannelNotFoundEntity):  # the gateway has not declared it yet
                found += (await channel.queue_declare(queue, passive=True)).message_count or 0
        # Why twice the same, and not 0: a queue that is busy says 0 (RabbitMQ 3.10).
        if found == last and found:
            await connection.close()
            return found
        last = found
        await asyncio.sleep(0.5)
    await connection.close()
    return max(0, last)


async def _empty(url: str) -> None:
    connection = await aiormq.connect(url)
    for queue in QUEUES:
        channel = await connection.channel()
        with suppress(aiormq.exceptions.ChannelNotFoundEntity):  # the gateway has not declared it yet
            await channel.queue_purge(queue)
    await connection.close()
