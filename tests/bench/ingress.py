"""Callbacks a second and processor time a callback, from socket to confirmed message, beside peers.

wrk with 256 connections; rounds interleaved, medians. What a gateway has accepted and not published when wrk
ends is published before its processor time is read, so that nothing is left out of it.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiormq

from gateway.signature import sign
from tests.bench.peers import TOKEN, Peers
from tests.services import RabbitMQ

CONNECTIONS = 256
_LUA = Path(__file__).with_name("callbacks.lua")


@dataclass(frozen=True)
class Result:
    """One round of one peer."""

    per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    bad: int
    """Answers other than 2xx, and errors of the socket."""
    rss_mb: float


def measure(rabbitmq: RabbitMQ, folder: Path, rounds: int, seconds: int, only: str = "") -> str:
    """Return the table in Markdown."""
    url = rabbitmq.fresh_vhost()
    asyncio.run(_declare(url))
    peers = Peers(folder, url)
    names = [name for name in peers.names if only in name]
    results: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            result = _round(peers, name, seconds)
            results[name].append(result)
            print(f"round {number + 1}: {name}: {result.per_s:,.0f}/s, {result.cpu_us:.0f} us", flush=True)
            asyncio.run(_empty(url))
    return _table(results) + "".join(f"\n\n{name}: left out, {why}" for name, why in peers.absent.items())


def _round(peers: Peers, name: str, seconds: int) -> Result:
    signs = peers.folder / "signs"
    now = int(time.time())
    signs.write_text("".join(f"{at} {sign(TOKEN, str(at))}\n" for at in range(now, now + seconds + 60)))
    with peers.running(name) as (port, process):
        time.sleep(1.0)  # what a start costs is not measured
        before_s = _cpu_s(process.pid)
        found = subprocess.run(
            ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(_LUA), f"http://127.0.0.1:{port}"],
            env={**os.environ, "BENCH_SIGNS": str(signs)}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        rss_mb = _rss_mb(process.pid)
        _until_idle(process.pid)
        cpu_s = _cpu_s(process.pid) - before_s
    count = int(_find(r"(\d+) requests in", found))
    bad = sum(map(int, re.findall(r"(?:Non-2xx or 3xx responses|connect|read|write|timeout):? (\d+)", found)))
    return Result(
        float(_find(r"Requests/sec:\s+([\d.]+)", found)), cpu_s / count * 1e6,
        _ms(_find(r"\n +50% +(\S+)", found)), _ms(_find(r"\n +99% +(\S+)", found)), bad, rss_mb,
    )  # fmt: skip


def _table(results: dict[str, list[Result]]) -> str:
    floor = next(
        (median(one.cpu_us for one in found) for name, found in results.items() if "only" in name), 0.0
    )
    confirmed = next(
        (median(one.per_s for one in found) for name, found in results.items() if "aio-pika" in name), 0.0
    )
    lines = [
        "| | callbacks/s | µs/callback | × floor's µs | × aiohttp + aio-pika | p50 ms | p99 ms | bad | RSS MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in results.items():
        per_s, cpu_us = median(one.per_s for one in found), median(one.cpu_us for one in found)
        lines.append(
            f"| {name} | {per_s:,.0f} | {cpu_us:.0f} | {cpu_us / floor if floor else 0:.2f}"
            f" | {per_s / confirmed if confirmed else 0:.1f} | {median(one.p50_ms for one in found):.1f}"
            f" | {median(one.p99_ms for one in found):.1f} | {sum(one.bad for one in found)}"
            f" | {max(one.rss_mb for one in found):.0f} |"
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
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
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


async def _empty(url: str) -> None:
    connection = await aiormq.connect(url)
    for queue in ("bench.queue", "im.sink.bench"):
        channel = await connection.channel()
        with suppress(aiormq.exceptions.ChannelNotFoundEntity):  # the gateway has not declared it yet
            await channel.queue_purge(queue)
    await connection.close()
