"""Member exits: rows from events, times that people write, and what reaches the terminal."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gateway.cli.exits import parse_time, render_json, render_table, visible
from gateway.event import iso_time
from gateway.exits import MemberExit, iso_to_ms, member_exits
from gateway.sinks.rows import MAX_TEXT_CHARS, clip
from tests.sink_events import TIME, TIME_MS, cloud_event, exit_event

LAST_MS = 253_402_300_799_999
NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
ANY_CHARACTER = st.characters(exclude_categories=())  # lone surrogates included


def an_exit(**changes: object) -> MemberExit:
    fields = {
        "source": "/tencent-im/1400000000",
        "event_id": "1",
        "member_no": 0,
        "app_id": "1400000000",
        "group_id": "@TGS#1",
        "group_type": "Public",
        "member": "jared",
        "operator": "leckie",
        "exit_type": "kicked",
        "time_ms": TIME_MS,
    }
    return MemberExit(**{**fields, **changes})  # type: ignore[arg-type]


def shown(exits: list[MemberExit]) -> str:
    out = io.StringIO()
    render_table(exits, Console(file=out, width=400, force_terminal=True, color_system=None))
    return out.getvalue()


def test_each_member_is_a_row_in_order() -> None:
    """One callback names all who were removed together."""
    rows = member_exits(exit_event("1", members=["b", "a"]))

    assert [(row.member_no, row.member) for row in rows] == [(0, "b"), (1, "a")]
    assert rows[0] == an_exit(group_id="@TGS#2J4SZEAEL", member="b")


def test_what_is_absent_stays_absent() -> None:
    """An event without operator, kind or members has what it has."""
    bare = cloud_event("1", "im.group.member.exited", {"members": ["a"]})

    assert member_exits(bare) == [
        an_exit(group_id="", member="a", group_type=None, operator=None, exit_type=None)
    ]
    assert member_exits(cloud_event("1", "im.group.member.exited", {})) == []


def test_other_events_have_no_rows() -> None:
    """Whatever their data looks like."""
    assert member_exits(cloud_event("1", "im.unknown", {"members": 1})) == []


@pytest.mark.parametrize("members", [None, "jared", {"a": 1}, [1], ["a", None]])
def test_members_that_are_no_list_of_names_are_refused(members: object) -> None:
    """The sink parks such an event."""
    with pytest.raises(ValueError, match="members"):
        member_exits(exit_event("1", members=members))


@given(st.integers(1, LAST_MS))
def test_a_time_is_read_as_it_is_written(time_ms: int) -> None:
    """No millisecond is lost on the way to text and back, in any year."""
    assert iso_to_ms(iso_time(time_ms)) == time_ms


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        (TIME, TIME_MS),
        ("2022-12-09", 1670544000000),
        ("2022-12-09T08:26", 1670574360000),
        ("2022-12-09 08:26:54", 1670574414000),
        ("2022-12-09T16:26:54.123+08:00", TIME_MS),
        ("2022-12-09T08:26:54.1239Z", TIME_MS),
        ("1970-01-01", 0),
    ],
)
def test_iso_times_without_zone_are_utc(text: str, time_ms: int) -> None:
    """The machine's own zone plays no part."""
    assert iso_to_ms(text) == time_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "1969-12-31",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "1670574414",
        "2022-13-01",
    ],
)
def test_what_is_no_time_is_a_value_error(text: str) -> None:
    """Never another exception: the sink and the command rely on it."""
    with pytest.raises(ValueError):
        iso_to_ms(text)


@given(st.text())
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    """Nothing that a stranger writes raises anything else."""
    try:
        time_ms = iso_to_ms(text)
    except ValueError:
        return

    assert 0 <= time_ms <= LAST_MS


@given(st.text(alphabet=ANY_CHARACTER))
def test_a_clipped_text_fits_its_column(text: str) -> None:
    """Short, encodable, without NUL; what fits already is left alone."""
    column = clip(text)

    assert len(column) <= MAX_TEXT_CHARS
    assert "\0" not in column
    assert column.encode().decode() == column
    assert column == clip(column)
    if len(text) <= MAX_TEXT_CHARS:
        assert column == "".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in text)


def test_a_clipped_text_shows_that_it_was() -> None:
    """Up to the bound nothing changes; behind it an ellipsis stands for the rest."""
    assert clip("a" * MAX_TEXT_CHARS) == "a" * MAX_TEXT_CHARS
    assert clip("a" * (MAX_TEXT_CHARS + 1)) == "a" * (MAX_TEXT_CHARS - 1) + "…"
    assert clip("a\0\ud800") == "a\ufffd\ufffd"


@pytest.mark.parametrize(
    ("text", "time_ms"),
    [
        ("30s", NOW_MS - 30_000),
        ("30m", NOW_MS - 1_800_000),
        (" 2h ", NOW_MS - 7_200_000),
        ("7d", NOW_MS - 7 * DAY_MS),
        ("2w", NOW_MS - 14 * DAY_MS),
        ("999999999w", 0),
        ("2022-12-09", 1670544000000),
    ],
)
def test_times_are_iso_or_how_long_ago(text: str, time_ms: int) -> None:
    """What people write after --since."""
    assert parse_time(text, NOW_MS) == time_ms


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "2y", "2 h", "yesterday", "12:00", "1" * 5000 + "h"])
def test_another_time_is_refused_with_an_example(text: str) -> None:
    """The sentence shows how to write it."""
    with pytest.raises(ValueError, match="is not a time: write 2026-01-31"):
        parse_time(text, NOW_MS)


def test_the_refusal_shows_no_control_characters() -> None:
    """Even what the user typed may have been pasted from elsewhere."""
    with pytest.raises(ValueError, match=r"^\\x1b\[2J is not a time"):
        parse_time("\x1b[2J", NOW_MS)


def test_the_table_says_who_left_what_when_how_and_by_whom() -> None:
    """One line a member."""
    text = shown([an_exit(), an_exit(member="tommy", exit_type="quit", operator=None)])

    lines = [line for line in text.splitlines() if "2022-12-09T08:26:54.123Z" in line]
    assert [word in lines[0] for word in ("@TGS#1", "jared", "kicked", "leckie", "1400000000")] == [True] * 5
    assert "tommy" in lines[1]
    assert "quit" in lines[1]
    assert "None" not in text


def test_no_exits_are_a_sentence_or_an_empty_array() -> None:
    """An empty table would look like a fault."""
    assert shown([]) == "No member exit matches.\n"
    assert json.loads(render_json([])) == []


HOSTILE = "\x1b[31m[bold]x[/bold]\x07\x9b2J\u202e\x7f\n\r\u2028"


def test_hostile_names_do_nothing_to_the_terminal() -> None:
    """Control characters are shown as escapes, markup is shown as written."""
    text = shown([an_exit(group_id=HOSTILE, member=HOSTILE, operator=HOSTILE, exit_type=HOSTILE, app_id="1")])

    assert all(char.isprintable() or char == "\n" for char in text)
    assert r"\x1b[31m[bold]x[/bold]\x07\x9b2J\u202e\x7f\n\r\u2028" in text


def test_json_names_each_field_and_keeps_each_character() -> None:
    """The array parses back to what was stored, and no control character stands in it."""
    text = render_json([an_exit(member=HOSTILE + "群\U0001f600\U000e0001")])

    assert json.loads(text) == [
        {
            "time": TIME,
            "group_id": "@TGS#1",
            "group_type": "Public",
            "member": HOSTILE + "群\U0001f600\U000e0001",
            "operator": "leckie",
            "exit_type": "kicked",
            "app_id": "1400000000",
            "event_id": "1",
        }
    ]
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "群\U0001f600" in text


@given(st.text(alphabet=ANY_CHARACTER))
def test_any_text_becomes_printable(text: str) -> None:
    """Whatever stands in a name; what is printable already is left alone."""
    assert visible(text).isprintable()
    assert json.loads(render_json([an_exit(group_id=text)]))[0]["group_id"] == text
    if text.isprintable():
        assert visible(text) == text
