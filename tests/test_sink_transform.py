"""`transform`: an expression shapes what a sink gets, and never who the event is."""

import asyncio
import threading
from collections.abc import Sequence

import orjson
import pytest

from gateway import build
from gateway.config import JsonlSink
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.sinks import Failures
from gateway.sinks.transform import MAX_BYTES, Transformed
from tests.sink_events import cloud_event, exit_event


class Kept:
    """A sink that keeps what it gets, and fails as told."""

    def __init__(self, failures: Failures | None = None) -> None:
        self.failures = failures or {}
        self.events: list[Event] = []
        self.calls: list[str] = []

    async def open(self) -> None:
        self.calls.append("open")

    async def write(self, events: Sequence[Event]) -> Failures:
        self.calls.append("write")
        self.events += events
        return self.failures

    async def close(self) -> None:
        self.calls.append("close")


async def shaped(expression: str, *events: Event) -> tuple[list[Event], Failures]:
    """Return what the sink behind *expression* gets of *events*, and the failures."""
    kept = Kept()
    sink = Transformed(kept, expression, "x")
    failures = await sink.write(events)
    return kept.events, failures


async def test_picking_and_renaming() -> None:
    """`data` becomes the result, which may take from the whole event; body and attributes say the same."""
    before = exit_event("1")
    [event], failures = await shaped(
        "{group: data.group_id, who: data.members, kind: type, at: time}", before
    )

    assert failures == {}
    assert event.attributes["data"] == {
        "group": "@TGS#2J4SZEAEL",
        "who": ["jared", "tommy"],
        "kind": "im.group.member.exited",
        "at": "2022-12-09T08:26:54.123Z",
    }
    assert orjson.loads(event.body) == event.attributes


async def test_the_envelope_stays() -> None:
    """Whatever the expression makes, copies are told apart, ordered and routed as before."""
    before = exit_event("1")
    [event], _ = await shaped("{id: 'other', source: 'other'}", before)

    kept = {name: value for name, value in before.attributes.items() if name not in ("data", "dataschema")}
    assert {name: value for name, value in event.attributes.items() if name != "data"} == kept
    assert (event.id, event.source, event.routing_key) == (before.id, before.source, before.routing_key)


async def test_numbers_are_exact() -> None:
    """64-bit sequence numbers come through to the last digit; longer ones as their digits."""
    before = cloud_event("1", "im.unknown", {"seq": 2**63 + 1, "low": -(2**63), "raw": "?"})
    before = Event.parse(before.body.replace(b'"?"', b'{"huge":123456789012345678901234567890}'))
    [event], _ = await shaped("{seq: data.seq, low: data.low, huge: data.raw.huge}", before)

    assert b'"seq":9223372036854775809,"low":-9223372036854775808' in event.body
    assert event.data["huge"] == "123456789012345678901234567890"


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("data.nothing", "null"),
        ("data.members", "a list"),
        ("data.group_id", "a str"),
        ("{a: abs(data.group_id)}", "JMESPathTypeError"),
        ("{a: data.members[::0]}", "ValueError"),
        ("{a: &data}", "Error"),
        ("{a: sum([`9223372036854775807`, `9223372036854775807`, `9223372036854775807`])}", "Error"),
    ],
)
async def test_an_expression_that_does_not_fit_parks_its_event(expression: str, said: str) -> None:
    """The reason is one token; the sentence names the kind of fault and nothing of the event."""
    events, failures = await shaped(expression, exit_event("1"))

    assert events == []
    assert isinstance(failures[0], Poison)
    assert failures[0].reason == "transform"
    assert said in failures[0].detail
    assert "TGS" not in failures[0].detail


async def test_failures_keep_their_places() -> None:
    """What can't be transformed and what the sink refuses are named by their places in the batch."""
    kept = Kept({1: Poison("too_odd"), 2: Unavailable("later")})
    batch = [exit_event(str(n), **({} if n % 2 else {"n": n})) for n in range(7)]
    failures = await Transformed(kept, "{n: abs(data.n)}", "x").write(batch)

    assert [event.id for event in kept.events] == ["0", "2", "4", "6"]
    assert {at: why.reason for at, why in failures.items()} == {
        1: "transform",
        3: "transform",
        5: "transform",
        2: "too_odd",
        4: "later",
    }


async def test_a_result_that_grows_is_bounded() -> None:
    """An expression that copies an event many times over fills neither memory nor sink."""
    big = exit_event("1", pad="x" * 300_000)
    events, failures = await shaped("{a: data.pad, b: data.pad, c: data.pad, d: data.pad}", big)
    alone, _ = await shaped("{a: data}", exit_event("2", pad="x" * (MAX_BYTES + 10), raw=b"{}"))

    assert events == []
    assert "bytes" in failures[0].detail
    assert len(alone) == 1


async def test_large_events_are_transformed_away_from_the_loop() -> None:
    """In one process with a receiver its answers would wait."""
    sink = Transformed(Kept(), "data", "x")
    threads: list[bool] = []
    shape = sink._shape

    def note(events: Sequence[Event]) -> list[Event | Poison]:
        threads.append(threading.current_thread() is threading.main_thread())
        return shape(events)

    sink._shape = note  # type: ignore[method-assign]
    await sink.write([exit_event("1")])
    await sink.write([exit_event("1", pad="x" * 70_000)])

    assert threads == [True, False]


async def test_opening_and_closing_are_the_sinks_own() -> None:
    """Nothing else is behind an expression."""
    kept = Kept()
    sink = Transformed(kept, "data", "x")
    await sink.open()
    await sink.write([])
    await sink.close()

    assert kept.calls == ["open", "write", "close"]


def test_a_sink_without_one_is_not_wrapped(tmp_path: pytest.TempPathFactory) -> None:
    """Who does not transform pays nothing."""
    config = JsonlSink(kind="jsonl", path=f"{tmp_path}/x")

    assert not isinstance(build.make_sink("a", config), Transformed)
    assert isinstance(build.make_sink("a", config.model_copy(update={"transform": "data"})), Transformed)


async def test_a_cancelled_write_can_be_done_again() -> None:
    """A worker that gave up comes with the same events."""
    kept = Kept()
    sink = Transformed(kept, "data", "x")
    first = asyncio.ensure_future(sink.write([exit_event("1", pad="x" * 70_000)]))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)

    assert await sink.write([exit_event("1")]) == {}
    assert kept.events[-1].id == "1"
