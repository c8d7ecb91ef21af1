"""Several processes on one port (`listen.processes`), as a user starts them; RabbitMQ is a real one."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
import urllib.request
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from gateway import build, sums
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.metrics import Metrics
from gateway.processes import slot as slot_module
from gateway.processes.slot import Slot
from gateway.processes.task import Task, Words
from gateway.recent import Recent
from tests.gateway_process import SAMPLE, Gateway, body_of, eventually, number_of
from tests.process_tree import is_running, processes_of
from tests.services.processes import free_ports

SINKS = {"audit": {"kind": "jsonl", "path": "var/events.jsonl"}}


@pytest.fixture
def make(tmp_path, amqp_url):
    """Return a function that makes a Gateway of two processes on RabbitMQ."""
    made = []

    def build(**sections):
        listen = {"processes": 2, **sections.pop("listen", {})}
        broker = {
            "url": amqp_url,
            "reconnect_min_s": 0.1,
            "reconnect_max_s": 0.5,
            **sections.pop("broker", {}),
        }
        made.append(Gateway(tmp_path / str(len(made)), listen=listen, broker=broker, sinks=SINKS, **sections))
        made[-1].broker_url = broker["url"]
        return made[-1]

    yield build
    for gateway in made:
        children = [pid for one in gateway.processes for pid in processes_of(one.pid).values()]
        gateway.close()
        for pid in children:
            eventually(lambda pid=pid: not is_running(pid), "the end of a child")


def post(gateway, numbers, connections=8):
    """Post callbacks over several connections, one after the other; return those that were acknowledged."""
    senders = [gateway.sender() for _ in range(connections)]
    return [number for number in numbers if senders[number % connections].post(number)]


def journals_of(gateway):
    """Return the journals that events came from."""
    return {line["position"].split(".")[0] for line in gateway.lines()}


def arrived(gateway):
    return {number_of(line) for line in gateway.lines()}


def stored(gateway):
    return gateway.metrics().get("gateway_callbacks_stored_total{app=1400000000}", 0)


def test_callbacks_are_spread_and_counted_as_one(make):
    """Connections go to both; one page has the sum, and one line says that the gateway is ready."""
    gateway = make()
    process = gateway.start("run")
    assert sorted(processes_of(process.pid)) == ["receiver 1", "receiver 2", "worker"]

    acknowledged = post(gateway, range(128), connections=64)
    eventually(lambda: len(arrived(gateway)) == 128, "all events")

    assert acknowledged == list(range(128))
    assert len(journals_of(gateway)) == 2
    found = gateway.metrics()
    assert found["gateway_callbacks_stored_total{app=1400000000}"] == 128
    assert found["gateway_answer_seconds_count"] == 128
    assert found["gateway_journal_head_position"] == 128
    assert found["gateway_processes_up"] == 2
    eventually(
        lambda: gateway.metrics()["gateway_sink_written_total{sink=audit}"] == 128, "the worker's count"
    )
    status, told = gateway.get("/readyz")
    assert (status, json.loads(told)["causes"]) == (200, [])
    assert gateway.stop(process) == 0
    assert (gateway.folder / "0-run.out").read_text().count("is ready") == 1


def test_the_api_is_answered_by_the_supervisor(make):
    """Parked events, journals, events and overview of all processes, on the one admin port."""
    gateway = make()
    gateway.start("run")

    post(gateway, range(64), connections=64)

    assert gateway.get("/api/sinks/audit/dead")[0] == 200
    journals = eventually(
        lambda: len(found := told(gateway, "journal")["journals"]) == 2 and found, "journals"
    )
    assert sum(one["head"] for one in journals) == 64
    assert min(one["head"] for one in journals) > 0
    eventually(lambda: len(told(gateway, "events")["events"]) >= 2, "events of the console")
    # Why not at once: what the overview shows may be as old as a second.
    eventually(lambda: told(gateway, "overview")["now"]["requests"]["stored"] == 64, "all in the overview")


def told(gateway, name):
    return json.loads(gateway.get(f"/api/{name}")[1])


@pytest.mark.parametrize("name", ["receiver 1", "receiver 2"])
def test_a_killed_child_comes_back_and_nothing_is_lost(make, name):
    """What it had acknowledged waits in its journal; what it counted stays counted."""
    gateway = make()
    process = gateway.start("run")
    acknowledged, ends = [], threading.Event()

    def load():
        number = 0
        while not ends.is_set():
            acknowledged.extend(post(gateway, range(number, number + 16), connections=16))
            number += 16

    loading = threading.Thread(target=load)
    loading.start()
    try:
        eventually(lambda: len(acknowledged) > 200, "load")
        before = stored(gateway)
        victim = processes_of(process.pid)[name]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: processes_of(process.pid).get(name, victim) != victim, "a successor")
        after = stored(gateway)
        eventually(lambda: gateway.metrics()["gateway_processes_up"] == 2, "both")
    finally:
        ends.set()
        loading.join()

    assert after >= before
    eventually(lambda: arrived(gateway) >= set(acknowledged), "all that was acknowledged")
    assert gateway.metrics()["gateway_process_restarts_total"] == 1
    assert f"Process {name} ended (SIGKILL)" in gateway.logs()
    assert gateway.stop(process) == 0


def test_nobody_can_connect_before_somebody_answers(make):
    """A caller that is refused can go elsewhere; one that waits for a start can't."""
    gateway = make()
    gateway.start("serve", wait=False)

    def connects():
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", gateway.port)):
            return True
        return False

    eventually(lambda: answers(gateway.admin_port), "the admin port")
    eventually(connects, "somebody who listens")

    assert gateway.metrics()["gateway_processes_up"] >= 1


def answers(port):
    with suppress(OSError):
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10).status == 200
    return False


def test_what_is_deleted_is_mended_once_and_each_says_what_to_replay(make, rabbitmq):
    """Each process has events of its own under way, so each names its own range."""
    gateway = make(broker={"management_url": rabbitmq.management_url})
    gateway.start("serve")
    post(gateway, range(64), connections=64)
    eventually(lambda: gateway.metrics()["gateway_events_published_total"] == 64, "all published")
    vhost = urlsplit(gateway.broker_url).path[1:]

    rabbitmq.manage("DELETE", f"/api/queues/{vhost}/im.sink.audit")

    lines = eventually(lambda: len(found := replays(gateway)) == 2 and found, "both to say it")
    assert {line["process"] for line in lines} == {"receiver 1", "receiver 2"}
    assert gateway.metrics()["gateway_topology_deleted_total{kind=queue}"] == 1
    assert rabbitmq.ready(vhost, "im.sink.audit") == 0


def replays(gateway):
    """Return the lines of the log that say what has to be replayed, or that nothing has."""
    lines = [json.loads(line) for line in gateway.logs().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"].startswith("Sink audit")]


def test_what_is_under_way_at_sigterm_is_answered(make):
    """As with one process: requests that were sent are answered, the exit code is 0, no child is left."""
    gateway = make()
    process = gateway.start("serve")
    children = processes_of(process.pid)
    callers = [socket.create_connection(("127.0.0.1", gateway.port), timeout=20) for _ in range(64)]
    for number, caller in enumerate(callers):
        body = json.dumps(body_of(number)).encode()
        head = "POST /callback?SdkAppid=1400000000&CallbackCommand=Group.CallbackAfterMemberExit HTTP/1.1"
        caller.sendall(f"{head}\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    process.send_signal(signal.SIGTERM)

    answers = [caller.recv(65536) for caller in callers]
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert process.wait(30) == 0
    assert not [pid for pid in children.values() if is_running(pid)]
    for caller in callers:
        caller.close()


def test_probes_are_answered_though_a_process_hangs(make):
    """A process that is suspended is named; who asks whether the gateway lives does not wait for it."""
    gateway = make()
    process = gateway.start("serve")
    victim = processes_of(process.pid)["receiver 2"]
    os.kill(victim, signal.SIGSTOP)
    try:
        eventually(lambda: b"receiver 2 does not answer" in gateway.get("/readyz")[1], "its name")
        with urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin_port}/livez", timeout=1.5) as page:
            assert page.status == 200
        assert gateway.get("/readyz")[0] == 200
        assert all(gateway.sender().post(number) for number in range(8))
    finally:
        os.kill(victim, signal.SIGCONT)

    eventually(lambda: b"does not answer" not in gateway.get("/readyz")[1], "an answer")


def test_a_second_signal_stops_at_once(make):
    """Also while the broker is away; the callbacks wait in both journals."""
    gateway = make(listen={"drain_s": 600}, broker={"url": f"amqp://127.0.0.1:{free_ports(1)[0]}"})
    process = gateway.start("serve")
    assert len(post(gateway, range(64), connections=64)) == 64
    process.send_signal(signal.SIGTERM)
    eventually(lambda: gateway.get("/readyz")[0] == 503, "unready")
    began_s = time.monotonic()

    assert gateway.stop(process) == 0

    assert time.monotonic() - began_s < 30
    heads = [
        json.loads(gateway.command("journal", "stat", "--process", one, "--json"))["head"] for one in "12"
    ]
    assert sum(heads) == 64
    assert min(heads) > 0


def test_children_of_a_killed_supervisor_stop(make):
    """They finish what is under way; who is started next takes the port and the journals."""
    gateway = make(listen={"drain_s": 600})
    first = gateway.start("run")
    children = processes_of(first.pid)
    acknowledged = post(gateway, range(64), connections=64)
    first.kill()
    first.wait(30)

    second = gateway.start("run")

    assert len(acknowledged) == 64
    for pid in children.values():
        eventually(lambda pid=pid: not is_running(pid), "the end of a child")
    assert len(post(gateway, range(64, 128), connections=16)) == 64
    eventually(lambda: arrived(gateway) == set(range(128)), "all events")
    for pid in processes_of(second.pid).values():
        assert is_running(pid)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_journal_whose_process_is_gone_is_forwarded(make, amqp_url, processes):
    """Callbacks that waited when listen.processes was lowered arrive, and are seen waiting until then."""
    away = f"amqp://127.0.0.1:{free_ports(1)[0]}"
    gateway = make(listen={"processes": 3}, broker={"url": away})
    first = gateway.start("serve")
    assert len(post(gateway, range(96), connections=96)) == 96
    assert gateway.stop(first) == 0
    gateway.change(("listen", "processes"), processes)
    second = gateway.start("serve")
    eventually(lambda: gateway.metrics()["gateway_journal_waiting_records"] == 96, "all of them")
    assert gateway.stop(second) == 0
    gateway.change(("broker", "url"), amqp_url)

    third = gateway.start("run")

    eventually(lambda: arrived(gateway) == set(range(96)), "all events")
    assert len(journals_of(gateway)) == 3
    eventually(lambda: gateway.metrics()["gateway_journal_waiting_records"] == 0, "none waits")
    assert gateway.stop(third) == 0


def test_a_reload_reaches_all_processes(make):
    """An app that is added is known to each of them, and to those that are started later."""
    gateway = make()
    process = gateway.start("serve")
    gateway.change(("apps",), {"1400000000": {}, "1400000001": {}})

    said = gateway.command("reload")
    os.kill(processes_of(process.pid)["receiver 2"], signal.SIGKILL)
    eventually(lambda: gateway.metrics()["gateway_process_restarts_total"] == 1, "the restart is noticed")
    eventually(lambda: gateway.metrics()["gateway_processes_up"] == 2, "both")

    assert "apps.1400000001" in said
    for _ in range(32):
        query = "SdkAppid=1400000001&CallbackCommand=Group.CallbackAfterMemberExit"
        url = f"http://127.0.0.1:{gateway.port}/callback?{query}"
        assert urllib.request.urlopen(url, data=SAMPLE, timeout=20).status == 200


def test_a_fault_of_the_configuration_ends_all(make):
    """A port in use, a journal that can't be used: exit code 2, and the reason, as with one process."""
    gateway = make()
    (gateway.folder / "var").mkdir()
    (gateway.folder / "var/journal").write_text("no folder")

    process = gateway.start("serve", wait=False)

    assert process.wait(30) == 2
    assert "journal.dir" in gateway.logs()


def test_one_exits_without_the_option_is_told_which_journals_there_are(make):
    """Commands look into one journal; with several of them they ask which."""
    gateway = make()
    process = gateway.start("serve")
    post(gateway, range(64), connections=64)
    assert gateway.stop(process) == 0

    said = gateway.command("journal", "list", expect=2)
    lists = [gateway.command("journal", "list", "--process", one).splitlines() for one in "12"]

    assert "--process 1, --process 2" in said
    assert sum(len(lines) for lines in lists) == 64
    assert "--process 3" in gateway.command("journal", "verify", "--process", "3", expect=2)


def test_the_embedded_broker_has_one_process():
    """Its publishers take turns, so several would only be slower."""
    config = Config.model_validate({"apps": {"14": {}}, "listen": {"processes": 2}})

    with pytest.raises(ConfigError, match=r"listen\.processes"):
        build.check(config)


def test_each_process_needs_room_in_the_journal():
    """journal.max_mb is for all of them together."""
    with pytest.raises(ValueError, match="say 40 at least"):
        Config.model_validate({"listen": {"processes": 4}, "journal": {"max_mb": 39}})


def test_every_gauge_has_a_way_of_becoming_one():
    """Whoever adds a gauge has to say what it means for several processes."""
    gauges = {one.name for one in Metrics().registry.collect() if one.type == "gauge"}

    assert gauges == sums.ADDED | sums.EXTREME | sums.LEAST
    assert len(gauges) == len(sums.ADDED) + len(sums.EXTREME) + len(sums.LEAST)


def page(counted, inflight, expiry, took_s):
    registry = CollectorRegistry()
    Counter("gateway_a", "A.", ("app",), registry=registry).labels("1").inc(counted)
    Gauge("gateway_requests_inflight", "I.", registry=registry).set(inflight)
    Gauge("gateway_certificate_expiry_timestamp_seconds", "C.", registry=registry).set(expiry)
    Gauge("gateway_clock_skew_seconds", "S.", registry=registry).set(-counted)
    Histogram("gateway_t", "T.", registry=registry, buckets=(1, 2)).observe(took_s)
    return registry


def test_pages_become_one():
    """Counters and histograms add up, gauges as each means; labels stay as they are."""
    pages = [sums.unpacked(json.loads(json.dumps(sums.packed(sums.page_of(page(*one)))))) for one in
             ((3, 1, 100, 0.5), (4, 2, 50, 1.5))]  # fmt: skip

    text = generate_latest(sums.summed(lambda: sums.total(pages))).decode()

    assert 'gateway_a_total{app="1"} 7.0' in text
    assert "gateway_requests_inflight 3.0" in text
    assert "gateway_certificate_expiry_timestamp_seconds 50.0" in text
    assert "gateway_clock_skew_seconds -4.0" in text
    assert [
        f'gateway_t_bucket{{le="{le}"}} {count}' in text for le, count in (("1.0", 1.0), ("2.0", 2.0))
    ] == [True] * 2
    assert "gateway_t_count 2.0" in text


def test_a_page_alone_stays_as_it_is():
    """What one process shows does not depend on who writes it."""
    registry = page(3, 1, 100, 0.5)

    assert generate_latest(sums.summed(lambda: sums.page_of(registry))) == generate_latest(registry)


async def test_a_process_that_cannot_be_started_is_tried_again(monkeypatch, caplog):
    """Neither memory nor a free process number: the others go on, and the log says why."""
    tries = []

    async def fail(*words, **more):
        tries.append(words)
        raise OSError("no memory")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fail)
    monkeypatch.setattr(slot_module, "_FIRST_S", 0.001)
    config = Config.model_validate({"apps": {"14": {}}})
    task = Task(name="receiver 1", config=config, serves=True, samples=True, listeners=(), turns=None)
    slot = Slot(task, Metrics(), Recent(), lambda: None)
    running = asyncio.create_task(slot.run())
    while len(tries) < 2:
        await asyncio.sleep(0)
    slot.stop()

    await asyncio.wait_for(running, 10)
    assert "can't be started" in caplog.text


async def test_words_that_are_cut_off_are_the_end():
    """A supervisor that is killed in the middle of a line is gone like any other: its child has to stop."""
    ours, theirs = socket.socketpair()
    words = Words(*await asyncio.open_unix_connection(sock=ours))
    theirs.sendall(b'{"stop":null}\n{"config":[1,"gAS')
    theirs.close()

    assert [said async for said in words.said()] == [{"stop": None}]
    await words.close()


async def test_a_process_that_hangs_is_ended(monkeypatch, caplog):
    """It takes callers and answers none; so it is killed, and the next one takes its journal."""
    monkeypatch.setattr(slot_module, "_command", lambda *_: ["sleep", "600"])
    monkeypatch.setattr(slot_module, "_ANSWER_S", 0.01)
    monkeypatch.setattr(slot_module, "_MOST_SILENT", 3)
    config = Config.model_validate({"apps": {"14": {}}})
    task = Task(name="receiver 1", config=config, serves=True, samples=True, listeners=(), turns=None)
    slot = Slot(task, Metrics(), Recent(), lambda: None)
    running = asyncio.create_task(slot.run())
    try:
        async with asyncio.timeout(10):
            while slot.answers:  # until there is one that can be asked
                await slot.ask()
                await asyncio.sleep(0)
            for _ in range(5):
                await slot.look()
            assert slot.code is None  # it may take long to be ready

            slot.is_ready = True
            while slot.code is None:
                await slot.look()
                await asyncio.sleep(0)
    finally:
        slot.stop()
        slot.kill()
        await asyncio.wait_for(running, 10)

    assert slot.code == -signal.SIGKILL
    assert "receiver 1 hangs" in caplog.text
