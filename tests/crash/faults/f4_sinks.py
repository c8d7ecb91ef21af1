"""Worker and database: the worker killed, the database away, slow, refusing, locked."""

from __future__ import annotations

import time

from tests.crash.fault import fault
from tests.crash.scene import Scene
from tests.tcp_proxy import TcpProxy

SMALL_BATCHES = {
    "crm": {
        "kind": "postgres",
        "batch_max_events": 50,
        "batch_max_wait_ms": 0,
        "write_timeout_s": 5,
        "concurrency": 4,
    },
    "audit": {"kind": "jsonl", "path": "var/events.jsonl"},
}


def kill_workers(scene: Scene) -> None:
    """Kill worker after worker: half of them with events that they can't write, so that the same ones return."""
    held = scene.rounds // 2
    with scene.postgres.locked(scene.dsn, "im_events"):
        for _ in range(held):
            scene.kill(scene.worker)
            scene.work()
            scene.until(lambda: _held(scene) > 0, "the worker holds events")
    for _ in range(scene.rounds - held):
        scene.run_for(scene.random.uniform(0.0, 0.5))
        scene.kill(scene.worker)
        scene.work()


def _held(scene: Scene) -> float:
    return scene.metrics(of_worker=True).get("gateway_sink_unacked_events{sink=crm}", 0.0)


@fault(
    "worker: kill -9, half of the times with events it can't write", rounds=60, short=4, sinks=SMALL_BATCHES
)
def worker_killed(scene: Scene) -> None:
    kill_workers(scene)


@fault(
    "control: the same on a queue without our delivery limit and with a policy of 20",
    rounds=60, short=0, sinks=SMALL_BATCHES, broker={"declare": "off"}, starts=False, must_lose=True,
)  # fmt: skip
def worker_killed_without_limit(scene: Scene) -> None:
    """Shows that the count would see a loss: RabbitMQ drops what came back 20 times."""
    scene.gateway.command("topology", "apply")
    queue = "im.sink.crm"
    scene.rabbitmq.manage("DELETE", f"/api/queues/{scene.vhost}/{queue}")
    scene.rabbitmq.manage(
        "PUT", f"/api/queues/{scene.vhost}/{queue}",
        {"durable": True, "arguments": {"x-queue-type": "quorum"}},
    )  # fmt: skip
    scene.rabbitmq.manage(
        "POST", f"/api/bindings/{scene.vhost}/e/{queue}/q/{queue}", {"routing_key": "", "arguments": {}}
    )
    scene.rabbitmq.policy(scene.vhost, "limit", "^im.sink.crm$", {"delivery-limit": 20})
    scene.start()
    kill_workers(scene)


@fault("postgresql: stopped and started", rounds=1, short=0)
def stopped(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(0.3)
        scene.postgres.stop()
        scene.run_for(3.0)
        scene.postgres.start()
        until_written(scene)


@fault("postgresql: killed -9 and started", rounds=2, short=1)
def killed(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(scene.random.uniform(0.1, 1.0))
        scene.postgres.kill()
        scene.run_for(0.5)
        scene.postgres.start()
        until_written(scene)


@fault("postgresql: all its connections ended", rounds=3, short=0)
def disconnected(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(scene.random.uniform(0.1, 0.6))
        scene.postgres.disconnect(scene.dsn)
    until_written(scene)


@fault("postgresql: refuses connections", rounds=1, short=0)
def refusing(scene: Scene) -> None:
    name = scene.dsn.rpartition("/")[2]
    for _ in range(scene.rounds):
        scene.postgres.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        scene.postgres.disconnect(scene.dsn)
        scene.run_for(3.0)
        scene.postgres.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        until_written(scene)


@fault("postgresql: read-only, as a standby after a failover", rounds=1, short=0)
def read_only(scene: Scene) -> None:
    name = scene.dsn.rpartition("/")[2]
    for _ in range(scene.rounds):
        scene.postgres.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        scene.postgres.disconnect(scene.dsn)
        scene.run_for(3.0)
        scene.postgres.sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        scene.postgres.disconnect(scene.dsn)
        until_written(scene)


@fault(
    "postgresql: the sink's table locked for longer than a write may take",
    rounds=1,
    short=0,
    sinks=SMALL_BATCHES,
)
def locked(scene: Scene) -> None:
    for _ in range(scene.rounds):
        with scene.postgres.locked(scene.dsn, "im_events"):
            scene.run_for(7.0)
        until_written(scene)


@fault("postgresql: slow, then silent, then cut off", rounds=1, short=1, sinks=SMALL_BATCHES, starts=False)
def slow(scene: Scene) -> None:
    with TcpProxy(scene.postgres.port) as proxy:
        scene.gateway.change(("sinks", "crm", "dsn"), proxy.through(scene.dsn))
        scene.start()
        for _ in range(scene.rounds):
            proxy.slow(20_000)
            scene.run_for(4.0)
            proxy.stall("down")  # rows are written, the answer does not come
            scene.run_for(6.0)
            proxy.cut()
            proxy.flow()
            until_written(scene)
        scene.kill(scene.worker)
        scene.gateway.change(("sinks", "crm", "dsn"), scene.dsn)


def until_written(scene: Scene) -> None:
    """Wait until the database takes new events."""
    name = "gateway_sink_written_total{sink=crm}"
    before = scene.metrics(of_worker=True).get(name, 0.0)
    took_s = scene.until(lambda: scene.metrics(of_worker=True).get(name, 0.0) > before + 50, "rows", 60)
    if took_s > 20:
        scene.notes.append(f"rows came again only after {took_s:.0f} s")
    time.sleep(0.1)
