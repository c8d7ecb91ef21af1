"""RabbitMQ: away, killed, silent, and what an operator can do to it."""

from __future__ import annotations

import re
import signal
import time

from tests.crash.fault import fault
from tests.crash.scene import Scene
from tests.tcp_proxy import TcpProxy

QUICK = {"heartbeat_s": 2, "connect_timeout_s": 2, "confirm_timeout_s": 5}


@fault("rabbitmq: stopped and started", rounds=1, short=0, round_s=60)
def stopped(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(0.3)
        scene.rabbitmq.stop()
        scene.run_for(1.0)
        scene.rabbitmq.start()
        scene.until_flowing()


@fault("rabbitmq: killed -9 and started", rounds=2, short=1, round_s=60)
def killed(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(scene.random.uniform(0.7, 1.5))
        scene.rabbitmq.kill()
        scene.run_for(1.0)
        scene.rabbitmq.start()
        scene.until_flowing()


@fault("rabbitmq: absent when gateway and worker start", rounds=1, short=0, round_s=60, starts=False)
def absent(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.rabbitmq.stop()
        scene.serve()
        scene.work()
        scene.load()
        scene.run_for(1.5)
        scene.rabbitmq.start()
        scene.until_flowing()
        scene.end_load()
        scene.kill(scene.server, signal.SIGTERM)
        scene.kill(scene.worker, signal.SIGTERM)
    scene.serve()
    scene.work()
    scene.load()


@fault("rabbitmq: all connections closed by the operator", rounds=3, short=0)
def connections_closed(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(0.5)
        scene.rabbitmq.close_connections()
        scene.until_flowing()


@fault("rabbitmq: memory alarm for 10 s", rounds=1, short=0, round_s=60)
def memory_alarm(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.rabbitmq.ctl("set_vm_memory_high_watermark", "0.00001")
        scene.until(lambda: scene.metric("broker_blocked") == 1, "the alarm is noticed")
        scene.run_for(10.0)
        scene.rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
        scene.until_flowing()
    _no_deadline_ran(scene)


@fault("rabbitmq: disk alarm for 10 s", rounds=1, short=0, round_s=60)
def disk_alarm(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.rabbitmq.ctl("set_disk_free_limit", str(10**15))
        scene.until(lambda: scene.metric("broker_blocked") == 1, "the alarm is noticed")
        scene.run_for(10.0)
        scene.rabbitmq.ctl("set_disk_free_limit", str(10**7))
        scene.until_flowing()
    _no_deadline_ran(scene)


def _no_deadline_ran(scene: Scene) -> None:
    late = scene.metric("publish_failures_total{reason=deadline}")
    scene.expect(late == 0, f"{late:.0f} deadlines ran while the broker did not read")


@fault("rabbitmq: the events exchange deleted while running", rounds=2, short=1)
def events_exchange_deleted(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(0.5)
        scene.rabbitmq.manage("DELETE", f"/api/exchanges/{scene.vhost}/im.events")
        scene.until_flowing()


@fault("rabbitmq: the alternate exchange and its queue deleted while running", rounds=2, short=0)
def alternate_deleted(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(0.5)
        scene.rabbitmq.manage("DELETE", f"/api/exchanges/{scene.vhost}/im.unrouted")
        scene.rabbitmq.manage("DELETE", f"/api/queues/{scene.vhost}/im.unrouted")
        scene.until_flowing()


LOOK_S = 1.5  # a look each second, and the time to write the line


def delete(scene: Scene, path: str, name: str) -> None:
    """Delete an object as an operator does; it is to be noticed and named within about a second."""
    said = scene.log().count("Somebody deleted")
    scene.rabbitmq.manage("DELETE", path)
    took_s = scene.until(lambda: scene.log().count("Somebody deleted") > said, f"a line that {name} is gone")
    scene.expect_fast(took_s < LOOK_S, f"that {name} is gone was noticed only after {took_s:.1f} s")
    line = [one for one in scene.log().splitlines() if "Somebody deleted" in one][-1]
    scene.expect(name in line, f"{name} is not named")


def replays(scene: Scene) -> list[list[str]]:
    """Return the commands that the log has to bring back what was missed, as words."""
    found = re.findall(r"gateway (journal replay --sink \S+ --since \S+ --until [^\s\"]+)", scene.log())
    return [words.split() for words in dict.fromkeys(found)]


def replay_as_said(scene: Scene) -> None:
    scene.until(lambda: len(replays(scene)) >= scene.rounds, "a command for each replay in the log")
    for words in replays(scene):
        scene.gateway.command(*words, "--rate", "0")


@fault(
    "rabbitmq: a sink's queue deleted with events in it, then replayed",
    rounds=1,
    short=1,
    round_s=60,
    is_alone=True,
)
def queue_deleted(scene: Scene) -> None:
    """What stood in it is the operator's deletion; the journal has it all the same."""
    for _ in range(scene.rounds):
        since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - 2))
        scene.kill(scene.worker)
        scene.run_for(1.0)
        delete(scene, f"/api/queues/{scene.vhost}/im.sink.crm", "queue im.sink.crm")
        scene.run_for(0.5)
        scene.work()
        scene.until_flowing()
        words = ("journal", "replay", "--sink", "crm", "--since", since, "--rate", "0")
        scene.notes.append(scene.gateway.command(*words).strip().splitlines()[-1])


@fault(
    "rabbitmq: a sink's exchange deleted, then what the log says",
    rounds=1,
    short=1,
    keeps_order=False,
    is_alone=True,
)
def sink_exchange_deleted(scene: Scene) -> None:
    """Another sink takes the events, so AMQP tells nobody; the log's own command brings them back."""
    for _ in range(scene.rounds):
        scene.run_for(0.5)
        delete(scene, f"/api/exchanges/{scene.vhost}/im.sink.crm", "exchange im.sink.crm")
        scene.until_flowing()
    replay_as_said(scene)


@fault(
    "rabbitmq: a sink's binding deleted, then what the log says",
    rounds=1,
    short=0,
    keeps_order=False,
    is_alone=True,
)
def binding_deleted(scene: Scene) -> None:
    for _ in range(scene.rounds):
        scene.run_for(0.5)
        delete(scene, f"/api/bindings/{scene.vhost}/e/im.events/e/im.sink.crm/%23", "binding")
        scene.until_flowing()
    replay_as_said(scene)


@fault("rabbitmq: events that no queue takes", rounds=1, short=1, starts=False, sinks={
    "crm": {"kind": "postgres", "events": ["im.group.member.exited.#"]},
    "audit": {"kind": "jsonl", "path": "var/events.jsonl", "events": ["im.group.member.exited.#"]},
})  # fmt: skip
def unrouted(scene: Scene) -> None:
    """Two of the three kinds stand in im.unrouted until a sink takes them: then all of them are there."""
    scene.start()
    scene.run_for(3.0)
    scene.until(lambda: (scene.rabbitmq.ready(scene.vhost, "im.unrouted") or 0) > 1000, "unrouted events")
    scene.kill(scene.server, signal.SIGTERM)
    scene.kill(scene.worker, signal.SIGTERM)
    scene.end_load()
    for sink in ("crm", "audit"):
        scene.gateway.change(("sinks", sink, "events"), ["#"])
    scene.serve()
    scene.work()
    said = scene.gateway.command("topology", "rescue")
    scene.notes.append(said.strip())
    scene.load()


@fault("rabbitmq: a policy makes one sink's queue refuse", rounds=1, short=1, round_s=60, keeps_order=False)
def refusing_queue(scene: Scene) -> None:
    nacked = "publish_failures_total{reason=nacked}"
    for _ in range(scene.rounds):
        scene.kill(scene.worker, signal.SIGTERM)
        refused = scene.metric(nacked)
        limit = {"max-length": 1, "overflow": "reject-publish"}
        scene.rabbitmq.policy(scene.vhost, "full", "^im.sink.crm$", limit)
        scene.until(lambda: scene.metric(nacked) > refused, "a refusal")  # noqa: B023
        scene.run_for(2.0)  # what was under way is answered
        before, refused = scene.rabbitmq.ready(scene.vhost, "im.sink.audit") or 0, scene.metric(nacked)
        scene.run_for(6.0)
        copies = (scene.rabbitmq.ready(scene.vhost, "im.sink.audit") or 0) - before
        probes = scene.metric(nacked) - refused
        scene.expect(copies <= probes + 3, f"{copies} copies to the healthy sink by {probes:.0f} probes")
        scene.expect("im.sink.crm" in _refusals(scene), "the log does not name the queue that refuses")
        scene.rabbitmq.manage("DELETE", f"/api/policies/{scene.vhost}/full")
        scene.work()
        scene.until_flowing()


def _refusals(scene: Scene) -> str:
    return "\n".join(line for line in scene.log().splitlines() if "refuse" in line)


@fault("rabbitmq: the user's rights revoked while running", rounds=1, short=0)
def rights_revoked(scene: Scene) -> None:
    whole = {"configure": ".*", "write": ".*", "read": ".*"}
    for lacking in [{**whole, name: "^$"} for name in ("write", "read", "configure")] * scene.rounds:
        scene.run_for(0.3)
        scene.rabbitmq.manage("PUT", f"/api/permissions/{scene.vhost}/guest", lacking)
        scene.rabbitmq.close_connections()  # rights are looked up at leisure; now they are
        scene.run_for(2.0)
        scene.rabbitmq.manage("PUT", f"/api/permissions/{scene.vhost}/guest", whole)
        scene.until_flowing()


def through_proxy(scene: Scene) -> TcpProxy:
    proxy = TcpProxy(scene.rabbitmq.port)
    scene.gateway.change(("broker", "url"), proxy.through(scene.url))
    scene.start()
    return proxy


def _without_proxy(scene: Scene) -> None:
    scene.kill(scene.worker, signal.SIGTERM)
    scene.gateway.change(("broker", "url"), scene.url)
    scene.work()
    scene.kill(scene.server, signal.SIGTERM)  # Why last: every second without it is a thousand unanswered
    scene.serve()


def _broken_network(scene: Scene, act: str, *arguments: str | int, seconds: float) -> None:
    with through_proxy(scene) as proxy:
        for _ in range(scene.rounds):
            scene.run_for(0.5)
            getattr(proxy, act)(*arguments)
            scene.run_for(seconds)
            proxy.flow()
            scene.until_flowing(60)
        _without_proxy(scene)


@fault(
    "rabbitmq: killed -9 with a thousand publishes unconfirmed", rounds=1, short=1, round_s=60, starts=False
)
def killed_with_unconfirmed(scene: Scene) -> None:
    with through_proxy(scene) as proxy:
        for _ in range(scene.rounds):
            proxy.refuse()
            scene.until(lambda: scene.metric("journal_waiting_records") >= 5000, "a backlog")
            proxy.flow()  # what waits goes out as fast as it can
            scene.until(lambda: scene.metric("publish_unconfirmed") >= 1000, "1,000 unconfirmed")
            scene.rabbitmq.kill()
            scene.rabbitmq.start()
            scene.until_flowing()
        _without_proxy(scene)


@fault("rabbitmq: connections cut", rounds=3, short=0, starts=False, broker=QUICK)
def cut(scene: Scene) -> None:
    _broken_network(scene, "cut", seconds=0.5)


@fault(
    "rabbitmq: half-open connections, the client's side is gone",
    rounds=1,
    short=0,
    starts=False,
    broker=QUICK,
    keeps_order=False,
)
def half_open(scene: Scene) -> None:
    _broken_network(scene, "half_open", seconds=1.0)


@fault(
    "rabbitmq: the network stalls both ways for 12 s",
    rounds=1,
    short=0,
    round_s=90,
    starts=False,
    broker=QUICK,
    keeps_order=False,
)
def stall(scene: Scene) -> None:
    _broken_network(scene, "stall", "both", seconds=12.0)


@fault(
    "rabbitmq: publishes do not get there for 12 s",
    rounds=1,
    short=0,
    round_s=90,
    starts=False,
    broker=QUICK,
    keeps_order=False,
)
def stall_up(scene: Scene) -> None:
    _broken_network(scene, "stall", "up", seconds=12.0)


@fault(
    "rabbitmq: confirms and deliveries do not get back for 12 s",
    rounds=1,
    short=0,
    round_s=90,
    starts=False,
    broker=QUICK,
    keeps_order=False,
)
def stall_down(scene: Scene) -> None:
    _broken_network(scene, "stall", "down", seconds=12.0)


@fault("rabbitmq: accepts TCP and says nothing", rounds=1, short=1, round_s=90, starts=False, broker=QUICK)
def mute(scene: Scene) -> None:
    with through_proxy(scene) as proxy:
        for _ in range(scene.rounds):
            proxy.mute()
            proxy.cut()
            scene.run_for(5.0)
            proxy.flow()
            scene.until_flowing(60)
        _without_proxy(scene)


@fault(
    "rabbitmq: 1 kB a second for 10 s",
    rounds=1,
    short=0,
    round_s=90,
    starts=False,
    broker=QUICK,
    keeps_order=False,
)
def slow(scene: Scene) -> None:
    _broken_network(scene, "slow", 1000, seconds=10.0)
