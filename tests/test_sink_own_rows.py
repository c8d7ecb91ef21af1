"""Rows of a user's own table, before any database: values, keys, and which of two events is newer."""

import itertools
import sqlite3
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.config import SqliteSink
from gateway.event import Event, iso_time
from gateway.sinks.batches import Keyed
from gateway.sinks.own_rows import (
    NEWER,
    VERSION_CHARS,
    Mapping,
    OwnRow,
    as_json,
    as_text,
    as_value,
    is_newer,
    newest,
    version_of,
)
from tests.sink_events import cloud_event

TIMES = st.integers(1, 253_402_300_799_999).map(iso_time) | st.just("none")


def event_of(**attributes: Any) -> Event:
    event = cloud_event("0" * 32, "im.group.message.sent", {})
    return Event(event.body, {**event.attributes, **attributes})


@st.composite
def events(draw: st.DrawFn, seqs: st.SearchStrategy[Any] = st.none() | st.integers(0, 2**64)) -> Event:  # noqa: B008
    """Any event as far as its version goes; few conversations, so that two often share one."""
    seq = draw(seqs)
    return event_of(
        id=draw(st.text(max_size=40) | st.sampled_from(["0" * 32, "f" * 32])),
        source=draw(st.sampled_from(["/tencent-im/1", "/tencent-im/2"])),
        partitionkey=draw(st.sampled_from(["group/a", "group/b", "topic/a", "c2c/a/b", ""])),
        time=draw(TIMES),
        recordedtime=draw(TIMES),
        data={} if seq is None else {"message": {"seq": seq}},
    )


@given(events(st.none() | st.integers(-5, 2**64) | st.text() | st.booleans()))
def test_a_version_has_its_form_whatever_the_event(event: Event) -> None:
    """It is compared by places, so its parts have fixed lengths; ASCII sorts alike in all databases."""
    version = version_of(event)

    assert len(version) == VERSION_CHARS
    assert version.isascii()
    assert [len(part) for part in version.split(" ")] == [16, 20, 24, 24, 32]


@given(events(), events())
def test_of_two_versions_at_most_one_is_newer(one: Event, other: Event) -> None:
    """And neither only when they are the same event's."""
    assume(one.id != other.id)
    first, second = version_of(one), version_of(other)

    assert is_newer(first, second) + is_newer(second, first) == (first != second)
    assert not is_newer(first, first)


@given(st.lists(events(st.integers(0, 9)), min_size=3, max_size=3))
def test_versions_of_one_conversation_have_one_order(three: list[Event]) -> None:
    """So that the newest is the same in whatever order they are compared."""
    same = {"source": "/tencent-im/1", "partitionkey": "group/a"}
    versions = [version_of(Event(event.body, {**event.attributes, **same})) for event in three]
    for one, other, third in itertools.permutations(versions):
        if is_newer(other, one) and is_newer(third, other):
            assert is_newer(third, one)


@given(events(), events())
def test_the_database_decides_as_python_does(one: Event, other: Event) -> None:
    """The guard in SQL and the choice within a batch are one rule."""
    first, second = version_of(one), version_of(other)
    with sqlite3.connect(":memory:") as database:
        sql = f"SELECT {NEWER.format(old='?1', new='?2')}"
        found = database.execute(sql, (first, second)).fetchone()[0]
        empty = database.execute(sql, (None, second)).fetchone()[0]
    database.close()

    assert bool(found) == is_newer(second, first)
    assert empty


@pytest.mark.parametrize(
    ("value", "text", "for_driver"),
    [
        ("a\0\ud800", "a\ufffd\ufffd", "a\ufffd\ufffd"),
        ("", "", ""),
        (True, "true", 1),
        (False, "false", 0),
        (7, "7", 7),
        (1.5, "1.5", 1.5),
        ({"a": ["\0", None]}, '{"a":["\\ufffd",null]}', '{"a":["\\ufffd",null]}'),
        ([], "[]", "[]"),
    ],
)
def test_values_become_what_drivers_take(value: object, text: str, for_driver: object) -> None:
    """Text where the server casts it, values where it does not; True is 1, and not the other way round."""
    assert as_text(value) == text
    made = as_value(value)
    assert made == for_driver
    assert type(made) is type(for_driver)


def test_json_columns_take_text_as_json() -> None:
    """A string is quoted there."""
    assert as_json('a"\0') == '"a\\"\\ufffd"'


def test_of_rows_with_one_key_the_newest_is_sent_in_the_order_of_keys() -> None:
    """Two workers that write the same rows take the locks in one order, not in a circle."""
    versions = [version_of(event_of(time=iso_time(at))) for at in (1, 2, 3)]
    rows = [
        OwnRow(("b",), (0,), versions[1]),
        OwnRow(("b",), (1,), versions[2]),
        OwnRow(("b",), (2,), versions[0]),
        OwnRow(("a",), (3,), versions[0]),
        OwnRow(("a",), (4,), versions[0]),
    ]

    assert [
        row.values for row in newest([Keyed(tuple(rows[:3]), [0], 0), Keyed(tuple(rows[3:]), [1], 0)])
    ] == [
        (3,),
        (1,),
    ]


def test_rows_are_counted_by_their_text() -> None:
    """The bound of a statement holds for tables of the user's own too."""
    config = SqliteSink.model_validate(
        {"kind": "sqlite", "path": "x", "table": "t", "columns": {"k": "id", "v": "data.v"}, "key": ["k"]}
    )
    mapping = Mapping(config)
    mapping.encoders = [as_text, as_text]
    (unit,), failures = mapping.shape([event_of(data={"v": "x" * 100_000})])

    assert failures == {}
    assert 100_000 < unit.size_bytes < 101_000
