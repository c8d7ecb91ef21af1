"""The JSON rules that every stage shares: an object, exact, or a ValueError and nothing else."""

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.event import (
    MAX_DEPTH,
    Event,
    is_time,
    iso_time,
    json_text,
    one_line,
    parse_json,
    without_nul,
)
from tests.sink_events import exit_event

LAST_MS = 253_402_300_799_999
ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()))  # lone surrogates included
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT
)
OBJECTS = st.dictionaries(
    ANY_TEXT,
    st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner), max_leaves=10),
)


def without_surrogates(value: Any) -> Any:
    """Return *value* as PostgreSQL and we hold it: no lone surrogates; integers beyond 64 bits as digits."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


@given(OBJECTS, st.booleans())
def test_an_object_is_read_exactly(value: dict[str, Any], escaped: bool) -> None:
    """Whether characters come as escapes or as themselves; only what no later stage can hold is replaced."""
    escaped = escaped or any("\ud800" <= char <= "\udfff" for char in json.dumps(value, ensure_ascii=False))
    # Why loads first: two surrogates side by side become one character on the way.
    expected = without_surrogates(json.loads(json.dumps(value)))

    assert parse_json(json.dumps(value, ensure_ascii=escaped).encode()) == expected


@given(st.binary() | OBJECTS.map(lambda value: json.dumps(value).encode()[:-1]))
@example(b"")
@example(b"null")
@example(b"[]")
@example(b"\xff{}")
@example(b'{"a": NaN}')
@example(b'{"a": Infinity}')
@example(b'{"a": "\n"}')
@example(b'{"a": 1}x')
@example(b"{" * 100_000)
@example(b'{"a":' * 100_000)
def test_everything_else_is_a_value_error(body: bytes) -> None:
    """The receiver refuses on ValueError; any other exception would be a fault of ours."""
    try:
        value = parse_json(body)
    except ValueError:
        return

    assert isinstance(value, dict)


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("9223372036854775807", 2**63 - 1),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", "18446744073709551616"),
        ("-9223372036854775808", -(2**63)),
        ("-9223372036854775809", "-9223372036854775809"),
        ("144115231234567890", 144115231234567890),
        ("1" * 5_000, "1" * 5_000),
        ("1e999999", "1e999999"),
        ("-1e400", "-1e400"),
        ("1.5", 1.5),
        ("1e-999999", 0.0),
        ("0.1000000000000000055511151231257827", 0.1),
    ],
)
def test_numbers_are_exact_or_their_digits(number: str, value: object) -> None:
    """A group's 64-bit ids keep their last digit; what no type holds stays text."""
    parsed = parse_json(f'{{"n":{number}}}'.encode())["n"]

    assert parsed == value
    assert type(parsed) is type(value)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize("fill", [b"", b',"list":[' + b"{}," * 100 + b"{}]"], ids=["bare", "many brackets"])
def test_64_levels_are_read_and_65_refused(fill: bytes) -> None:
    """Deeper bodies would stop one stage or another; how many brackets there are does not count."""
    assert parse_json(nested(MAX_DEPTH)[:-1] + fill + b"}")
    with pytest.raises(ValueError, match="nested deeper than 64"):
        parse_json(nested(MAX_DEPTH + 1)[:-1] + fill + b"}")


def test_whoever_wraps_a_body_may_allow_more() -> None:
    """An event holds a body two levels down."""
    assert parse_json(nested(MAX_DEPTH + 2), MAX_DEPTH + 2)
    with pytest.raises(ValueError, match="nested deeper than 66"):
        parse_json(nested(MAX_DEPTH + 3), MAX_DEPTH + 2)


def test_brackets_inside_text_are_no_levels() -> None:
    """Only structure counts."""
    assert parse_json(b'{"a":"' + b"[{" * 1000 + b'"}') == {"a": "[{" * 1000}


TRICKY = st.dictionaries(
    st.text('"\\\\[]{}', max_size=4),
    st.recursive(
        st.text('"\\\\[]{}', max_size=6) | st.just(1),
        lambda inner: st.lists(inner) | st.dictionaries(st.text('"\\\\[]{}', max_size=4), inner),
        max_leaves=12,
    ),
    min_size=1,
)


def depth_of(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth_of, inner), default=0)


@given(TRICKY)
@example({"a": "\\", "b": ["["]})
@example({'\\"[': [['\\\\"]']]})
def test_depth_is_counted_outside_text_only(value: dict[str, Any]) -> None:
    """Quotes, backslashes and brackets in keys and text change nothing."""
    body = json.dumps(value).encode()

    assert parse_json(body, depth_of(value)) == value
    with pytest.raises(ValueError, match="nested deeper than"):
        parse_json(body, depth_of(value) - 1)


def test_a_byte_order_mark_is_stepped_over() -> None:
    """Some senders write one; inside another JSON text it would be an error."""
    assert parse_json(b'\xef\xbb\xbf{"a":1}') == {"a": 1}
    assert json_text(b'\xef\xbb\xbf{"a":1}') == b'{"a":1}'
    assert json_text(b'{"a":1}') == b'{"a":1}'


@given(OBJECTS, st.sampled_from([None, 1, 4]))
def test_one_line_is_the_same_json_on_one_line(value: dict[str, Any], indent: int | None) -> None:
    """Line breaks only stand between tokens, so nothing changes but the space."""
    body = json.dumps(value, indent=indent).replace("\n", "\r\n").encode()
    line = one_line(body)

    assert b"\n" not in line
    assert b"\r" not in line
    assert len(line) == len(body)
    assert json.loads(line) == json.loads(body)


PIECES = st.lists(
    st.sampled_from(
        [
            *(rb"\u0000", rb"\ud83d", rb"\uDE00", rb"\uD8FF", rb"\udC00", rb"\u4e2d", rb"\ufffd"),
            *(rb"\\", rb"\"", rb"\n", b"u0000", b"ud83d", b"x", "é\U0001f600".encode()),
        ]
    ),
    max_size=12,
).map(b"".join)


@given(
    st.lists(st.sampled_from([rb"\ud8", rb"\ud8zz", rb"\\\ud800", rb"\uDFFF\u", b'\\"', b"\\"]) | PIECES).map(
        b"".join
    )
)
@example(rb"\ud800\ud800\udc00")
@example(rb"\ud800\\udc00")
def test_half_pairs_are_replaced_where_the_rest_is_json(text: bytes) -> None:
    """As a parser would see them: after escaped backslashes, beside whole pairs, NUL kept, nothing made valid."""
    body = b'{"t":"' + text + b'"}'
    try:
        expected = without_surrogates(json.loads(body))
    except ValueError:
        with pytest.raises(ValueError):
            parse_json(body)
        return

    assert parse_json(body) == expected


@given(PIECES)
@example(rb"\\u0000\\\u0000")
@example(rb"\ud800\ud83d\ude00\ude00")
def test_without_nul_replaces_what_jsonb_refuses_and_nothing_else(text: bytes) -> None:
    """Read by a JSON parser, each NUL and each lone surrogate is U+FFFD, every other character is itself."""
    body = b'{"t":"' + text + b'"}'
    cleaned = without_nul(body)
    expected = without_surrogates(json.loads(body))["t"].replace("\0", "\ufffd")

    assert json.loads(cleaned)["t"] == expected
    assert orjson.loads(cleaned)["t"] == expected
    assert without_nul(cleaned) == cleaned


@given(OBJECTS)
def test_without_nul_leaves_clean_bodies_alone(value: dict[str, Any]) -> None:
    """The bytes are the same, not only the meaning."""
    body = json.dumps(json.loads(json.dumps(value).replace("\\u0000", "")), ensure_ascii=False)
    if any("\ud800" <= char <= "\udfff" for char in body):
        return

    assert without_nul(body.encode()) == body.encode()


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (1, "1970-01-01T00:00:00.001Z"),
        (1670574414123, "2022-12-09T08:26:54.123Z"),
        (1670574414000, "2022-12-09T08:26:54.000Z"),
        (LAST_MS, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_written_in_utc_with_milliseconds(time_ms: int, text: str) -> None:
    """All of one length, so that text compares as time does."""
    assert iso_time(time_ms) == text


@given(st.integers(1, LAST_MS), st.integers(1, LAST_MS))
def test_later_times_are_greater_texts(one_ms: int, other_ms: int) -> None:
    """The sqlite sink orders and compares times as text."""
    assert (one_ms < other_ms) == (iso_time(one_ms) < iso_time(other_ms))


@given(st.integers())
def test_what_is_a_time_can_be_written(time_ms: int) -> None:
    """Only what RFC 3339 can write counts as a time."""
    if is_time(time_ms):
        assert len(iso_time(time_ms)) == 24
    assert is_time(time_ms) == (0 < time_ms <= LAST_MS)


def test_an_event_is_read_back_from_its_body() -> None:
    """What travels is all there is."""
    event = Event.parse(exit_event("1").body)

    assert (event.id, event.source, event.app_id) == ("1", "/tencent-im/1400000000", "1400000000")
    assert event.routing_key == "im.group.member.exited.1400000000"
    assert event.partition_key == "group/@TGS#2J4SZEAEL"
    assert event.data["members"] == ["jared", "tommy"]


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"id":1,"source":"s","type":"t","appid":"a"}', b"\xff"])
def test_what_is_no_event_is_a_value_error(body: bytes) -> None:
    """Another publisher's message is parked, not a crash."""
    with pytest.raises(ValueError):
        Event.parse(body)


def test_brokers_get_the_body_and_what_it_says_of_itself() -> None:
    """The parsed data would wait with it in memory; the body has it too."""
    event = Event.parse(exit_event("1").body)
    light = event.without_data()

    assert light.body is event.body
    assert light.data == {}
    assert {**light.attributes, "data": event.data} == event.attributes


def test_an_event_without_data_has_none() -> None:
    """Another publisher may leave it out, or send something that is no object."""
    event = Event(b"", {"id": "1", "source": "s", "type": "t", "appid": "a", "data": "text"})

    assert event.data == {}
    assert event.partition_key == ""
