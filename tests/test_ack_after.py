"""What a 200 is worth, by `listen.ack_after`: what each level promises, and what it does not, in real processes."""

import shutil
import signal
import threading

import pytest

from tests.crash.disk import FaultyDisk
from tests.gateway_process import Gateway, eventually, number_of

AWAY = "amqp://guest:guest@127.0.0.1:1/"
EMBEDDED = "embedded:var/broker.db"


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a Gateway whose journal stands on a disk that fails as told."""
    made = []

    def build(ack_after, url, **listen):
        made.append(
            Gateway(tmp_path / str(len(made)), listen={"ack_after": ack_after, **listen}, broker={"url": url})
        )
        return made[-1], FaultyDisk(made[-1].folder / "orders")

    yield build
    for gateway in made:
        gateway.close()


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def arrived(gateway):
    return {number_of(one) for one in gateway.lines()}


def end_of_all(gateway):
    """Start everything on the embedded broker, send one callback more, wait for it; return what has arrived.

    Order is kept, so what has not arrived before the last one never will.
    """
    gateway.change(["broker", "url"], EMBEDDED)
    gateway.change(["listen", "ack_after"], "journaled")
    gateway.start("run")
    assert gateway.sender().post(9999)
    eventually(lambda: 9999 in arrived(gateway), "the last callback")
    return arrived(gateway) - {9999}


@pytest.mark.parametrize(
    ("ack_after", "disaster", "survives"),
    [
        ("written", "kill -9", True),
        ("written", "loss of what was not synced", False),
        ("written", "loss of the disk", False),
        ("journaled", "kill -9", True),
        ("journaled", "loss of what was not synced", True),
        ("journaled", "loss of the disk", False),
        ("confirmed", "kill -9", True),
        ("confirmed", "loss of what was not synced", True),
        ("confirmed", "loss of the disk", True),
    ],
)
def test_what_an_acknowledged_callback_survives(make, ack_after, disaster, survives):
    """The disaster comes right after the 200, and the disk has synced no more than it had to by then."""
    gateway, disk = make(ack_after, EMBEDDED if ack_after == "confirmed" else AWAY)
    process = gateway.start("serve", launcher=disk.launcher)
    sender = gateway.sender()
    if ack_after == "written":
        disk.hold_syncs()

    assert all(sender.post(number) for number in range(3))
    kill(process)
    journal = gateway.folder / "var/journal"
    if disaster == "loss of what was not synced":
        disk.lose_unsynced(journal)
    elif disaster == "loss of the disk":
        shutil.rmtree(journal)
    disk.mend()

    assert end_of_all(gateway) == (set(range(3)) if survives else set())


def test_written_is_synced_soon_after(make):
    """What a loss of the machine may take is what came within the last moments: then it is on the disk too."""
    gateway, disk = make("written", AWAY)
    process = gateway.start("serve", launcher=disk.launcher)
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(3))
    eventually(
        lambda: gateway.metrics()["gateway_journal_head_position"] == 3, "the sync that nobody waits for"
    )
    disk.hold_syncs()
    assert all(sender.post(number) for number in range(3, 6))
    eventually(lambda: disk.is_holding, "a sync that does not end")
    kill(process)
    assert disk.lose_unsynced(gateway.folder / "var/journal") > 0
    disk.mend()

    assert end_of_all(gateway) == {0, 1, 2}


def test_journaled_answers_not_before_the_sync(make):
    """Though the callback stands in the file, there is no answer until the disk has said that it is durable."""
    gateway, disk = make("journaled", AWAY)
    gateway.start("serve", launcher=disk.launcher)
    sender = gateway.sender()
    disk.hold_syncs()
    thread = threading.Thread(target=sender.post, args=(1,))
    thread.start()
    eventually(lambda: disk.is_holding, "a sync that does not end")

    assert not sender.acknowledged
    assert gateway.metrics()["gateway_callbacks_stored_total{app=1400000000}"] == 0
    disk.mend()
    thread.join()
    assert sender.acknowledged == [1]


def test_confirmed_past_the_deadline_is_503_and_kept(make):
    """503 never means that it was not stored: the callback is forwarded once the broker is there."""
    gateway, _ = make("confirmed", AWAY, answer_deadline_ms=300)
    process = gateway.start("serve")
    sender = gateway.sender()

    assert not sender.post(1)
    assert sender.refused == [1]
    found = gateway.metrics()
    assert found["gateway_answers_late_total"] == 1
    assert found["gateway_callbacks_stored_total{app=1400000000}"] == 1
    kill(process)
    assert end_of_all(gateway) == {1}


def test_confirmed_answers_200_only_with_the_brokers_word(make):
    """While the broker is away nobody gets a 200, however long the deadline; with it, everybody."""
    gateway, _ = make("confirmed", AWAY, answer_deadline_ms=200)
    gateway.start("serve")
    sender = gateway.sender()
    assert not any(sender.post(number) for number in range(5))
    gateway.stop(gateway.processes[-1])
    gateway.change(["broker", "url"], EMBEDDED)
    gateway.change(["listen", "answer_deadline_ms"], 20_000)
    gateway.start("serve")

    assert all(gateway.sender().post(number) for number in range(5, 10))
    found = gateway.metrics()
    assert found["gateway_journal_cursor_position"] == found["gateway_journal_head_position"] == 10
