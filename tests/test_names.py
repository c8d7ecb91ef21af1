"""Names and shapes: the general rules that hold for every command."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ids import _name, _short_name
from gateway.names import accounts, event_time, free_name, nested, snake, to_time_ms, typed


@pytest.mark.parametrize(
    ("wire", "ours"),
    [
        ("Operator_Account", "operator"), ("GroupId", "group_id"), ("GroupID", "group_id"), ("groupID", "group_id"),
        ("ToGroupId", "group_id"), ("SdkAppid", "sdk_app_id"), ("SdkAppId", "sdk_app_id"), ("key", "key"),
        ("Key", "key"), ("opType", "op_type"), ("OpType", "op_type"), ("Requester_Account", "requester"),
        ("Requestor_Account", "requester"), ("Member_Account", "member"), ("Modified_Account", "member"),
        ("C2CMsgInfo", "c2c_msg_info"), ("WithdrawMsgList", "withdraw_msg_list"), ("CoverURL", "cover_url"),
        ("WithDrawMsgList", "withdraw_msg_list"), ("PushID", "push_id"), ("Download_Flag", "download_flag"),
        ("名", "名"), ("", ""), ("_Account", "account"),
    ],
)  # fmt: skip
def test_pitfall_13_spellings_become_one_name(wire, ours):
    """The sender's pages disagree on case, Requester, WithDraw and more; we have one name each."""
    assert snake(wire) == ours


def test_pitfall_10_numeric_ids_are_exact_strings():
    """64-bit numbers in ids lose nothing, in lists and deep inside as well."""
    big = 144115245353757792

    assert typed("owner", "Owner_Account", big) == ("owner", str(big))
    assert typed("invitees", "InviteeList_Account", [big, "b"]) == ("invitees", [str(big), "b"])
    assert nested({"Info": {"User_Account": big, "RoomId": 7, "Count": 7}}) == {
        "info": {"user": str(big), "room_id": "7", "count": 7}
    }


@pytest.mark.parametrize(
    ("wire", "value", "expected"),
    [("IsSeatEnabled", "false", False), ("IsSeatEnabled", "True", True), ("MessageDisabled", "true", True),
     ("NeedResponse", "false", False), ("Text", "false", "false"), ("Issue", "true", "true"), ("IsOpen", "maybe", "maybe")],
)  # fmt: skip
def test_pitfall_14_booleans_as_text(wire, value, expected):
    """Where the name asks a question, its answer is a boolean; text stays text."""
    assert typed("x", wire, value) == ("x", expected)


def test_pitfall_24_platforms_are_lower_case():
    """IOS and iOS are one platform, in unknown bodies too."""
    assert nested([{"Platform": "IOS"}, {"Platform": "iOS"}]) == ["ios", "ios"]
    assert nested({"Platform": "IOS", "X": 1}) == {"platform": "ios", "x": 1}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"EventTime": "1670574414123", "MsgTime": 1}, (1670574414123, "EventTime")),
        ({"EventTime": 1670574414}, (1670574414000, "EventTime")),
        ({"RoomInfo": {"EventTime": 1703589922780}, "MsgTime": 1490686222}, (1703589922780, "EventTime")),
        ({"EventTime": "", "MsgTime": 1490686222}, (1490686222000, "MsgTime")),
        ({"Info": {"EventTime": "x"}}, (None, "received")),
        ({"EventTime": 99_999_999_999}, (99_999_999_999_000, "EventTime")),
        ({"EventTime": 100_000_000_000}, (100_000_000_000, "EventTime")),
    ],
)
def test_pitfall_1_times_are_found_wherever_they_stand(body, expected):
    """Text or number, seconds below 10^11, nested, else MsgTime, else nothing."""
    assert event_time(body) == expected


@given(st.text(max_size=80))
def test_snake_never_fails_and_is_stable(wire):
    """Any name gives a name, and ours stay what they are."""
    assert isinstance(snake(wire), str)
    assert bool(snake(wire)) == bool(wire)


@given(st.text(max_size=5), st.text(max_size=5), st.sets(st.text(max_size=5)))
def test_a_free_name_is_free(name, wire, taken):
    """Nothing overwrites anything, and raw stays ours."""
    assert free_name(name, wire, taken) not in taken | {"raw", "raw_base64"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


@given(json_values)
def test_anything_is_no_reason_to_fail(value):
    """Times, accounts and nested values take whatever comes."""
    nested(value)
    assert all(isinstance(one, str) and one for one in accounts(value))
    assert to_time_ms(value) is None or to_time_ms(value) > 0


def test_long_names_are_not_kept_after_the_event():
    """The cache of names is bounded by their number, so long ones stay out of it."""
    before = _short_name.cache_info().currsize

    assert _name("K" * 65) == "k" * 65
    assert _short_name.cache_info().currsize == before
