"""The forwarder between a real journal and the embedded broker, or one that fails as told."""

import asyncio
import contextlib
import json
import logging
import threading

import pytest

from gateway import forwarder as stage
from gateway.broker import Unconfirmed
from gateway.broker.embedded import Embedded
from gateway.config import Broker as BrokerConfig
from gateway.config import Journal as JournalConfig
from gateway.errors import Unavailable
from gateway.forwarder import Forwarder
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.redact import Redaction
from gateway.topology import Topology
from tests.rabbitmq_world import callback, numbers, value


class Scripted:
    """A broker that answers each batch as its script says next, and remembers what it got."""

    def __init__(self, *script):
        self.script = list(script)
        self.batches = []
        self.confirmed = []
        self.channels = 0

    @contextlib.asynccontextmanager
    async def publisher(self):
        self.channels += 1
        self.lost = None
        yield self

    async def send(self, events):
        # A channel that is gone takes nothing more, as on a real broker; a nack leaves it open.
        step = self.lost or (self.script.pop(0) if self.script else None)
        if callable(step):
            step = step(events)
        if isinstance(step, Unavailable) and not isinstance(step, Unconfirmed):
            raise step
        assert not any(event.data for event in events), "parsed data would wait here with each batch"
        batch = numbers([json.loads(event.body) for event in events])
        self.batches.append(batch)
        future = asyncio.get_running_loop().create_future()
        if isinstance(step, Unconfirmed):
            self.lost = None if step.reason == "nacked" else step
            future.set_exception(step)
            future.exception()
        elif step != "silent":
            self.confirmed += batch
            future.set_result(None)
        return future


@pytest.fixture
async def start(tmp_path):
    """Return a function that runs a forwarder from a journal with *stored* callbacks to *broker*."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(broker, stored, **settings):
            metrics = Metrics()
            journal = Journal.open(JournalConfig(dir=tmp_path / "journal", min_free_mb=0), metrics)
            stack.push_async_callback(journal.close)
            for number in range(journal.head, stored):
                await journal.append(callback(number))
            config = BrokerConfig(url="amqp://x", reconnect_min_s=0.01, reconnect_max_s=0.05, **settings)
            forwarder = Forwarder(journal, broker, config, metrics)
            task = asyncio.create_task(forwarder.run())

            async def stop():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await journal.close()

            stack.push_async_callback(stop)
            return journal, metrics, forwarder, task, stop

        yield begin


def refused(reason):
    return Unconfirmed(reason, "as told")


async def confirmed(journal, position):
    async with asyncio.timeout(20):
        await journal.confirmed(position)


async def test_callbacks_arrive_in_order_and_the_cursor_follows(start, tmp_path):
    """Through a real broker: published, confirmed, cursor at the head."""
    broker = Embedded(tmp_path / "broker.db", Topology.of("im.events", {"one": ("#",)}), Metrics())
    journal, metrics, *_ = await start(broker, 250)
    await confirmed(journal, 250)
    async with broker.consumer("one", 500) as consumer:
        found = [json.loads(one.body) for one in await consumer.take(500, 1.0)]
    await broker.close()

    assert numbers(found) == list(range(250))
    assert journal.cursor == journal.head == 250
    assert value(metrics.events_published) == 250


async def test_the_cursor_moves_only_over_what_is_confirmed(start):
    """A batch without an answer holds it, and a restart sends from there again."""
    broker = Scripted(None, "silent")
    journal, _, _, _, stop = await start(broker, 30, publish_batch_events=10)
    await confirmed(journal, 10)
    await asyncio.sleep(0.05)
    assert journal.cursor == 10
    await stop()
    again = Scripted()
    reopened, *_ = await start(again, 30)
    await confirmed(reopened, 30)

    assert again.confirmed == list(range(10, 30))


async def test_the_number_unconfirmed_is_bounded(start):
    """max_unconfirmed, and one batch at most beyond."""
    broker = Scripted(*["silent"] * 100)
    await start(broker, 200, publish_batch_events=10, max_unconfirmed=50)
    await asyncio.sleep(0.2)

    assert sum(map(len, broker.batches)) <= 60


@pytest.mark.parametrize("reason", ["closed", "deadline"])
async def test_a_lost_channel_is_replaced_and_sending_goes_on_in_order(start, reason):
    """From the first unconfirmed position, on a fresh channel."""
    broker = Scripted(None, refused(reason), refused(reason))
    journal, metrics, *_ = await start(broker, 50, publish_batch_events=10)
    await confirmed(journal, 50)

    assert broker.channels >= 2
    assert list(dict.fromkeys(broker.confirmed)) == list(range(50))
    assert value(metrics.publish_failures, reason=reason) >= 1
    assert value(metrics.publish_order_breaks) == 0


async def test_a_nack_stops_waits_for_answers_and_probes_with_one(start):
    """Later batches may have been taken meanwhile: that break of order is counted, and nothing is lost."""
    broker = Scripted(refused("nacked"), None, None, refused("nacked"), refused("nacked"))
    journal, metrics, *_ = await start(broker, 30, publish_batch_events=10)
    await confirmed(journal, 30)

    assert value(metrics.publish_order_breaks) >= 1
    assert set(broker.confirmed) == set(range(30))
    assert broker.batches[3:5] == [[0], [0]]


async def test_refusals_in_a_row_count_as_a_break_of_order(start):
    """Nobody tells which queues took the second before one refused it; those may have it before the first."""
    broker = Scripted(refused("nacked"), refused("nacked"))
    journal, metrics, *_ = await start(broker, 2, publish_batch_events=1)
    await confirmed(journal, 2)

    assert broker.batches[:2] == [[0], [1]]
    assert value(metrics.publish_order_breaks) == 1


async def test_one_that_is_always_rejected_goes_out_as_malformed(start):
    """Found by smaller and smaller batches; three strikes alone; the others arrive, in order."""

    def judge(events):
        bodies = [json.loads(event.body) for event in events]
        bad = any("raw" in one["data"] and numbers([one]) == [17] for one in bodies)
        return refused("rejected") if bad else None

    class Picky(Scripted):
        async def send(self, events):
            self.script = [lambda _: judge(events)]
            self.seen = getattr(self, "seen", []) + [json.loads(event.body) for event in events]
            if any(one["type"] == "im.malformed" for one in map(json.loads, (e.body for e in events))):
                future = asyncio.get_running_loop().create_future()
                future.set_result(None)
                return future
            return await super().send(events)

    broker = Picky()
    journal, *_ = await start(broker, 40, publish_batch_events=16)
    await confirmed(journal, 40)
    bad = [one for one in broker.seen if one["type"] == "im.malformed"]

    assert {one["position"] for one in bad} == {f"{journal.id}.18.0"}
    assert bad[0]["data"] == {"reason": "refused_by_broker"}
    assert list(dict.fromkeys(broker.confirmed)) == [n for n in range(40) if n != 17]
    assert broker.batches.count([17]) == 3


async def test_a_rejection_counts_when_the_next_send_meets_the_closed_channel_first(start):
    """With a long backlog the channel is gone before the refused batch is looked at; it is found all the same."""

    class Racing(Scripted):
        async def send(self, events):
            bodies = [json.loads(event.body) for event in events]
            if self.lost:
                raise Unavailable("mismatch", "the channel is closed")
            if any("raw" in one["data"] and numbers([one]) == [17] for one in bodies):
                self.lost = refused("rejected")
                future = asyncio.get_running_loop().create_future()
                future.set_exception(self.lost)
                future.exception()
                return future
            self.seen = getattr(self, "seen", []) + [one["position"] for one in bodies]
            future = asyncio.get_running_loop().create_future()
            future.set_result(None)
            return future

    broker = Racing()
    journal, metrics, *_ = await start(broker, 200, publish_batch_events=16)
    await confirmed(journal, 200)

    assert list(dict.fromkeys(broker.seen)) == [f"{journal.id}.{n}.0" for n in range(1, 201)]
    assert value(metrics.publish_failures, reason="mismatch") == 0


async def test_one_that_is_rejected_before_it_is_sent_to_all_strikes_out_too(start):
    """A queue under suspicion is asked alone first; what is refused there for its content must not wait for ever."""

    class Asking(Scripted):
        async def send(self, events):
            bodies = [json.loads(event.body) for event in events]
            if any("raw" in one["data"] and numbers([one]) == [7] for one in bodies):
                raise refused("rejected")
            self.seen = getattr(self, "seen", []) + bodies
            return await super().send([event for event in events if event.type != "im.malformed"])

    broker = Asking()
    journal, *_ = await start(broker, 20, publish_batch_events=16)
    await confirmed(journal, 20)

    assert [one["position"] for one in broker.seen] == [f"{journal.id}.{n}.0" for n in range(1, 21)]
    assert [one["type"] for one in broker.seen if one["position"].endswith(".8.0")] == ["im.malformed"]


async def test_the_bytes_unconfirmed_are_bounded(start):
    """max_unconfirmed_mb, and one batch at most beyond, however large the callbacks are."""
    broker = Scripted()
    broker.bytes = 0
    stored, full = asyncio.Event(), asyncio.Event()

    async def send(events):
        await stored.wait()
        broker.bytes += sum(len(event.body) for event in events)
        if broker.bytes >= 1_048_576:
            full.set()
        return asyncio.get_running_loop().create_future()

    broker.send = send
    journal, *_ = await start(broker, 0, publish_batch_events=10, max_unconfirmed_mb=1)
    for number in range(60):
        await journal.append(callback(number, Introduction="x" * 50_000))
    stored.set()
    async with asyncio.timeout(10):
        await full.wait()
    for _ in range(100):
        await asyncio.sleep(0)

    assert broker.bytes < 2 * 1_048_576


async def test_a_send_that_is_held_up_is_not_healthy(start, monkeypatch):
    """A broker under an alarm fails nothing, it only does not read; the health tells it all the same."""
    monkeypatch.setattr("gateway.forwarder._HELD_S", 0.0)
    broker = Scripted()
    held, go_on = asyncio.Event(), asyncio.Event()
    send = broker.send

    async def wait(events):
        held.set()
        await go_on.wait()
        return await send(events)

    broker.send = wait
    journal, _, forwarder, *_ = await start(broker, 3)
    async with asyncio.timeout(10):
        await held.wait()
    assert forwarder.fault == "held_up"
    go_on.set()
    await confirmed(journal, 3)

    assert forwarder.fault == ""


async def test_an_outage_is_said_once_and_its_end_too(start, caplog):
    """With how many wait; not once per try."""
    caplog.set_level(logging.INFO)
    broker = Scripted(*[Unavailable("refused", "nothing listens")] * 5)
    journal, *_ = await start(broker, 12)
    await confirmed(journal, 12)
    said = [record.getMessage() for record in caplog.records]

    [away] = [one for one in said if "takes no events (refused" in one]
    assert "12 callbacks wait on disk, the oldest for " in away
    assert any("12 callbacks wait" in one for one in said)
    assert len([one for one in said if "takes events again" in one]) == 1


async def test_a_bug_in_normalising_holds_nobody_up(start, monkeypatch):
    """The callback goes out as im.malformed with its body, the next ones as themselves."""
    import gateway.normalise as module

    real = module.normalise

    def broken(stored, position, redaction):
        if position.endswith(".2"):
            raise RuntimeError("a bug")
        return real(stored, position, redaction)

    monkeypatch.setattr(module, "normalise", broken)

    class Keeping(Scripted):
        async def send(self, events):
            self.seen = getattr(self, "seen", []) + [json.loads(event.body) for event in events]
            future = asyncio.get_running_loop().create_future()
            future.set_result(None)
            return future

    broker = Keeping()
    journal, *_ = await start(broker, 3)
    await confirmed(journal, 3)

    assert [one["type"] for one in broker.seen][1] == "im.malformed"
    assert broker.seen[1]["data"]["reason"] == "normalise_error"
    assert len(broker.seen) == 3


async def test_finish_waits_for_what_is_under_way_and_ends(start):
    """A stop with everything reachable leaves nothing waiting."""
    answers = []

    class Held(Scripted):
        async def send(self, events):
            answers.append(asyncio.get_running_loop().create_future())
            return answers[-1]

    journal, _, forwarder, task, _ = await start(Held(), 100, publish_batch_events=10)
    async with asyncio.timeout(10):
        while len(answers) < 10:
            await asyncio.sleep(0.01)
    forwarder.finish()
    answers[0].set_result(None)
    await confirmed(journal, 10)
    assert not task.done()
    for answer in answers[1:]:
        answer.set_result(None)
    await asyncio.wait_for(task, 10)

    assert journal.waiting == 0


async def test_finish_does_not_wait_for_a_broker_that_is_away(start):
    """What is left waits on disk for the next start."""
    broker = Scripted(*[Unavailable("refused", "away")] * 1000)
    journal, _, forwarder, task, _ = await start(broker, 5)
    await asyncio.sleep(0.02)
    forwarder.finish()
    await asyncio.wait_for(task, 5)

    assert journal.waiting == 5


async def test_large_bodies_are_normalised_away_from_the_loop(start, monkeypatch):
    """A batch of them would hold up every answer for seconds."""
    threads = {}

    def note(callback, position, *rest):
        threads[len(callback.body) > 70_000] = threading.current_thread() is threading.main_thread()
        return normalise(callback, position, *rest)

    normalise = stage.normalise_or_keep
    monkeypatch.setattr(stage, "normalise_or_keep", note)
    journal, *_ = await start(Scripted(), 3)
    await confirmed(journal, 3)
    await journal.append(callback(3, Text="x" * 70_000))
    await confirmed(journal, 4)

    assert threads == {False: True, True: False}


async def test_what_an_app_redacts_leaves_the_journal_redacted(start, tmp_path, caplog):
    """The rule of its app goes with each callback, on the malformed way too; the log says nothing of it."""
    seen = []

    class Keeping(Scripted):
        async def send(self, events):
            seen.extend(event.body for event in events)
            future = asyncio.get_running_loop().create_future()
            future.set_result(None)
            return future

    metrics = Metrics()
    journal = Journal.open(JournalConfig(dir=tmp_path / "redacting", min_free_mb=0), metrics)
    await journal.append(callback(1, Operator_Account="SECRET", ExitType="Kicked"))
    await journal.append(callback(2)._replace(body=b"SECRET"))
    await journal.append(callback(3, Operator_Account="SHOWN")._replace(app_id="15"))
    rules = {"14": Redaction.of({"operator": "drop"}, "")}
    forwarder = Forwarder(journal, Keeping(), BrokerConfig(url="amqp://x"), metrics, rules)
    task = asyncio.create_task(forwarder.run())
    await confirmed(journal, 3)
    forwarder.finish()
    await task
    await journal.close()

    assert len(seen) == 3
    assert not any(b"SECRET" in body or b"U0VDUkVU" in body for body in seen)
    assert b"SHOWN" in seen[2]
    assert "SECRET" not in caplog.text
