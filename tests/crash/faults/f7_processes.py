"""Several receivers on one port: one of them killed, and their supervisor."""

from __future__ import annotations

import os
import signal

from tests.crash.fault import fault
from tests.crash.scene import Scene
from tests.process_tree import is_running, processes_of

TWO = {"processes": 2}


@fault("processes: kill -9 of one of two receivers", rounds=20, short=3, listen=TWO)
def one_killed(scene: Scene) -> None:
    for number in range(scene.rounds):
        scene.run_for(scene.random.uniform(0.2, 1.5))
        assert scene.server is not None
        name = f"receiver {number % 2 + 1}"
        victim = processes_of(scene.server.pid)[name]
        os.kill(victim, signal.SIGKILL)
        pid = scene.server.pid
        scene.until(lambda: processes_of(pid).get(name, victim) != victim, "a successor")  # noqa: B023
        scene.until(lambda: scene.metric("processes_up") == TWO["processes"], "both receivers")


@fault("processes: kill -9 of the supervisor", rounds=10, short=2, listen=TWO)
def supervisor_killed(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(scene.random.uniform(0.2, 1.5))
        assert scene.server is not None
        left = list(processes_of(scene.server.pid).values())
        scene.kill(scene.server)
        scene.serve()
        scene.until(lambda: not any(map(is_running, left)), "the end of those that it has left")  # noqa: B023


@fault("processes: SIGTERM under load", rounds=2, short=1, listen=TWO)
def sigterm(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(scene.random.uniform(0.2, 1.0))
        code = scene.kill(scene.server, signal.SIGTERM)
        scene.expect(code == 0, f"after SIGTERM the exit code is {code}")
        scene.serve()
