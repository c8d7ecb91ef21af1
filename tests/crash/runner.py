"""Runs faults one after the other and keeps each within its time."""

from __future__ import annotations

import signal
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

from tests.crash.fault import Fault
from tests.crash.scene import SETTLE_S, Scene
from tests.crash.table import Row
from tests.services import Postgres, RabbitMQ

_AROUND_S = SETTLE_S + 240.0


def run_fault(
    fault: Fault,
    rounds: int,
    rabbitmq: RabbitMQ,
    postgres: Postgres,
    *,
    is_timed: bool = False,
    processes: int = 1,
) -> Row:
    """Return the row of *fault*; what goes wrong on the way stands in its ``faults``.

    *processes*: ``listen.processes``, where the fault does not say itself.
    """
    with tempfile.TemporaryDirectory(prefix="gateway-crash-") as folder:
        # Why deep: a scene fills in what the fault leaves open.
        sections = deepcopy(dict(fault.sections))
        sections["listen"] = {"processes": processes, **sections.get("listen", {})}
        scene = Scene(rabbitmq, postgres, Path(folder) / "gateway", rounds, sections, is_timed=is_timed)
        try:
            if fault.starts:
                scene.start()
            fault.inject(scene)
            return scene.finish(fault.name, keeps_order=fault.keeps_order, must_lose=fault.must_lose)
        except Exception as error:
            error.add_note(f"The last lines of the gateway's log:\n{scene.log()[-4000:]}")
            raise
        finally:
            scene.close()


def run_bounded(
    fault: Fault, rounds: int, rabbitmq: RabbitMQ, postgres: Postgres, *, is_timed: bool, processes: int
) -> Row:
    """Return the row of *fault*, also when it fails or does not end in time. Main thread only."""
    try:
        with _within(fault.round_s * rounds + _AROUND_S):
            return run_fault(fault, rounds, rabbitmq, postgres, is_timed=is_timed, processes=processes)
    except Exception:  # noqa: BLE001 - the other faults are to be tried all the same
        return Row(fault.name, rounds, 0, 0, 0, 0, 0, 0, 0, 0, 0, faults=[traceback.format_exc()])


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    def too_late(number: int, frame: object) -> None:
        raise TimeoutError(f"not done within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
