"""Callback to events: the member exit complete, everything else by the general rules, and never an exception."""

import base64
import dataclasses
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
from gateway.normalise import malformed, normalise

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
    return dataclasses.replace(base, **changes)


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
    later = dataclasses.replace(
        callback(PAGE), received_ms=RECEIVED_MS + 10**9, peer="9.9.9.9", verified=False
    )
    resent = dataclasses.replace(later, query=later.query + "&RequestTime=1")

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
    other_app = dataclasses.replace(callback(PAGE), app_id="15")

    found = ids(PAGE) | {normalise(other_app, "j.1")[0].id} | ids(PAGE, command="Group.CallbackAfterOther")

    assert len(found) == 3


def test_without_time_the_window_tells_facts_apart():
    """Resent at once is one event, the same words a minute later are another; the stored window counts."""
    body = {key: value for key, value in PAGE.items() if key != "EventTime"}
    at = [
        dataclasses.replace(callback(body), received_ms=1_700_000_000_000 + ms) for ms in (0, 9_999, 60_000)
    ]
    wide = [dataclasses.replace(one_, id_window_s=3600) for one_ in at]

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
    stored = dataclasses.replace(callback(body, command), query=query)

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


def test_members_that_cannot_be_read_still_tell_facts_apart():
    """Entries in a shape we do not know drop out of members, and must not make two exits one."""
    first, second = (exit_of(ExitMemberList=[{"Member": name}], ExitType="Kicked") for name in ("a", "b"))

    assert first["data"]["members"] == second["data"]["members"] == []
    assert first["id"] != second["id"]
