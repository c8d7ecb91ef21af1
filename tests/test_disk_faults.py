"""The journal's disk full, at a quota, failing, torn or damaged: real processes, every acknowledged callback counted."""

import json
import signal
from contextlib import ExitStack

import pytest

from tests.crash.disk import FaultyDisk, MayNotMount, damage_record, segments, small_filesystem, tear_tail
from tests.gateway_process import Gateway, eventually, number_of

AWAY = "amqp://guest:guest@127.0.0.1:1/"
EMBEDDED = "embedded:var/broker.db"
PAD = "x" * 50_000
MB = 1024 * 1024


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a Gateway without a broker, whose disk fails as told."""
    made = []

    def build(**journal):
        made.append(
            Gateway(tmp_path / str(len(made)), journal=journal, broker={"url": AWAY, "reconnect_max_s": 0.5})
        )
        return made[-1], FaultyDisk(made[-1].folder / "orders")

    yield build
    for gateway in made:
        gateway.close()


@pytest.fixture
def small_disk(request, tmp_path):
    """A file system of 12 MiB, mounted in a temporary folder; of the kind that the test names."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(small_filesystem(tmp_path / "small", 12, request.param))
        except MayNotMount as reason:
            pytest.skip(f"{reason}; a quota is tested without a mount")
        yield folder


def fill_up(sender, first=0):
    """Post until something is refused; return the number that was."""
    number = first
    while sender.post(number, Pad=PAD):
        number += 1
        assert number < first + 1000
    assert sender.refused[-1] == number
    return number


def arrived(gateway):
    return [number_of(one) for one in gateway.lines()]


def assert_all_arrive(gateway, expected):
    """Start everything again on the embedded broker: what was acknowledged arrives, once and in order."""
    gateway.change(["broker", "url"], EMBEDDED)
    gateway.start("run")
    eventually(lambda: len(arrived(gateway)) >= len(expected), "everything acknowledged")
    eventually(lambda: gateway.metrics()["gateway_journal_waiting_records"] == 0, "an empty journal")

    assert arrived(gateway) == expected


def refusals(gateway):
    return gateway.metrics()["gateway_requests_refused_total{reason=journal_full}"]


@pytest.mark.parametrize(("small_disk", "min_free_mb"), [("ext4", 0), ("tmpfs", 4)], indirect=["small_disk"])
def test_a_full_disk_refuses_until_there_is_room(make, small_disk, min_free_mb):
    """503 with Retry-After and nothing lost; when the disk has room again, so has the gateway, by itself."""
    filler = small_disk / "filler"
    # Why so much: room is looked at four times a second, and a fast sender fills the disk in between.
    filler.write_bytes(b"x" * (6 * MB))
    gateway, _ = make(dir=str(small_disk / "journal"), min_free_mb=min_free_mb)
    process = gateway.start("serve")
    sender = gateway.sender()
    refused = fill_up(sender)
    eventually(lambda: gateway.get("/readyz")[0] == 503, "unready")

    assert "the journal is full" in gateway.get("/readyz")[1].decode()
    assert gateway.get("/livez")[0] == 200
    found = gateway.metrics()
    assert found["gateway_journal_full"] == 1
    assert found["gateway_journal_waiting_records"] == len(sender.acknowledged) == refused > 10
    assert not sender.post(refused)
    filler.unlink()
    eventually(lambda: gateway.get("/readyz")[0] == 200, "ready again")
    again = fill_up(sender, refused)
    assert again > refused + 10
    assert gateway.stop(process) == 0
    assert "the disk of journal.dir has room for" in gateway.logs().lower()
    assert_all_arrive(gateway, sender.acknowledged)


@pytest.mark.parametrize("small_disk", ["ext4"], indirect=True)
def test_a_full_disk_has_room_again_when_the_broker_takes_events(make, small_disk):
    """Confirmed segments go first, and the answers are 200 again without anybody doing anything."""
    gateway, _ = make(dir=str(small_disk / "journal"))
    process = gateway.start("serve")
    sender = gateway.sender()
    refused = fill_up(sender)
    gateway.stop(process)
    gateway.change(["broker", "url"], EMBEDDED)
    gateway.start("run")
    sender = gateway.sender()
    eventually(lambda: sender.post(refused, Pad=PAD), "a callback taken")
    last = refused + 300
    for number in range(refused + 1, last):
        eventually(lambda: sender.post(number, Pad=PAD), f"callback {number} taken")  # noqa: B023

    eventually(lambda: len(arrived(gateway)) >= last, "everything")
    assert arrived(gateway) == list(range(last))


def test_a_quota_is_a_full_disk_too(make):
    """It shows in no figure of the file system, only in the write that fails."""
    gateway, disk = make()
    process = gateway.start("serve", launcher=disk.launcher)
    disk.limit(3 * MB)
    sender = gateway.sender()
    refused = fill_up(sender)

    assert 40 < refused < 3 * MB / len(PAD)
    assert refusals(gateway) == 1
    disk.limit(6 * MB)
    eventually(lambda: gateway.get("/readyz")[0] == 200, "ready again")
    assert fill_up(sender, refused) > refused + 40
    assert gateway.stop(process) == 0
    disk.mend()
    assert_all_arrive(gateway, sender.acknowledged)


@pytest.mark.parametrize("what", ["write", "fdatasync"])
def test_a_disk_error_ends_the_process_and_nothing_that_was_answered(make, what):
    """What the disk did not confirm is not answered 200, not even by a second try; the exit code is 1."""
    gateway, disk = make()
    process = gateway.start("serve", launcher=disk.launcher)
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(20))
    (disk.fail_writes if what == "write" else disk.fail_syncs)("EIO")

    assert not sender.post(20)
    assert process.wait(30) == 1
    assert not sender.post(21)
    [line] = [
        one
        for one in map(json.loads, filter(None, gateway.logs().splitlines()))
        if "Nothing more is acknowledged" in one["event"] and one["logger"] == "gateway.journal.writer"
    ]
    assert "Input/output error" in line["event"]
    assert line["level"] == "critical"
    disk.mend()
    gateway.change(["broker", "url"], EMBEDDED)
    gateway.start("run")
    assert gateway.sender().post(22)
    eventually(lambda: 22 in arrived(gateway), "the last one")
    # 20 may be there: the disk that failed may have kept it all the same.
    assert [one for one in arrived(gateway) if one != 20] == [*range(20), 22]


def test_a_torn_tail_is_cut_off(make):
    """Half a record behind the last one: set aside, said, and every callback is there."""
    gateway, _ = make()
    process = gateway.start("serve")
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(20))
    process.send_signal(signal.SIGKILL)
    process.wait()
    journal = gateway.folder / "var/journal"
    torn = tear_tail(journal)

    assert_all_arrive(gateway, sender.acknowledged)
    [kept] = (journal / "damaged").iterdir()
    assert kept.stat().st_size == torn
    assert f"{torn} bytes behind the last good record are cut off" in gateway.logs()
    assert gateway.metrics()["gateway_journal_lost_records_total"] == 0


@pytest.mark.parametrize("position", [1, 7, 20])
def test_a_damaged_record_costs_itself_only(make, position):
    """Lost, but counted, named and set aside; all others arrive, and the gateway starts."""
    gateway, _ = make()
    process = gateway.start("serve")
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(20))
    eventually(lambda: gateway.metrics()["gateway_journal_head_position"] == 20, "all stored")
    assert gateway.stop(process) == 0
    journal = gateway.folder / "var/journal"
    path, at = damage_record(journal, position)
    whole = path.read_bytes()

    assert_all_arrive(gateway, [one for one in range(20) if one != position - 1])
    assert gateway.metrics()["gateway_journal_lost_records_total"] == 1
    [kept] = (journal / "damaged").iterdir()
    assert kept.read_bytes() in whole
    assert whole.index(kept.read_bytes()) == at
    assert f"positions {position} to {position}" in gateway.logs()
    assert len(segments(journal)) >= 1
    assert gateway.sender().post(99)
