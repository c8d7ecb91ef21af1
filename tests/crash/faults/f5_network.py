"""The network in front: callers that hang up, stop in the middle, say nothing, or drip."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crash.fault import fault
from tests.crash.scene import Scene

BAD_CLIENTS = Path(__file__).parent.parent / "bad_clients.py"
P99_MS = 100.0


@contextmanager
def bad_clients(scene: Scene, kind: str, count: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, BAD_CLIENTS, kind, str(scene.gateway.port), str(count)])
    try:
        yield
        assert process.poll() is None, f"the clients of kind {kind} have ended"
    finally:
        process.kill()
        process.wait()


def others_go_on(scene: Scene, kind: str, count: int, seconds: float) -> None:
    """Let *count* such callers loose, and look at what everybody else sees meanwhile."""
    for _ in range(scene.rounds):
        with bad_clients(scene, kind, count):
            scene.run_for(2.0 + count / 1000)
            since_ms = scene.now_ms()
            scene.run_for(seconds)
            p99_ms = scene.p99_ms(since_ms)
            scene.expect_fast(p99_ms < P99_MS, f"p99 of the others is {p99_ms:.0f} ms")
            scene.notes.append(f"p99 of the others: {p99_ms:.1f} ms")


@fault("network: 50 callers that hang up in the middle, again and again", rounds=1, short=1)
def hanging_up(scene: Scene) -> None:
    others_go_on(scene, "hang-up", 50, 5.0)


@fault("network: 200 callers that send half a body", rounds=1, short=0)
def half_bodies(scene: Scene) -> None:
    others_go_on(scene, "half-body", 200, 5.0)


@fault("network: 2,000 idle connections", rounds=1, short=1)
def idle_connections(scene: Scene) -> None:
    others_go_on(scene, "idle", 2000, 5.0)
    scene.expect(scene.metric("connections_open") >= 64, "the senders' connections are gone")


@fault("network: 200 callers that send a byte a second", rounds=1, short=0)
def dripping(scene: Scene) -> None:
    others_go_on(scene, "drip", 200, 7.0)
