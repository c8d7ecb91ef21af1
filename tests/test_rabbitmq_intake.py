"""Deliveries are taken out of the stream as pamqp reads them, wherever it is cut, and nothing else is."""

from __future__ import annotations

import asyncio
import datetime
import struct
from collections.abc import Sequence
from typing import Any

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from gateway.broker.rabbitmq.arrival import Arrival, Properties
from gateway.broker.rabbitmq.intake import Intake

TAKEN = (1, 2)
Frame = tuple[int, bytes]
"""Channel and bytes."""
_values = st.one_of(
    st.text(max_size=20),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.binary(max_size=5).map(bytearray),
    st.lists(st.text(max_size=3), max_size=2),
    st.just(datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)),
)
_short = st.text(max_size=20)
_properties = st.fixed_dictionaries(
    {},
    optional={
        "content_type": _short,
        "headers": st.dictionaries(_short, _values, max_size=4),
        "delivery_mode": st.sampled_from((1, 2)),
        "message_id": _short,
        "message_type": _short,
        "expiration": _short,
        "priority": st.integers(0, 9),
        "user_id": _short,
        "correlation_id": _short,
    },
)
_messages = st.tuples(
    st.integers(1, 2**63 - 1),
    st.booleans(),
    st.text("abc.-", max_size=20),
    _short,
    _properties,
    st.lists(st.binary(min_size=1, max_size=30), max_size=3),
)


def framed(channel: int, frame: Any) -> Frame:
    return channel, pamqp.frame.marshal(frame, channel)


def frames_of(channel: int, message: tuple[int, bool, str, str, dict[str, Any], list[bytes]]) -> list[Frame]:
    tag, is_redelivered, exchange, routing_key, properties, parts = message
    header = ContentHeader(0, sum(map(len, parts)), spec.Basic.Properties(**properties))
    deliver = spec.Basic.Deliver("ctag1.x", tag, is_redelivered, exchange, routing_key)
    return [framed(channel, one) for one in (deliver, header, *map(ContentBody, parts))]


def as_pamqp_reads(frames: Sequence[Frame]) -> list[Arrival]:
    """Return the deliveries of *frames* of one channel; the general way."""
    read = [pamqp.frame.unmarshal(frame)[2] for _, frame in frames]
    found: list[Arrival] = []
    while read:
        deliver, header = read.pop(0), read.pop(0)
        assert isinstance(deliver, spec.Basic.Deliver)
        assert isinstance(header, ContentHeader)
        body = b""
        while len(body) < header.body_size:
            part = read.pop(0)
            assert isinstance(part, ContentBody)
            body += part.value
        headers = {
            name: value
            for name, value in (header.properties.headers or {}).items()
            if isinstance(value, (str, int))
        }
        properties = Properties(
            header.body_size,
            headers,
            header.properties.message_id or "",
            header.properties.message_type or "",
        )
        tag, is_redelivered = deliver.delivery_tag or 0, bool(deliver.redelivered)
        route = deliver.exchange or "", deliver.routing_key or ""
        found.append(Arrival(tag, is_redelivered, *route, properties, body))
    return found


def feed(parts: Sequence[bytes]) -> tuple[dict[int, list[Arrival]], bytes]:
    """Return what an Intake takes of *parts* by channel, and what it passes on."""

    async def run() -> tuple[dict[int, list[Arrival]], bytes]:
        intake = Intake(asyncio.get_running_loop())
        taken: dict[int, list[Arrival]] = {number: [] for number in TAKEN}
        for number in TAKEN:
            intake.open(number, taken[number].append)
        for part in parts:
            intake.feed_data(part)
        intake.feed_eof()
        return taken, await intake.read()

    return asyncio.run(run())


def without_heartbeats(passed: bytes) -> bytes:
    kept = b""
    while passed:
        size, _, frame = pamqp.frame.unmarshal(passed)
        kept += b"" if isinstance(frame, Heartbeat) else passed[:size]
        passed = passed[size:]
    return kept


@given(st.data())
def test_deliveries_are_those_that_pamqp_reads(data: st.DataObject) -> None:
    """However frames of channels alternate and the stream is cut: same deliveries, in order, and the rest whole."""
    others = [
        framed(3, spec.Basic.Deliver("t", 1, False, "x", "y")),
        framed(1, spec.Basic.ConsumeOk("ctag")),
        framed(3, spec.Basic.Ack(7)),
        framed(0, Heartbeat()),
    ]
    rows = [
        [
            frame
            for message in data.draw(st.lists(_messages, max_size=4))
            for frame in frames_of(number, message)
        ]
        for number in TAKEN
    ]
    rows.append([one for one in data.draw(st.lists(st.sampled_from(others), max_size=4)) if one[0] != 1])
    wanted = {number: as_pamqp_reads(rows[place]) for place, number in enumerate(TAKEN)}
    stream = [others[1][1]]
    passed = others[1][1]
    while any(rows):
        row = data.draw(st.sampled_from([row for row in rows if row]))
        channel, frame = row.pop(0)
        stream.append(frame)
        passed += frame if channel not in TAKEN else b""
    joined = b"".join(stream)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(joined)), max_size=8)))
    parts = [joined[start:end] for start, end in zip([0, *cuts], [*cuts, len(joined)], strict=True)]

    taken, rest = feed(parts)

    assert taken == wanted
    assert without_heartbeats(rest) == without_heartbeats(passed)


def test_deliveries_byte_by_byte() -> None:
    """A stream that comes in single bytes is read as well."""
    message = (7, True, "im.events", "im.x.14", {"headers": {"partitionkey": "group/ä"}}, [b"ab", b"c"])
    frames = frames_of(1, message)

    taken, _ = feed([bytes((byte,)) for _, frame in frames for byte in frame])

    assert taken[1] == as_pamqp_reads(frames)
    assert taken[1][0].body == b"abc"


def test_a_header_that_is_no_text_is_left_out() -> None:
    """Another program may have published what is not UTF-8."""
    frames = frames_of(1, (7, False, "x", "y", {"headers": {"a": "zzz", "partitionkey": "b"}}, []))
    broken = [(channel, frame.replace(b"zzz", b"\xff" * 3)) for channel, frame in frames]

    taken, _ = feed([frame for _, frame in broken])

    assert taken[1] == as_pamqp_reads(broken)
    assert taken[1][0].properties.headers == {"partitionkey": "b"}


_ANOTHER = [frame for _, frame in frames_of(1, (8, False, "x", "y", {}, [b"de"]))]
_ANOTHERS_ARRIVAL = Arrival(8, False, "x", "y", Properties(2, {}, "", ""), b"de")
_MICROSECONDS = struct.pack(">Q", 1_767_312_000_000_000)


@pytest.mark.parametrize(
    ("properties", "good", "bad"),
    [
        ({"message_id": "zzz"}, b"zzz", b"\xff" * 3),
        ({"message_type": "zzz"}, b"zzz", b"\xff" * 3),
        ({"headers": {"zzz": "a"}}, b"zzz", b"\xff" * 3),
        ({"headers": {"a": "zzz"}}, b"S\x00\x00\x00\x03zzz", b"?\x00\x00\x00\x03zzz"),
        (
            {"timestamp": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)},
            struct.pack(">Q", 1_767_312_000),
            _MICROSECONDS,
        ),
    ],
)
def test_properties_that_cannot_be_read_are_left_out(
    properties: dict[str, Any], good: bytes, bad: bytes
) -> None:
    """One message of another program must not end the connection of all sinks whenever it comes."""
    deliver, header, body = (frame for _, frame in frames_of(1, (7, False, "x", "y", properties, [b"abc"])))
    assert good in header

    taken, _ = feed([deliver, header.replace(good, bad), body, *_ANOTHER])

    assert taken[1] == [Arrival(7, False, "x", "y", Properties(3, {}, "", ""), b"abc"), _ANOTHERS_ARRIVAL]


def test_a_routing_key_that_is_no_text_is_told_as_far_as_it_is() -> None:
    """Nor may the routing key of another program's message end it."""
    deliver, header, body = (frame for _, frame in frames_of(1, (7, False, "x", "im.zzz", {}, [b"abc"])))

    taken, _ = feed([deliver.replace(b"zzz", b"z\xffz"), header, body, *_ANOTHER])

    assert [one.routing_key for one in taken[1]] == ["im.z\ufffdz", "y"]


def test_a_delivery_is_a_sign_of_life() -> None:
    """RabbitMQ sends no heartbeat while it sends deliveries, and aiormq must not take it for dead."""
    _, passed = feed([frame for _, frame in frames_of(1, (7, False, "x", "y", {}, [b"a"])) * 2])

    assert pamqp.frame.unmarshal(passed)[0] == len(passed)
    assert isinstance(pamqp.frame.unmarshal(passed)[2], Heartbeat)


def test_what_is_no_amqp_is_passed_on() -> None:
    """aiormq says what is wrong with it; what was not whole at the end too."""
    assert feed([b"HTT", b"P/1.1 400 Bad", b" Request"])[1] == b"HTTP/1.1 400 Bad Request"
    assert feed([b"AMQP\x00\x00\x09\x01"])[1] == b"AMQP\x00\x00\x09\x01"
    assert feed([b"\x01\x00\x00\x00\x00\x00\x05ab"])[1] == b"\x01\x00\x00\x00\x00\x00\x05ab"


_DELIVER, _HEADER, _BODY = (frame for _, frame in frames_of(1, (7, False, "x", "y", {}, [b"abc"])))


@pytest.mark.parametrize(
    "broken",
    [
        [_DELIVER, _DELIVER],
        [_DELIVER, _BODY],
        [_DELIVER, _HEADER, _HEADER],
        [_DELIVER, _HEADER, framed(1, spec.Channel.Close(406, "x", 0, 0))[1]],
        [_DELIVER, _HEADER, framed(1, ContentBody(b"abcd"))[1]],
        [_DELIVER, _HEADER, _BODY[:-1] + b"\x00"],
        [_DELIVER, struct.pack(">BHI", 2, 1, 2) + b"\x00\x3c\xce"],
        [_DELIVER, struct.pack(">BHI", 2, 1, 13) + b"\x00\x3c" + bytes(11) + b"\xce"],
        [_DELIVER, struct.pack(">BHI", 2, 1, 15) + b"\x00\x3d" + bytes(10) + b"\x08\x00\x01\xce"],
    ],
)
def test_a_delivery_that_breaks_off_ends_the_stream(broken: list[bytes]) -> None:
    """An acknowledgement of all up to a tag would cover what was left out, so nothing more is taken or read."""

    async def run() -> list[Arrival]:
        intake = Intake(asyncio.get_running_loop())
        taken: list[Arrival] = []
        intake.open(1, taken.append)
        for part in (*broken, _DELIVER, _HEADER, _BODY):
            intake.feed_data(part)
        with pytest.raises(ConnectionResetError):
            await intake.readexactly(1)
        intake.feed_eof()
        return taken

    assert asyncio.run(run()) == []


def test_a_channel_that_was_shut_takes_nothing() -> None:
    """Its number may be another's by then, who keeps what is his."""

    async def run() -> tuple[list[Arrival], list[Arrival]]:
        intake = Intake(asyncio.get_running_loop())
        old: list[Arrival] = []
        new: list[Arrival] = []
        take_old, take_new = old.append, new.append
        intake.open(1, take_old)
        intake.feed_data(_DELIVER + _HEADER)
        intake.open(1, take_new)
        intake.shut(1, take_old)
        intake.feed_data(_DELIVER + _HEADER + _BODY)
        intake.shut(1, take_new)
        intake.feed_data(_DELIVER + _HEADER + _BODY)
        return old, new

    old, new = asyncio.run(run())

    assert (old, len(new)) == ([], 1)
