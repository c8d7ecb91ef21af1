"""The gateway's process: killed at random and at named points, told to stop, frozen."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.crash.fault import fault
from tests.crash.scene import Scene

DIE_AT = Path(__file__).parent.parent / "die_at.py"
SMALL_SEGMENTS = {"segment_mb": 1, "retain_mb": 1, "min_free_mb": 0}


@fault("gateway: kill -9 at random moments", rounds=50, short=3)
def kill_at_random(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(scene.random.uniform(0.05, 1.5))
        scene.kill(scene.server)
        scene.serve()


def die_at(scene: Scene, point: str, most: int) -> None:
    """Let gateway after gateway run until it dies at *point*, at the first to the *most*-th time it gets there."""
    for _ in range(scene.rounds):
        scene.kill(scene.server)
        nth = scene.random.randint(1, most)
        scene.server = scene.gateway.start("serve", launcher=(sys.executable, str(DIE_AT), point, str(nth)))
        assert scene.server.wait(25) == -signal.SIGKILL, f"it did not come to {point}"
        scene.serve()
        scene.run_for(0.3)


@fault("gateway: kill -9 before the commit", rounds=3, short=1, is_alone=True)
def before_commit(scene: Scene) -> None:
    die_at(scene, "before-commit", 300)


@fault("gateway: kill -9 after the commit, before the answer", rounds=3, short=0, is_alone=True)
def after_commit(scene: Scene) -> None:
    die_at(scene, "after-commit", 300)


@fault("gateway: kill -9 after the publish, before its confirm is seen", rounds=3, short=1, is_alone=True)
def before_confirm(scene: Scene) -> None:
    die_at(scene, "before-confirm", 100)


@fault("gateway: kill -9 after the confirm, before the cursor moves", rounds=3, short=0, is_alone=True)
def before_cursor(scene: Scene) -> None:
    die_at(scene, "before-cursor", 100)


@fault(
    "gateway: kill -9 while segments are trimmed", rounds=2, short=1, is_alone=True, journal=SMALL_SEGMENTS
)
def while_trimming(scene: Scene) -> None:
    die_at(scene, "while-trimming", 1)


@fault("gateway: SIGTERM under load", rounds=2, short=1)
def sigterm(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(scene.random.uniform(0.2, 1.0))
        code = scene.kill(scene.server, signal.SIGTERM)
        scene.expect(code == 0, f"after SIGTERM the exit code is {code}")
        scene.serve()


@fault("gateway: SIGTERM twice under load", rounds=2, short=0, listen={"drain_s": 30})
def sigterm_twice(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(scene.random.uniform(0.2, 1.0))
        assert scene.server is not None
        scene.server.send_signal(signal.SIGTERM)
        scene.run_for(scene.random.uniform(0.0, 0.3))
        code = scene.kill(scene.server, signal.SIGTERM)
        scene.expect(code == 0, f"after the second SIGTERM the exit code is {code}")
        scene.serve()


@fault("gateway: frozen for 5 s (SIGSTOP)", rounds=1, short=0)
def freeze(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(0.5)
        assert scene.server is not None
        scene.server.send_signal(signal.SIGSTOP)
        scene.run_for(5.0)
        scene.server.send_signal(signal.SIGCONT)
        scene.until_flowing()
