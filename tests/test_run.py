"""What one process says of itself and when it ends; the whole of it runs in test_system."""

import asyncio
import logging
import time
from types import SimpleNamespace

import pytest

from gateway import ending
from gateway.config import Config
from gateway.errors import FatalError
from gateway.reload import Reload
from gateway.run import Gateway
from gateway.waiting import Waiting


@pytest.fixture
def config(tmp_path):
    sinks = {"one": {"kind": "jsonl", "path": tmp_path / "x.jsonl"}}
    return Config.model_validate({"apps": {"14": {}}, "sinks": sinks})


def gateway_of(config, **roles):
    return Gateway(Reload(config, lambda: config, **roles))


def journal(**state):
    return SimpleNamespace(**{"is_full": False, "waiting": 3, "oldest_waiting_ms": None, **state})


@pytest.mark.parametrize(
    ("is_full", "fault", "causes", "notes"),
    [(False, "", 0, 0), (True, "", 1, 0), (False, "refused", 0, 1)],
)
def test_a_full_journal_is_unready_and_a_broker_that_is_away_is_not(config, is_full, fault, causes, notes):
    """Callbacks are taken as long as there is room for them."""
    gateway = gateway_of(config, serves=True, works=False)
    gateway._journal = journal(is_full=is_full)
    gateway._forwarder = SimpleNamespace(fault=fault)

    health = gateway._health()

    assert (len(health.causes), len(health.notes)) == (causes, notes)


def test_a_journal_that_fills_is_a_note(config):
    """Callbacks are taken still; whoever looks sees how long."""
    gateway = gateway_of(config, serves=True, works=False)
    gateway._watch.look(Waiting(0.0, 10, 3 * 1024**3, 4 * 1024**3, 5.0, ""))

    health = gateway._health()

    assert health.causes == []
    assert "the journal is 75% full" in health.notes[0]


@pytest.mark.parametrize(("serves", "causes", "notes"), [(True, 0, 1), (False, 1, 0)])
def test_a_sink_that_takes_nothing_makes_only_a_worker_unready(config, serves, causes, notes):
    """`run` still takes callbacks; `work` has nothing else to do."""
    gateway = gateway_of(config, serves=serves, works=True)
    gateway._workers["one"] = SimpleNamespace(trouble="takes nothing (away)")

    health = gateway._health()

    assert (len(health.causes), len(health.notes)) == (causes, notes)


def test_stopping_is_unready(config):
    """Whoever balances the load sends nothing more."""
    gateway = gateway_of(config, serves=True, works=False)
    gateway._on_signal()

    assert gateway._health().causes == ["stopping"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (FatalError("the disk failed"), ": the disk failed; the process ends"),
        (ValueError("STRANGER"), "ValueError at"),
    ],
)
@pytest.mark.parametrize("part", ["journal", "task"])
async def test_what_could_lose_callbacks_ends_the_process(config, part, fault, said, caplog):
    """A journal that failed, or a task that ended: exit code 1, with our words and nobody else's."""
    caplog.set_level(logging.CRITICAL)
    gateway = gateway_of(config, serves=True, works=False)
    failed = asyncio.get_running_loop().create_future()

    async def fail():
        raise fault

    if part == "journal":
        failed.set_exception(fault)
    else:
        gateway._start("forwarder", fail())
    gateway._journal = journal(failed=failed)

    assert await asyncio.wait_for(gateway._wait_for_the_end(), 5) == 1
    assert said in caplog.text
    assert "STRANGER" not in caplog.text


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again(monkeypatch):
    """A driver may turn our cancellation into an error of its own; the stop does not wait for ever."""
    monkeypatch.setattr(ending, "_END_S", 0.01)
    gateway = gateway_of(Config(apps={"14": {}}), serves=False, works=True)
    begun = asyncio.Event()

    async def deaf():
        try:
            begun.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    gateway._start("deaf", deaf())
    await begun.wait()

    await asyncio.wait_for(ending.cancel(gateway._tasks.values()), 10)
    assert gateway._tasks["deaf"].done()


async def test_the_port_stays_open_for_drain_s(config):
    """Whoever balances the load has that long to notice that it is unready."""
    listen = config.listen.model_copy(update={"drain_s": 0.2})
    gateway = gateway_of(config.model_copy(update={"listen": listen}), serves=True, works=False)
    gateway._server = SimpleNamespace(is_draining=False)
    closed_s = []

    async def cleanup():
        closed_s.append(time.monotonic())

    began_s = time.monotonic()
    await gateway._drain(SimpleNamespace(cleanup=cleanup))

    assert gateway._server.is_draining
    assert closed_s[0] - began_s >= 0.19
