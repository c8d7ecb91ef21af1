"""Callback to events: every pitfall of the reference that concerns it, and never an exception."""

import base64
import json
from datetime import datetime
from pathlib import Path

import orjson
import pytest
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from gateway.callback import Callback
from gateway.catalogue import COMMANDS
from gateway.event import MAX_DEPTH, Event
from gateway.names import snake
from gateway.normalise import command_named, malformed, normalise

EXIT = "Group.CallbackAfterMemberExit"
SAMPLES = sorted((Path(__file__).parent / "samples/callbacks").glob("*.json"))
RECEIVED_MS = 1_700_000_000_123
PAGE = {
    "CallbackCommand": EXIT,
    "GroupId": "@TGS#2J4SZEAEL",
    "Type": "Public",
    "ExitType": "Kicked",
    "Operator_Account": "leckie",
    "ExitMemberList": [{"Member_Account": "jared"}, {"Member_Account": "tommy"}],
    "EventTime": "1670574414123",
}


def callback(body, command=EXIT, **changes):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    query = f"SdkAppid=14&CallbackCommand={command}&contenttype=json&ClientIP=1.2.3.4&OptPlatform=RESTAPI"
    base = Callback("14", query, raw, "127.0.0.1", RECEIVED_MS, True, 1, 10)
    return base._replace(**changes)


def one(body, command=EXIT, **changes):
    [event] = normalise(callback(body, command, **changes), "j.7")
    return json.loads(event.body)


def exit_of(**changes):
    body = {**PAGE, **changes}
    return one({key: value for key, value in body.items() if value is not ...})


def test_the_page_sample():
    """Every attribute of design section 5, and nothing else."""
    event = one(PAGE)
    event_id = event.pop("id")

    assert len(event_id) == 32
    assert int(event_id, 16) >= 0
    assert event == {
        "specversion": "1.0",
        "source": "/tencent-im/14",
        "type": "im.group.member.exited",
        "subject": "group/@TGS#2J4SZEAEL",
        "time": "2022-12-09T08:26:54.123Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:im-gateway:event:im.group.member.exited:1",
        "partitionkey": "group/@TGS#2J4SZEAEL",
        "position": "j.7.0",
        "recordedtime": "2023-11-14T22:13:20.123Z",
        "appid": "14",
        "command": EXIT,
        "phase": "after",
        "timesource": "EventTime",
        "clientip": "1.2.3.4",
        "platform": "restapi",
        "verified": True,
        "data": {
            "group_id": "@TGS#2J4SZEAEL",
            "group_type": "Public",
            "exit_type": "kicked",
            "operator": "leckie",
            "members": ["jared", "tommy"],
            "raw": PAGE,
        },
    }


def test_routing_key_and_raw_bytes():
    """<type>.<app id>; raw is the body's own bytes, spelling and all."""
    raw = b'{ "GroupId" : "g",\n "N": 1.0e2, "N": 3 }'
    [event] = normalise(callback(raw), "j.1")

    assert event.routing_key == "im.group.member.exited.14"
    assert raw in event.body


@pytest.mark.parametrize(
    ("value", "time", "source"),
    [
        ("1670574414123", "2022-12-09T08:26:54.123Z", "EventTime"),
        (1670574414123, "2022-12-09T08:26:54.123Z", "EventTime"),
        (1670574414, "2022-12-09T08:26:54.000Z", "EventTime"),
        ("1670574414", "2022-12-09T08:26:54.000Z", "EventTime"),
        (1670574414123.0, "2022-12-09T08:26:54.123Z", "EventTime"),
        (..., "2023-11-14T22:13:20.123Z", "received"),
        ("", "2023-11-14T22:13:20.123Z", "received"),
        ("soon", "2023-11-14T22:13:20.123Z", "received"),
        (None, "2023-11-14T22:13:20.123Z", "received"),
        (0, "2023-11-14T22:13:20.123Z", "received"),
        (-5, "2023-11-14T22:13:20.123Z", "received"),
        (True, "2023-11-14T22:13:20.123Z", "received"),
        (10**18, "2023-11-14T22:13:20.123Z", "received"),
        (10**300, "2023-11-14T22:13:20.123Z", "received"),
        ("9" * 5000, "2023-11-14T22:13:20.123Z", "received"),
        ([1], "2023-11-14T22:13:20.123Z", "received"),
    ],
)
def test_times_in_every_spelling(value, time, source):
    """String or number, seconds or milliseconds; what is no time falls back to the receipt, and it says so."""
    event = exit_of(EventTime=value)

    assert (event["time"], event["timesource"]) == (time, source)


@pytest.mark.parametrize(
    ("value", "members"),
    [
        ([{"Member_Account": "a"}], ["a"]),
        (
            [{"Member_Account": "a", "Extra": 1}, {"Member_Account": 144115245353757792}],
            ["a", "144115245353757792"],
        ),
        (["a", 5], ["a", "5"]),
        ("a", ["a"]),
        ([{}, None, True, {"x": 1}, {"Member_Account": ""}], []),
        ([], []),
    ],
)
def test_member_lists_in_every_shape(value, members):
    """Objects, strings or numbers become a list of strings; ids stay exact."""
    assert exit_of(ExitMemberList=value, ExitType="Kicked")["data"]["members"] == members


@pytest.mark.parametrize("value", [[], ..., None, ""])
def test_a_quit_without_members_falls_back_to_the_operator(value):
    """Who quits is the operator; in a kick the operator is not the one who left."""
    assert exit_of(ExitMemberList=value, ExitType="Quit", Operator_Account="me")["data"]["members"] == ["me"]
    assert exit_of(ExitMemberList=value, ExitType="Kicked")["data"].get("members", []) == []


def test_unknown_values_and_fields_are_kept():
    """New exit types pass through in lower case, unknown fields under their snake_case name."""
    data = exit_of(ExitType="Banned", ToNewField={"SubField": 1}, ExitReason="x")["data"]

    assert (data["exit_type"], data["exit_reason"], data["to_new_field"]) == ("banned", "x", {"sub_field": 1})


def test_names_that_meet_are_both_kept():
    """Two wire names that become one, and names of ours: nothing overwrites anything."""
    data = exit_of(GroupID="b", group_id="c", raw="r", Raw="R", raw_base64="q")["data"]

    assert data["group_id"] == "@TGS#2J4SZEAEL"
    assert data["GroupID"] == "b"
    assert data["group_id_"] == "c"
    assert {"r", "R", "q"} <= {value for value in data.values() if isinstance(value, str)}
    assert data["raw"]["raw"] == "r"


def test_a_different_command_in_the_body_is_kept():
    """The query decides, the body's word stays visible."""
    event = one({**PAGE, "CallbackCommand": "Group.Other"})

    assert event["command"] == EXIT
    assert event["data"]["callback_command"] == "Group.Other"


def test_an_unknown_command_keeps_everything():
    """im.unknown with the general rules: ids exact, one-key objects flattened, seconds in milliseconds."""
    body = {"From_Account": 144115245353757792, "To_Account": "b", "MsgTime": 1670574414, "MsgSeq": 4294967295,
            "ItemList": [{"Tag_Account": 1}, {"Tag_Account": "x"}], "Ok": True, "N": None}  # fmt: skip
    event = one(body, "New.CallbackAfterThing")

    assert (event["type"], event["phase"], event["subject"]) == (
        "im.unknown",
        "after",
        "c2c/144115245353757792/b",
    )
    assert (event["time"], event["timesource"]) == ("2022-12-09T08:26:54.000Z", "MsgTime")
    data = event["data"]
    assert data.pop("raw") == body
    assert data == {
        "from": "144115245353757792",
        "to": "b",
        "msg_time_ms": 1670574414000,
        "msg_seq": 4294967295,
        "item_list": ["1", "x"],
        "ok": True,
        "n": None,
    }


def test_a_push_envelope_becomes_an_event_per_item():
    """Each with its own id, time and raw; the item is the fact, not its place."""
    body = json.loads((SAMPLES[0].parent / "Push.OfflinePush.json").read_text())
    events = [json.loads(event.body) for event in normalise(callback(body, "Push.OfflinePush"), "j.7")]
    body["Events"].reverse()
    again = [json.loads(event.body) for event in normalise(callback(body, "Push.OfflinePush"), "j.8")]

    assert [event["position"] for event in events] == ["j.7.0", "j.7.1"]
    assert [event["time"] for event in events] == ["2019-05-10T09:38:47.000Z"] * 2
    assert events[0]["data"]["raw"]["MsgSeq"] == 48374
    assert [event["id"] for event in events] == [event["id"] for event in reversed(again)]
    assert events[0]["id"] != events[1]["id"]


def test_more_than_100_items_are_one_malformed():
    """A bound that the sender documents; the body is kept."""
    body = {"Events": [{"a": n} for n in range(101)]}
    event = one(body, "Push.OfflinePush")

    assert event["type"] == "im.malformed"
    assert event["data"]["reason"] == "too_many_items"
    assert json.loads(base64.b64decode(event["data"]["raw_base64"])) == body
    assert (
        len(normalise(callback({"Events": [{"a": n} for n in range(100)]}, "Push.OfflinePush"), "j.1")) == 100
    )


@pytest.mark.parametrize("body", [b"", b"no json", b"[1]", b'"x"', b"\xff\x00", b'{"a":NaN}', b"[" * 5000])
def test_a_malformed_body_is_an_event_too(body):
    """What a verified sender wrote goes on, as it came."""
    event = one(body)

    assert event["type"] == "im.malformed"
    assert base64.b64decode(event["data"]["raw_base64"]) == body
    assert event["subject"] == "app/14"


def test_malformed_without_body_names_position_and_reason():
    """For a message that the broker will not have: small, and the journal keeps the rest."""
    event = json.loads(malformed(callback(b"x" * 10**6), "j.7", "refused_by_broker", with_body=False).body)

    assert event["position"] == "j.7.0"
    assert event["data"] == {"reason": "refused_by_broker"}


def test_control_characters_do_not_enter_attributes():
    """CloudEvents attributes and AMQP headers hold no control characters; data keeps them."""
    event = exit_of(GroupId="a\x00b\x1b[31m\x85")

    assert event["subject"] == event["partitionkey"] == "group/a\ufffdb\ufffd[31m\ufffd"
    assert event["data"]["group_id"] == "a\x00b\x1b[31m\x85"


@pytest.mark.parametrize("group", ["g" * 300, "名" * 300, "é" * 100_000])
def test_long_ids_are_cut_in_attributes_and_stay_distinct(group):
    """A header has to fit a frame; a hash keeps two long ids apart."""
    first, second = exit_of(GroupId=group + "1"), exit_of(GroupId=group + "2")

    assert len(first["partitionkey"].encode()) <= 255
    assert first["partitionkey"] != second["partitionkey"]
    assert first["data"]["group_id"] == group + "1"


def test_surrogates_and_huge_numbers():
    """Lone surrogates become U+FFFD, numbers that no double holds become their digits; raw keeps the wire."""
    raw = rb'{"GroupId":"\ud800x","A":123456789012345678901234567890,"B":1e999,"C":18446744073709551615}'
    [event] = normalise(callback(raw), "j.1")
    data = Event.parse(event.body).data

    assert data["group_id"] == "\ufffdx"
    assert data["a"] == "123456789012345678901234567890"
    assert data["b"] == "1e999"
    assert data["c"] == 18446744073709551615
    assert raw in event.body


def test_the_deepest_body_comes_back_from_the_queue():
    """What the receiver takes, the worker can read."""
    body = b'{"x":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    [event] = normalise(callback(body), "j.1")

    assert Event.parse(event.body).id == event.id


def ids(*bodies, **changes):
    return {normalise(callback(body, **changes), f"j.{at}")[0].id for at, body in enumerate(bodies)}


def test_equal_facts_have_one_id():
    """Key order, EventTime as text or number, another query, another time of receipt: the same fact."""
    reordered = dict(reversed(PAGE.items()))
    as_number = {**PAGE, "EventTime": 1670574414123}
    later = callback(PAGE)._replace(received_ms=RECEIVED_MS + 10**9, peer="9.9.9.9", verified=False)
    resent = later._replace(query=later.query + "&RequestTime=1")

    found = ids(PAGE, reordered, as_number) | {normalise(one_, "j.9")[0].id for one_ in (later, resent)}

    assert len(found) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"GroupId": "other"},
        {"ExitType": "Quit"},
        {"Operator_Account": "x"},
        {"ExitMemberList": [{"Member_Account": "jared"}]},
        {"EventTime": "1670574414124"},
    ],
)
def test_different_facts_have_different_ids(change):
    """Each part of the fact counts."""
    assert len(ids(PAGE, {**PAGE, **change})) == 2


def test_app_and_command_are_part_of_the_id():
    """The same body for another app or command is another fact."""
    other_app = callback(PAGE)._replace(app_id="15")

    found = ids(PAGE) | {normalise(other_app, "j.1")[0].id} | ids(PAGE, command="Group.CallbackAfterOther")
    shifted = callback({"A": 1}, "4New.Thing")._replace(app_id="1")

    assert len(found) == 3
    assert {normalise(shifted, "j.1")[0].id} != ids({"A": 1}, command="New.Thing")


@pytest.mark.parametrize(
    ("command", "body", "other"),
    [
        (EXIT, PAGE, {**PAGE, "ExitType": "kicked"}),
        (EXIT, PAGE, {key: value for key, value in PAGE.items() if key != "CallbackCommand"}),
        ("New.Thing", {"A": 5, "B": True}, {"A": "5", "B": "true"}),
        ("New.Thing", {"A": 5.0, "B": False}, {"B": "false", "A": [5], "CallbackCommand": "New.Thing"}),
        ("C2C.CallbackAfterSendMsg", {"From_Account": "a", "To_Account": "b"}, {"From_Account": ["a"], "To_Account": ["b"]}),
        ("Sns.CallbackFriendDelete", {"PairList": {"To_Account": "b"}}, {"PairList": [{"To_Account": ["b"]}]}),
    ],
)  # fmt: skip
def test_the_same_fact_in_another_spelling(command, body, other):
    """Case of known words, the body's own command, numbers, booleans, lists of one."""
    assert len(ids(body, other, command=command)) == 1


@pytest.mark.parametrize(
    ("command", "body", "other"),
    [
        ("New.Thing", {"A": "true"}, {"A": "false"}),
        ("New.Thing", {"A": True}, {"A": False}),
        ("New.Thing", {"A": "5"}, {"B": "5"}),
        ("New.Thing", {"A": [5, 6]}, {"A": [6, 5]}),
        ("New.Thing", {"A": []}, {"A": None}),
        ("New.Thing", {"A": {"B": "5"}}, {"A": "5"}),
        ("C2C.CallbackAfterMsgWithDraw", {"From_Account": "a", "To_Account": "bc", "MsgKey": "d"},
         {"From_Account": "ab", "To_Account": "c", "MsgKey": "d"}),
    ],
)  # fmt: skip
def test_other_facts_that_look_alike(command, body, other):
    """Names, order, nesting and the border between two values count."""
    assert len(ids(body, other, command=command)) == 2


@pytest.mark.parametrize(
    ("command", "body", "is_timed"),
    [
        ("New.Thing", {"MsgKey": "1_2_3"}, True),
        ("New.Thing", {"MsgTime": 1670574414}, True),
        ("New.Thing", {"A": 1}, False),
        ("C2C.CallbackAfterMsgWithDraw", {"MsgKey": "1_2_3"}, True),
        ("C2C.CallbackAfterMsgWithDraw", {"MsgKey": [""]}, False),
        ("Live.CallbackAfterCreateRoom", {"RoomInfo": [{"EventTime": 1670574414123}]}, True),
    ],
)
def test_what_makes_a_fact_known_for_ever(command, body, is_timed):
    """A time or a sequence; without them the time of receipt counts."""
    stored = callback(body, command)
    later = stored._replace(received_ms=stored.received_ms + 10**9)
    found = {normalise(one_, "j.1")[0].id for one_ in (stored, later)}

    assert len(found) == (1 if is_timed else 2)


def test_each_recipe_has_ids_of_its_own():
    """A later recipe may call other facts equal, so it may not give the id that an earlier one gave."""
    assert ids(PAGE) != ids(PAGE, id_recipe=2)


def test_without_time_the_window_tells_facts_apart():
    """Resent at once is one event, the same words a minute later are another; the stored window counts."""
    body = {key: value for key, value in PAGE.items() if key != "EventTime"}
    at = [callback(body)._replace(received_ms=1_700_000_000_000 + ms) for ms in (0, 9_999, 60_000)]
    wide = [one_._replace(id_window_s=3600) for one_ in at]

    assert len({normalise(one_, "j.1")[0].id for one_ in at}) == 2
    assert len({normalise(one_, "j.1")[0].id for one_ in wide}) == 1


def test_the_id_of_the_page_sample_never_changes():
    """A replay after any upgrade gives the same id: this value is for ever."""
    assert one(PAGE)["id"] == "a68a1f000082302d4cf176a8234017cb"


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_becomes_events(path):
    """All recorded bodies go through, and an independent reader takes them for CloudEvents."""
    for event in normalise(callback(path.read_bytes(), path.stem), "j.1"):
        read = json.loads(event.body)
        data = read.pop("data")
        attributes = {**read, "time": datetime.fromisoformat(read["time"])}
        accepted = CloudEvent(attributes=attributes, data=data)

        assert accepted.get_id() == event.id
        assert accepted.get_type() == event.type
        assert data["raw"]
        assert all(key == snake(key) or key in ("raw",) for key in data), data.keys()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
wire_names = st.sampled_from(
    ["GroupId", "EventTime", "MsgTime", "ExitMemberList", "ExitType", "Operator_Account", "CallbackCommand", "Type",
     "From_Account", "To_Account", "Events", "raw", "Info", "MsgSeq"]
)  # fmt: skip
commands = st.sampled_from([*COMMANDS, "Push.OfflinePush", "New.Thing", ""])


@given(st.dictionaries(wire_names | st.text(max_size=8), json_values, max_size=8), commands)
def test_any_object_becomes_readable_events(body, command):
    """Never an exception; ids are there, positions count, and the worker can read what comes out."""
    for at, event in enumerate(normalise(callback(body, command), "j.1")):
        read = Event.parse(event.body)

        assert read.attributes["position"] == f"j.1.{at}"
        assert read.type.startswith("im.")
        assert len(read.id) == 32
        assert "raw" in read.data or "raw_base64" in read.data


@given(st.binary(max_size=200), commands, st.text(max_size=40))
def test_any_bytes_become_an_event(body, command, query):
    """Whatever stands in the journal goes on, body or query however broken."""
    stored = callback(body, command)._replace(query=query)

    events = normalise(stored, "j.1")

    assert events
    for event in events:
        Event.parse(event.body)


@given(st.dictionaries(wire_names | st.text(max_size=8), json_values, max_size=8), commands, st.randoms())
def test_ids_do_not_depend_on_key_order(body, command, random):
    """Shuffled keys are the same fact, for every command."""
    keys = list(body)
    random.shuffle(keys)
    first = normalise(callback(body, command), "j.1")
    second = normalise(callback({key: body[key] for key in keys}, command), "j.2")

    if snake_names_are_distinct(body):
        assert [event.id for event in first] == [event.id for event in second]


def snake_names_are_distinct(body):
    return len({snake(key) for key in body} | {"raw"}) == len(set(body) | {"raw"})


@given(st.binary(max_size=60).filter(lambda text: b"\n" not in text))
def test_orjson_and_our_parser_agree_on_plain_bodies(text):
    """The event's JSON is read alike by an independent parser wherever the body is plain."""
    [event] = normalise(callback({"Text": text.decode("latin-1")}, "New.Thing"), "j.1")

    assert orjson.loads(event.body)["data"]["text"] == text.decode("latin-1")


def data_of(body, command):
    return one(body, command)["data"]


def test_pitfall_2_the_command_is_absent_nested_or_another():
    """ContentCallback has none, Push hides it in its items, pages mix two up: the query decides, both stay."""
    moderated = {"CtxcbResult": 1, "CtxcbRequestId": "r", "From_Account": "a", "SdkAppId": 1400187352}
    push = {"Events": [{"CallbackCommand": "Push.AllMemberPush", "To_Account": "u", "EventTime": 1557481128}]}
    bare = {"query": "sdkappid=14"}

    assert one(moderated, **bare)["type"] == "im.moderation.content.reviewed"
    assert one(moderated, **bare)["command"] == "ContentCallback.ResultNotify"
    assert one(push, **bare)["type"] == "im.push.all_member_push.reported"
    mixed = one(
        {"CallbackCommand": "Live.CallbackAfterDelMetadata", "Keys": ["k"]}, "Live.CallbackAfterSetMetadata"
    )
    assert mixed["type"] == "im.live.metadata.set"
    assert mixed["data"]["callback_command"] == "Live.CallbackAfterDelMetadata"
    assert mixed["data"]["keys"] == ["k"]


def test_legacy_callbacks_with_a_lower_case_query():
    """The old call engine: command in the query only, platform spelled in its own way."""
    query = "sdkappid=14&command=call_end&contenttype=json&clientip=0.0.0.0&optplatform=rest_api"
    event = one(
        {"UserId": "Alice", "CallId": "c1", "CallResult": "normal_end", "EndTs": 1704856885}, query=query
    )
    unknown = one({"RoomId": 7}, query=query.replace("call_end", "room_mute"))

    assert (event["type"], event["command"], event["subject"]) == (
        "im.call.user_call.ended",
        "call_end",
        "call/c1",
    )
    assert (event["clientip"], event["platform"]) == ("0.0.0.0", "rest_api")
    assert event["data"]["end_time_ms"] == 1704856885000
    assert (unknown["type"], unknown["command"], unknown["subject"]) == ("im.unknown", "room_mute", "room/7")


def test_pitfall_3_unknown_commands_keep_everything():
    """A command of next year is an event as well, with its phase guessed from its name."""
    event = one({"GroupId": "g", "New": {"Deep_Account": 2**60}}, "Group.CallbackBeforeNewThing")

    assert (event["type"], event["phase"], event["subject"]) == ("im.unknown", "before", "group/g")
    assert event["data"]["new"] == {"deep": str(2**60)}


def test_pitfall_6_a_resent_message_is_one_event():
    """The natural key counts: later, with other key order and other counters, it is the same message."""
    body = json.loads((SAMPLES[0].parent / "C2C.CallbackAfterSendMsg.json").read_text())
    later = dict(reversed({**body, "UnreadMsgNum": 9}.items()))
    command = "C2C.CallbackAfterSendMsg"

    assert one(body, command)["id"] == one(later, command, received_ms=RECEIVED_MS + 10**7)["id"]
    assert one(body, command)["id"] != one({**body, "MsgSeq": 1}, command)["id"]


def test_pitfall_6_without_time_a_short_window_counts():
    """Friend deleted, added, deleted again: two facts, when they are apart; resent at once it is one."""
    body, command = {"PairList": [{"From_Account": "a", "To_Account": "b"}]}, "Sns.CallbackFriendDelete"
    ids = [one(body, command, received_ms=1_700_000_000_000 + ms)["id"] for ms in (0, 9_000, 60_000)]

    assert ids[0] == ids[1] != ids[2]


def test_a_known_command_in_a_new_shape_does_not_merge_facts():
    """Where what identifies the fact is missing, the whole body does."""
    first, second = ({"GroupId": "g", "NewMembers": [name], "EventTime": 1670574414123} for name in "ab")
    command = "Group.CallbackAfterNewMemberJoin"

    assert one(first, command)["id"] != one(second, command)["id"]


def test_pitfall_7_one_act_several_events():
    """Before, after and bot are three events about one message, with three ids and one key."""
    body = json.loads((SAMPLES[0].parent / "Bot.OnC2CMessage.json").read_text())
    events = [
        one(body, name)
        for name in ("C2C.CallbackBeforeSendMsg", "C2C.CallbackAfterSendMsg", "Bot.OnC2CMessage")
    ]

    assert len({event["id"] for event in events}) == len({event["type"] for event in events}) == 3
    assert {event["data"]["message"]["key"] for event in events} == {"48374_2837546_1557481126"}
    assert [event["phase"] for event in events] == ["before", "after", "after"]


def test_pitfall_9_what_belongs_together_has_one_key():
    """Messages of both directions, and all of a topic, share a partition key; sequences are there to sort by."""
    there = {"From_Account": "b", "To_Account": "a", "MsgSeq": 1, "MsgTime": 1557481126}
    back = {"From_Account": "a", "To_Account": "b", "MsgSeq": 2, "MsgTime": 1557481127}
    keys = {one(body, "C2C.CallbackAfterSendMsg")["partitionkey"] for body in (there, back)}
    topic = one({"GroupId": "g", "TopicId": "g@TOPIC#_1", "MsgSeq": 5}, "Group.CallbackAfterSendMsg")
    empty = one({"GroupId": "g", "TopicId": "", "MsgSeq": 5}, "Group.CallbackAfterSendMsg")

    assert keys == {"c2c/a/b"}
    assert (topic["subject"], empty["subject"]) == ("topic/g@TOPIC#_1", "group/g")
    assert "topic_id" not in empty["data"]
    assert topic["data"]["message"]["seq"] == 5


def test_pitfall_10_integers_are_exact():
    """Above int32, above 2^53, above 64 bits."""
    data = data_of(
        {"From_Account": "a", "To_Account": "b", "MsgSeq": 3998651049, "MsgRandom": "2804799576"},
        "C2C.CallbackAfterSendMsg",
    )
    seats = data_of(
        json.loads((SAMPLES[0].parent / "Mic.CallbackAfterSeatInfoChanged.json").read_text()),
        "Mic.CallbackAfterSeatInfoChanged",
    )
    wide = json.loads(b'{"Room_Account": %d, "N": %d}' % (2**70, 2**70))

    assert (data["message"]["seq"], data["message"]["random"]) == (3998651049, 2804799576)
    assert seats["seat_list"][0]["member"] == "144115233775727695"
    assert seats["subjects"] == ["144115233775727695"]
    assert data_of(wide, "New.Thing")["n"] == str(2**70)


@pytest.mark.parametrize(
    "user", ["", "@TLS#NOT_FOUND", "@TIM#SYSTEM", "administrator", 144115216631667826, 0]
)
def test_pitfall_11_user_ids_have_no_format(user):
    """Numbers become text, special and empty ones stay."""
    data = data_of({"RoomId": "r", "Operator_Account": user}, "Live.CallbackAfterUpdateRoomInfo")

    assert data["operator"] == str(user)
    assert data.get("actor", "") == str(user)


@pytest.mark.parametrize("group", ["@TGS#_a@TOPIC#_b", 'my group/"x" 100%<b>', "a#b", " "])
def test_pitfall_12_group_ids_are_nearly_any_ascii(group):
    """They stand as they are; nothing is split or escaped."""
    event = exit_of(GroupId=group)

    assert event["subject"] == f"group/{group}"
    assert event["data"]["group_id"] == group


@pytest.mark.parametrize(
    ("command", "body", "name", "value"),
    [
        ("Push.OfflinePush", {"GroupID": "g"}, "group_id", "g"),
        ("Group.CallbackAfterGroupFull", {"GroupID": "g"}, "group_id", "g"),
        ("Group.CallbackAfterCreateGroup", {"groupID": "g"}, "group_id", "g"),
        ("ContentCallback.ResultNotify", {"ContactItem": {"ToGroupId": "g"}}, "contact_item", {"group_id": "g"}),
        ("Group.CallbackBeforeApplyJoinGroup", {"Requestor_Account": "u"}, "requester", "u"),
        ("Sns.CallbackPrevFriendAdd", {"Requester_Account": "u"}, "requester", "u"),
        ("Group.CallbackAfterMemberFieldChanged", {"Member_Account": "u"}, "member", "u"),
        ("Group.CallbackAfterMemberFieldChanged", {"Modified_Account": "u"}, "member", "u"),
        ("Group.CallbackAfterGroupAttrChanged", {"GroupAttr": [{"Key": "k", "value": "v"}]}, "group_attr", [{"key": "k", "value": "v"}]),
        ("Live.CallbackAfterModifyAdmin", {"opType": "add"}, "op_type", "add"),
        ("ContentCallback.ResultNotify", {"SdkAppId": 1400187352}, "sdk_app_id", "1400187352"),
    ],
)  # fmt: skip
def test_pitfall_13_one_name_for_each_spelling(command, body, name, value):
    """However the wire spells it, consumers look in one place."""
    assert data_of(body, command)[name] == value


@pytest.mark.parametrize(
    ("command", "body", "name", "value"),
    [
        ("Follow.CallbackAfterFollowDelete", {"To_Account": "a"}, "to", ["a"]),
        ("Follow.CallbackAfterFollowDelete", {"To_Account": ["a", "b"]}, "to", ["a", "b"]),
        ("Follow.CallbackAfterFollowAdd", {"FollowList": [{"To_Account": "a"}]}, "to", ["a"]),
        ("Group.CallbackAfterTopicDestroyed", {"TopicIdList": "t"}, "topic_ids", ["t"]),
        ("Group.CallbackAfterTopicDestroyed", {"TopicIdList": ["t"]}, "topic_ids", ["t"]),
        ("ContentCallback.ResultNotify", {"TextContent": "x"}, "text_content", ["x"]),
        ("ContentCallback.ResultNotify", {"TextContent": ["x", "y"]}, "text_content", ["x", "y"]),
        ("Group.CallbackAfterRecallMsg", {"MsgSeqList": [{"MsgSeq": 1}, {"MsgSeq": 2, "MsgId": "i"}]}, "messages", [{"seq": 1}, {"seq": 2, "id": "i"}]),
        ("Group.CallbackAfterRecallMsg", {"MsgSeqList": [1, "2"]}, "messages", [{"seq": 1}, {"seq": 2}]),
        ("Room.CallbackAfterMemberEnter", {"MemberList_Account": "a"}, "members", ["a"]),
        ("Live.CallbackAfterModifyAdmin", {"Admin_Account": [5, "b"]}, "admins", ["5", "b"]),
        ("Room.CallbackUpdateRoomInfo", {"RoomInfo": {"IsSeatEnabled": "false", "RoomId": "r"}}, "room_info", {"is_seat_enabled": False, "room_id": "r"}),
        ("Room.CallbackAfterUpdateRoomInfo", {"RoomInfo": {"IsNewThing": "true"}}, "room_info", {"is_new_thing": True}),
        ("OfficialAccount.CallbackAfterMsgWithDraw", {"WithdrawMsgList": [{"MsgKey": "k"}]}, "msg_keys", ["k"]),
    ],
)  # fmt: skip
def test_pitfall_14_one_shape_for_each_field(command, body, name, value):
    """A list is always a list, a boolean a boolean."""
    assert data_of(body, command)[name] == value


def test_pitfall_15_absent_stays_absent():
    """Null and missing are the same in known fields; what was not sent is not there."""
    event = one(
        {"GroupId": "g", "MsgSeq": 5, "CloudCustomData": None, "EventTime": None},
        "Group.CallbackAfterModifyMsg",
    )

    assert set(event["data"]) == {"group_id", "message", "subjects", "raw"}
    assert event["data"]["message"] == {"seq": 5}
    assert event["timesource"] == "received"


def test_pitfall_16_text_of_any_kind_survives():
    """Emoji, NUL and control characters; text of the app's own is not parsed, JSON or not."""
    text = '{"a": "\u0000\u001b\U0001f600"}'
    body = {
        "MsgBody": [{"MsgType": "TIMCustomElem", "MsgContent": {"Data": text, "Ext": "\x00"}}],
        "CloudCustomData": text,
    }
    message = data_of({"From_Account": "a", "To_Account": "b", **body}, "C2C.CallbackAfterSendMsg")["message"]

    assert message["elements"] == [{"type": "custom", "content": {"data": text, "ext": "\x00"}}]
    assert message["cloud_custom_data"] == text


def test_pitfall_17_big_bodies():
    """A group of 6,000 members, a push of 100 items: all there."""
    members = [{"Member_Account": f"user-{n}"} for n in range(6000)]
    event = one({"GroupId": "g", "MemberList": members}, "Group.CallbackAfterGroupDestroyed")
    push = {"Events": [{"To_Account": str(n), "EventTime": 1557481127} for n in range(100)]}

    assert len(event["data"]["members"]) == len(event["data"]["subjects"]) == 6000
    assert len({event.id for event in normalise(callback(push, "Push.OfflinePush"), "j.1")}) == 100


def test_pitfall_18_comments_are_no_json():
    """The pages print comments; the wire has none, and // inside of a string is text."""
    assert one(b'{"GroupId": "g" // the group\n}')["type"] == "im.malformed"
    assert (
        data_of(b'{"FaceUrl": "http://x//y"}', "Group.CallbackAfterGroupInfoChanged")["face_url"]
        == "http://x//y"
    )


def test_pitfall_23_error_codes_in_a_request_are_data():
    """They say why a message failed."""
    body = json.loads((SAMPLES[0].parent / "Group.CallbackSendMsgException.json").read_text())
    event = one(body, "Group.CallbackSendMsgException")

    assert event["type"] == "im.group.message.failed"
    assert event["data"]["error_code"] == 10023
    assert event["data"]["error_info"].startswith("msg count")


def test_pitfall_24_platforms_have_one_case():
    """IOS in one command, iOS in the others; the query's too; missing parameters are absent."""
    body = {
        "Info": {"Action": "Login", "To_Account": "u", "Reason": "Register"},
        "KickedDevice": [{"Platform": "IOS"}],
    }
    event = one(
        body, "State.StateChange", query="SdkAppid=14&CallbackCommand=State.StateChange&OptPlatform=IOS"
    )

    assert event["data"]["kicked_device"] == ["ios"]
    assert event["platform"] == "ios"
    assert "clientip" not in event
    assert (event["subject"], event["data"]["info"]["action"]) == ("user/u", "login")


def test_the_message_object():
    """All of a group message in one place, mentions as accounts, flags as booleans."""
    body = {
        "GroupId": "g", "Type": "Public", "From_Account": "jared", "Operator_Account": "admin", "Random": 1, "MsgSeq": 2,
        "MsgTime": 1490686222, "MsgId": "i", "OnlineOnlyFlag": 1, "MsgPriority": "High", "SendMsgResult": 0,
        "GroupAtInfo": [{"GroupAtAllFlag": 0, "GroupAt_Account": "tom"}, {"GroupAtAllFlag": 1}],
        "MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "hi"}},
                    {"MsgType": "NewElem", "MsgContent": {"NewField": 1}, "More": 2},
                    {"MsgType": "TIMImageElem", "MsgContent": {"UUID": "u", "ImageInfoArray": [{"Type": 1, "URL": "x"}]}}],
        "CloudCustomData": "{}", "EventTime": "1670574414123",
    }  # fmt: skip
    data = data_of(body, "Group.CallbackAfterSendMsg")

    assert data["message"] == {
        "random": 1, "seq": 2, "time_ms": 1490686222000, "id": "i", "online_only": True, "priority": "high",
        "send_result": 0, "mentions": ["tom"], "mentions_all": True, "cloud_custom_data": "{}",
        "elements": [
            {"type": "text", "content": {"text": "hi"}},
            {"type": "NewElem", "content": {"new_field": 1}, "more": 2},
            {"type": "image", "content": {"uuid": "u", "image_info_array": [{"type": 1, "url": "x"}]}},
        ],
    }  # fmt: skip
    assert (data["actor"], data["subjects"], data["from"]) == ("admin", ["tom"], "jared")


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ({"type": 1, "unfit": 1}, {"type_": 1, "unfit": 1}),
        ({"content": 1}, {"content_": 1}),
        ({"type": 1, "MsgType": "TIMTextElem"}, {"type": "text", "type_": 1}),
    ],
)
def test_unknown_fields_of_an_element_take_none_of_our_names(element, expected):
    """The schemas promise a text and an object there."""
    data = data_of({"GroupId": "g", "MsgBody": [element]}, "Group.CallbackAfterSendMsg")

    assert data["message"]["elements"] == [expected]


def test_relays_hold_messages_with_elements_of_their_own():
    """Nested as deep as the body; without the list there is its key."""
    inner = {
        "From_Account": 5,
        "MsgSeq": 1,
        "MsgTimeStamp": 1490686222,
        "MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "x"}}],
    }
    relay = [
        {
            "MsgType": "TIMRelayElem",
            "MsgContent": {"Title": "t", "MsgNum": 1, "AbstractList": ["x"], "MsgList": [inner]},
        }
    ]
    outer = [
        {"MsgType": "TIMRelayElem", "MsgContent": {"MsgList": [{"MsgBody": relay}, "odd"], "JsonMsgKey": "k"}}
    ]
    message = data_of({"From_Account": "a", "To_Account": "b", "MsgBody": outer}, "C2C.CallbackAfterSendMsg")[
        "message"
    ]

    content = message["elements"][0]["content"]
    assert content["json_msg_key"] == "k"
    assert content["messages"][1] == "odd"
    nested = content["messages"][0]["elements"][0]["content"]
    assert (nested["title"], nested["abstract_list"]) == ("t", ["x"])
    assert nested["messages"] == [
        {
            "from": "5",
            "seq": 1,
            "time_ms": 1490686222000,
            "elements": [{"type": "text", "content": {"text": "x"}}],
        }
    ]


def test_what_does_not_fit_is_kept_beside():
    """Types hold: a value of another shape stands under the wire's name."""
    data = data_of(
        {"GroupId": {"x": 1}, "MsgSeq": "many", "MsgBody": "text", "MsgTime": "soon"},
        "Group.CallbackAfterSendMsg",
    )

    assert data["GroupId"] == {"x": 1}
    assert (data["MsgSeq"], data["MsgBody"], data["MsgTime"]) == ("many", "text", "soon")
    assert "message" not in data


def test_moderated_messages_name_the_message():
    """MsgID is a key in one-to-one chats and a sequence in groups."""
    c2c = one(
        {"Scene": "C2C", "MsgID": "1_2_3", "From_Account": "b", "ContactItem": {"To_Account": "a"}},
        "ContentCallback.ResultNotify",
    )
    group = one(
        {"Scene": "Group", "MsgID": "17", "ContactItem": {"ToGroupId": "g"}}, "ContentCallback.ResultNotify"
    )

    assert (c2c["subject"], c2c["data"]["message"]) == ("c2c/a/b", {"key": "1_2_3"})
    assert (group["subject"], group["data"]["message"]) == ("group/g", {"seq": 17})


def test_fields_around_push_items_are_kept():
    """What stands beside the items goes with each of them."""
    event = one(
        {"CallbackCommand": "Push.OfflinePush", "Events": [{"To_Account": "u"}], "BatchId": 7},
        "Push.OfflinePush",
    )

    assert event["data"]["envelope"] == {"batch_id": "7"}


def test_times_inside_of_rooms():
    """RoomInfo.EventTime is the time of the event."""
    body = json.loads((SAMPLES[0].parent / "Live.CallbackAfterCreateRoom.json").read_text())
    event = one(body, "Live.CallbackAfterCreateRoom")

    assert (event["time"], event["timesource"]) == ("2023-12-26T11:25:22.780Z", "EventTime")
    assert event["data"]["room_info"]["create_time_ms"] == 1703589922000
    assert event["subject"] == "room/tandy-test-rest"


def test_duplicate_keys_count_the_last():
    """As every JSON reader does; raw keeps both."""
    event = one(b'{"GroupId": "a", "GroupId": "b"}')

    assert event["data"]["group_id"] == "b"


@given(
    st.sampled_from(sorted(COMMANDS)),
    st.dictionaries(wire_names | st.text(max_size=8), json_values, max_size=8),
)
def test_no_known_command_fails_on_any_body(command, body):
    """Not one of the rows raises, and each event has its type."""
    for event in normalise(callback({"Events": 1, **body}, command), "j.1"):
        assert event.type in (COMMANDS[command].type, "im.malformed")


@pytest.mark.parametrize("as_list", [True, False])
def test_the_deepest_relay_comes_back_from_the_queue(as_list):
    """Our shapes are nested no deeper than the wire's, so that the worker can read what the receiver took."""
    body = {"MsgType": "TIMTextElem", "MsgContent": {"Text": "x"}}
    while True:
        outer = {
            "MsgType": "TIMRelayElem",
            "MsgContent": {"MsgList": [{"MsgBody": [body] if as_list else body}]},
        }
        if (
            normalise(callback({"MsgBody": outer}, "C2C.CallbackAfterSendMsg"), "j.1")[0].type
            == "im.malformed"
        ):
            break
        body = outer
        [event] = normalise(callback({"MsgBody": body}, "C2C.CallbackAfterSendMsg"), "j.1")
        assert Event.parse(event.body).data["message"]["elements"][0]["type"] == "relay"


def test_a_variant_of_a_field_fits_where_it_lands():
    """A wire name that only the general rule knows takes the known field's shape, or stays under its own."""
    follow = data_of({"To_Account": "a"}, "Follow.CallbackAfterFollowAdd")
    nothing = data_of({"To_Account": None, "Actor": 5, "message": "x"}, "Follow.CallbackAfterFollowAdd")

    assert follow["to"] == ["a"]
    assert nothing["to"] == []
    assert (nothing["Actor"], nothing["message_"], nothing["subjects"]) == (5, "x", [])


def test_members_that_cannot_be_read_still_tell_facts_apart():
    """Entries in a shape we do not know drop out of members, and must not make two exits one."""
    first, second = (exit_of(ExitMemberList=[{"Member": name}], ExitType="Kicked") for name in ("a", "b"))

    assert first["data"]["members"] == second["data"]["members"] == []
    assert first["id"] != second["id"]


def test_what_stands_around_many_items_is_not_multiplied():
    """A megabyte beside a hundred items stays about a megabyte; a small rest stands in each event."""
    items = [{"n": at} for at in range(100)]
    large = normalise(callback({"Events": items, "Big": "x" * 1_000_000}, "Push.AllMemberPush"), "j.1")
    small = normalise(callback({"Events": items, "Note": "x"}, "Push.AllMemberPush"), "j.1")

    assert sum(len(event.body) for event in large) < 2_000_000
    assert large[0].data["envelope"]["big"] == "x" * 1_000_000
    assert all(event.data["envelope"] == {"note": "x"} for event in small)


def test_members_that_cannot_be_read_are_kept_under_the_wires_name():
    """What redaction leaves of an event without raw still holds every entry."""
    strange = [{"Member_Account": "a"}, {"Member": "b"}]
    data = exit_of(ExitMemberList=strange, ExitType="Kicked")["data"]
    plain = exit_of(ExitMemberList=[{"Member_Account": "a"}, {}, ""], ExitType="Kicked")["data"]

    assert data["members"] == plain["members"] == ["a"]
    assert data["ExitMemberList"] == [{"member": "a"}, {"member": "b"}]
    assert "ExitMemberList" not in plain


def test_an_account_that_comes_as_a_list_of_one_is_that_account():
    """Pitfall 14: To_Account is text or a list; the pair, the names and the actor are the same."""
    body = {"From_Account": "a", "To_Account": "b", "MsgKey": "1_2_3", "MsgTime": 1670574414, "MsgBody": []}
    plain = one(body, "C2C.CallbackAfterSendMsg")
    listed = one({**body, "To_Account": ["b"]}, "C2C.CallbackAfterSendMsg")

    assert plain["subject"] == listed["subject"] == "c2c/a/b"
    for event in (plain, listed):
        event["data"].pop("raw")
    assert plain["data"] == listed["data"]


@pytest.mark.parametrize(
    "query", ["SdkAppid=14&CallbackCommand=C.X", "SdkAppid=14&command=C.Y", "SdkAppid=14"]
)
@pytest.mark.parametrize(
    "body", [*(path.read_bytes() for path in SAMPLES), b"{", b"[]", b'{"Events":[{"CallbackCommand":"C.Z"}]}']
)
def test_the_command_named_is_that_of_the_event(query, body):
    """Who looks for a command finds what the event of that callback says, wherever the name stood."""
    given_callback = callback(body, query=query)
    event, *_ = normalise(given_callback, "j.7")

    assert command_named(given_callback) == event.attributes.get("command", "")
