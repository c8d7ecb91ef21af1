"""The stages of a callback, one at a time. Steps of the interpreter and ratios decide, absolute times do not."""

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest
from aiohttp.base_protocol import BaseProtocol

from gateway import config, normalise, record
from gateway.broker.rabbitmq.frames import publish_frames
from gateway.callback import decide
from gateway.event import parse_json
from gateway.journal import Journal
from gateway.metrics import Metrics
from gateway.query import read_query
from gateway.rules import rules_of
from gateway.server.requests import Requests
from gateway.signature import sign, verify_sign
from tests.microbench import cost

SAMPLES = Path(__file__).parent.parent / "samples/callbacks"
EXIT = (SAMPLES / "Group.CallbackAfterMemberExit.json").read_bytes()
MESSAGE = (SAMPLES / "Group.CallbackAfterSendMsg.json").read_bytes()
NOW_S = 1_700_000_000
OLD, TOKEN = "old-token-of-the-console", "a-token-of-the-console"
GROUP = 64


def query_of(command):
    return (
        f"SdkAppid=1400000000&CallbackCommand={command}&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI"
        f"&Sign={sign(TOKEN, str(NOW_S))}&RequestTime={NOW_S}"
    )


QUERY = query_of("Group.CallbackAfterMemberExit")
CONFIG = config.Config.model_validate({"apps": {"1400000000": {"tokens": [OLD, TOKEN]}}})
RULES = rules_of(CONFIG)
SALT = record.Salt.of(b"0123456789abcdef")


def judged(command, body):
    return decide(RULES, "POST", "/callback", query_of(command), "", body, "127.0.0.1", NOW_S * 1000).callback


CALLBACK = judged("Group.CallbackAfterMemberExit", EXIT)
SAID = judged("Group.CallbackAfterSendMsg", MESSAGE)
[EVENT] = normalise.normalise(CALLBACK, "a.1")


class Connection(BaseProtocol):
    """As much of one as the parser asks for."""


def parse_http(loop):
    """Return a call that reads a whole request on a connection that stays."""
    head = f"POST /callback?{QUERY} HTTP/1.1\r\nHost: im.example.com\r\nContent-Type: application/json\r\n"
    whole = f"{head}Content-Length: {len(EXIT)}\r\n\r\n".encode() + EXIT
    requests = Requests(Connection(loop), loop, CONFIG.listen)

    def call():
        requests.feed(whole)
        _, payload = requests.next()
        return payload.read_nowait(-1)

    assert call() == EXIT
    return call


STAGES = {
    "parse query": partial(read_query, QUERY),
    "parse body": partial(parse_json, EXIT),
    "verify": partial(verify_sign, sign(TOKEN, str(NOW_S)), str(NOW_S), (OLD, TOKEN), NOW_S, 60),
    "decide": partial(decide, RULES, "POST", "/callback", QUERY, "", EXIT, "127.0.0.1", NOW_S * 1000),
    "journal record": partial(record.encode, 1, CALLBACK, SALT),
    "normalise exit": partial(normalise.normalise, CALLBACK, "a.1"),
    "normalise message": partial(normalise.normalise, SAID, "a.1"),
    "frame encode": partial(
        publish_frames, 1, 131_064, "im.events", EVENT.routing_key, EVENT.body,
        {"partitionkey": "group/@TGS#2J4SZEAEL", "x-tag": 7}, message_id=EVENT.id, kind=EVENT.type,
    ),
}  # fmt: skip


def compare(figures, stage, steps, seconds, calls=1):
    """Note what *stage* costs, and fail where that is more than was recorded."""
    figures[stage] = {
        "steps": steps,
        "ratio": round(seconds / calls / cost.least_s(cost.yardstick, 2000), 3),
    }
    known = cost.recorded().get(stage)
    if known is None:
        return
    assert steps <= known["steps"] * cost.MORE_STEPS, f"{stage}: {steps} steps, {known['steps']} recorded"
    found = figures[stage]["ratio"]
    assert found <= known["ratio"] * cost.MORE_TIME, (
        f"{stage}: {found} of the yardstick's time, {known['ratio']} recorded"
    )


def measure(benchmark, figures, stage, call):
    call()
    counted = cost.steps(call)
    benchmark(call)
    compare(figures, stage, counted, benchmark.stats.stats.min)


@pytest.mark.parametrize("stage", STAGES)
def test_stage(benchmark, figures, stage):
    """What it takes of the interpreter and of time is no more than was recorded."""
    measure(benchmark, figures, stage, STAGES[stage])


def test_parse_http(benchmark, figures):
    """The parser, and what keeps its requests in order."""
    loop = asyncio.new_event_loop()
    try:
        measure(benchmark, figures, "parse http", parse_http(loop))
    finally:
        loop.close()


def test_journal_append(benchmark, figures, tmp_path):
    """A group of 64 on the loop's side; disk and thread come between, and do not count."""
    with asyncio.Runner() as runner:
        journal = Journal.open(config.Journal(dir=tmp_path / "journal", min_free_mb=0), Metrics())
        told = []

        def append():
            for _ in range(GROUP):
                journal.store(CALLBACK, lambda position, fault: told.append(position))

        async def append_one_after_the_other(measured):
            measured()
            while len(told) < GROUP:
                await asyncio.sleep(0.001)
            told.clear()
            journal.confirm(journal.head)

        def once(measured):
            runner.run(append_one_after_the_other(measured))

        try:
            once(append)
            counted, taken = [], []
            once(lambda: counted.append(cost.steps(append)))

            def timed():
                began = time.perf_counter()
                append()
                taken.append(time.perf_counter() - began)

            benchmark.pedantic(once, args=(timed,), rounds=200)
            compare(figures, "journal append", counted[0] // GROUP, min(taken), GROUP)
        finally:
            runner.run(journal.close())


def test_a_stage_that_takes_more_is_found(figures, monkeypatch):
    """A comparison that can't fail would be worth nothing."""
    monkeypatch.setattr(
        cost, "recorded", lambda: {"slow": {"steps": 100, "ratio": 1e9}, "late": {"steps": 1, "ratio": 0.0}}
    )

    compare({}, "slow", 105, 0.0)
    for stage, steps in (("slow", 106), ("late", 1)):
        with pytest.raises(AssertionError, match=rf"{stage}: .* recorded"):
            compare({}, stage, steps, 1.0)


def test_steps_are_the_same_each_time():
    """Whatever else the machine does."""
    call = STAGES["normalise message"]
    call()

    assert len({cost.steps(call) for _ in range(5)}) == 1
