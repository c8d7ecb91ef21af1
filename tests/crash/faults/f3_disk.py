"""The journal's disk: full, at a quota, failing, torn, damaged."""

from __future__ import annotations

import signal

from tests.crash.disk import FaultyDisk, damage_record, tear_tail
from tests.crash.fault import fault
from tests.crash.scene import Scene

MB = 1024 * 1024
TINY = {"max_mb": 16, "segment_mb": 1, "retain_mb": 1, "min_free_mb": 0}
KEEP_ALL = {"segment_mb": 1, "min_free_mb": 0}
AWAY = "amqp://guest:guest@127.0.0.1:1/"


def broker(scene: Scene, url: str) -> None:
    """Let a new gateway publish to *url*."""
    scene.kill(scene.server, signal.SIGTERM)
    scene.gateway.change(("broker", "url"), url)
    scene.serve()


@fault(
    "disk: the journal at its limit (max_mb) while the broker is away",
    is_alone=True,
    rounds=1,
    short=0,
    round_s=90,
    journal=TINY,
)
def at_its_limit(scene: Scene) -> None:
    full = "gateway_requests_refused_total{reason=journal_full}"
    for _ in range(scene.rounds):
        broker(scene, AWAY)
        scene.until(lambda: scene.metrics().get(full, 0) > 500, "refusals for lack of room", 60)
        scene.expect(scene.metric("journal_full") == 1, "the metric does not say that the journal is full")
        broker(scene, scene.url)
        scene.until_flowing()
        scene.until(lambda: scene.metric("journal_full") == 0, "room again")


def with_faulty_disk(scene: Scene) -> FaultyDisk:
    disk = FaultyDisk(scene.gateway.folder / "orders")
    scene.server = scene.gateway.start("serve", launcher=disk.launcher)
    scene.work()
    scene.load()
    scene.run_for(0.5)
    return disk


@fault("disk: no space left, by a quota", is_alone=True, rounds=2, short=1, journal=KEEP_ALL, starts=False)
def quota(scene: Scene) -> None:
    disk = with_faulty_disk(scene)
    full = "gateway_requests_refused_total{reason=journal_full}"
    for _ in range(scene.rounds):
        before = scene.metrics()[full]
        disk.limit(1 * MB)
        scene.until(lambda: scene.metrics().get(full, 0) > before + 300, "refusals")  # noqa: B023
        disk.mend()
        scene.until_flowing()


@fault("disk: a write fails (EIO)", is_alone=True, rounds=2, short=0, starts=False)
def write_error(scene: Scene) -> None:
    disk_error(scene, "fail_writes")


@fault("disk: an fdatasync fails (EIO)", is_alone=True, rounds=2, short=1, starts=False)
def sync_error(scene: Scene) -> None:
    disk_error(scene, "fail_syncs")


def disk_error(scene: Scene, what: str) -> None:
    """The process ends with 1 and has acknowledged nothing that the disk did not confirm."""
    disk = with_faulty_disk(scene)
    for _ in range(scene.rounds):
        getattr(disk, what)("EIO")
        assert scene.server is not None
        code = scene.server.wait(30)
        scene.expect(code == 1, f"the exit code is {code}")
        disk.mend()
        scene.server = scene.gateway.start("serve", launcher=disk.launcher)
        scene.until_flowing()


@fault("disk: kill -9 and a torn tail", is_alone=True, rounds=3, short=0)
def torn_tail(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(scene.random.uniform(0.2, 0.8))
        scene.kill(scene.server)
        tear_tail(scene.gateway.folder / "var/journal")
        scene.serve()


@fault("disk: a record damaged while it waits", is_alone=True, rounds=1, short=1)
def damaged_record(scene: Scene) -> None:
    """It is lost, counted and named; the only loss there may be."""
    for round_number in range(1, scene.rounds + 1):
        broker(scene, AWAY)
        scene.run_for(1.0)
        first, last = scene.metric("journal_cursor_position") + 1, scene.metric("journal_head_position")
        scene.kill(scene.server, signal.SIGTERM)
        position = scene.random.randint(int(first), int(last))
        damage_record(scene.gateway.folder / "var/journal", position)
        scene.damaged.append(position)
        scene.gateway.change(("broker", "url"), scene.url)
        scene.serve()
        scene.until_flowing()
        scene.expect(scene.metric("journal_lost_records_total") == 1, "the damaged record is not counted")
        scene.expect(f"positions {position} to {position}" in scene.log(), "the damaged record is not named")
        scene.expect(
            len(list((scene.gateway.folder / "var/journal/damaged").iterdir())) == round_number,
            "the damaged bytes are not set aside",
        )
