"""The clock of the gateway's machine jumps an hour, forwards and back; Sign is on."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.crash.fault import fault
from tests.crash.scene import Scene

JUMP_CLOCK = Path(__file__).parent.parent / "jump_clock.py"
TOKEN = "a-token-of-the-tests"
SIGNED = {"1400000000": {"tokens": [TOKEN]}}
JUMPS = (3600, 0, -3600, 0)


def jump(offset_s: int, clock: Path) -> None:
    fresh = clock.with_suffix(".new")
    fresh.write_text(str(offset_s))
    fresh.replace(clock)


def serve_by(scene: Scene, clock: Path) -> None:
    clock.write_text("0")
    scene.server = scene.gateway.start("serve", launcher=(sys.executable, str(JUMP_CLOCK), str(clock)))
    scene.work()
    scene.load()
    scene.run_for(1.0)


@fault(
    "clock: an hour forwards and back, then backwards and back; Sign on",
    is_alone=True,
    rounds=1,
    short=1,
    starts=False,
    apps=SIGNED,
)
def refused_loudly(scene: Scene) -> None:
    """Meanwhile every Sign is stale: refused, counted and said; nothing acknowledged is lost."""
    clock = scene.gateway.folder / "clock"
    serve_by(scene, clock)
    stale = "gateway_requests_refused_total{reason=stale_signature}"
    for _ in range(scene.rounds):
        for offset_s in JUMPS:
            jump(offset_s, clock)
            if not offset_s:
                scene.until_flowing()
                continue
            before = scene.metrics()[stale]
            scene.until(lambda: scene.metrics().get(stale, 0) > before + 500, "refusals as stale")  # noqa: B023
            skew_s = scene.metric("clock_skew_seconds{app=1400000000}")
            scene.expect(abs(abs(skew_s) - 3600) < 60, f"the skew is shown as {skew_s:.0f} s")
    scene.expect(
        "refused as stale" in scene.log(), "no line in the log says that callbacks are refused as stale"
    )


@fault(
    "clock: the same with a window of two hours, so that all are taken", is_alone=True, rounds=1, short=0, starts=False,
    apps=SIGNED, listen={"signature_window_s": 7200},
)  # fmt: skip
def taken_all_the_same(scene: Scene) -> None:
    """Ids and order hold, whatever the time of receipt says."""
    clock = scene.gateway.folder / "clock"
    serve_by(scene, clock)
    for _ in range(scene.rounds):
        for offset_s in JUMPS:
            jump(offset_s, clock)
            scene.run_for(1.5)
    scene.expect(
        scene.metrics().get("gateway_requests_refused_total{reason=stale_signature}", 1) == 0,
        "some were refused",
    )
