"""Personal data: what an app's rule names shows nowhere in its events."""

import dataclasses
import hashlib
import hmac
import json

import pytest

from gateway import normalise as normalising
from gateway.about import SUBJECT_PLACES
from gateway.callback import Callback
from gateway.catalogue import Kind
from gateway.config import App, load
from gateway.errors import ConfigError
from gateway.exits import member_exits
from gateway.names import snake
from gateway.normalise import malformed, normalise
from gateway.places import _fields
from gateway.redact import Redaction
from tests.test_catalogue import ROWS, callback, parts, sample_body

KEY = "a key of enough length"
EXIT = "Group.CallbackAfterMemberExit"
BODY = {
    "GroupId": "g-1", "Type": "Public", "ExitType": "Kicked", "Operator_Account": "leckie",
    "ExitMemberList": [{"Member_Account": "jared"}, {"Member_Account": "tommy"}], "EventTime": 1670574414123,
}  # fmt: skip
MESSAGE = {
    "From_Account": "zoe", "To_Account": "adam", "MsgSeq": 1, "MsgRandom": 2, "MsgTime": 1557481126, "MsgKey": "1_2_3",
    "MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "secret words"}},
                {"MsgType": "TIMRelayElem", "MsgContent": {"MsgList": [{"From_Account": "evelyn", "MsgBody": [
                    {"MsgType": "TIMTextElem", "MsgContent": {"Text": "more secrets"}}]}]}}],
    "CloudCustomData": "opaque",
}  # fmt: skip


def digest(text):
    return hmac.new(KEY.encode(), text.encode(), hashlib.sha256).hexdigest()


def redacted(body, command=EXIT, **rule):
    [event] = normalise(callback(body, command), "j.1", Redaction.of(rule, KEY))
    return event


def test_nothing_is_redacted_by_default():
    """Without a rule all is kept, raw included."""
    [event] = normalise(callback(BODY, EXIT), "j.1", Redaction())

    assert json.loads(event.body)["data"]["raw"] == BODY


def test_dropped_fields_and_raw_are_gone():
    """Dropped means nowhere: not in data, not in raw."""
    event = redacted(BODY, members="drop", operator="drop")
    data = json.loads(event.body)["data"]

    assert set(data) == {"group_id", "group_type", "exit_type"}
    assert not any(name in event.body for name in (b"jared", b"tommy", b"leckie"))


def test_hashed_fields_keep_their_shape_and_equality():
    """HMAC-SHA-256 with the key: lists stay lists, equal values stay equal, the sinks' table still works."""
    event = redacted(BODY, members="hash", group_id="hash")

    assert event.data["members"] == [digest("jared"), digest("tommy")]
    assert event.data["group_id"] == digest("g-1")
    assert event.attributes["subject"] == event.attributes["partitionkey"] == f"group/{digest('g-1')}"
    assert [row.member for row in member_exits(event)] == [digest("jared"), digest("tommy")]
    assert b"g-1" not in event.body


def test_the_id_does_not_change():
    """Who starts to redact does not get everything twice."""
    [plain] = normalise(callback(BODY, EXIT), "j.1")

    assert redacted(BODY, members="drop", group_id="hash").id == plain.id


def test_subject_key_actor_and_subjects_follow():
    """A pair is sorted after hashing, so that it is the same from both sides."""
    event = redacted(MESSAGE, "C2C.CallbackAfterSendMsg", **{"from": "hash", "to": "drop"})

    assert event.attributes["subject"] == "c2c/" + "/".join(sorted((digest("zoe"), digest("adam"))))
    assert event.attributes["partitionkey"] == event.attributes["subject"]
    assert event.data["actor"] == digest("zoe")
    assert event.data["subjects"] == []
    assert b"zoe" not in event.body
    assert b"adam" not in event.body


def test_names_match_at_any_depth_and_paths_at_their_end():
    """`text` is every text, `message.elements` only that; relays inside are covered."""
    texts = redacted(MESSAGE, "C2C.CallbackAfterSendMsg", text="hash", **{"from": "hash"})
    whole = redacted(MESSAGE, "C2C.CallbackAfterSendMsg", **{"message.elements": "drop"})

    assert b"secret" not in texts.body
    assert b"evelyn" not in texts.body
    assert texts.data["message"]["elements"][0]["content"]["text"] == digest("secret words")
    assert "elements" not in whole.data["message"]
    assert whole.data["message"]["cloud_custom_data"] == "opaque"


def test_attributes_of_the_query_can_be_redacted():
    """The address of a user is personal too (pitfall 25)."""
    event = redacted(BODY, clientip="drop", platform="hash")

    assert "clientip" not in event.attributes
    assert event.attributes["platform"] == digest("restapi")


def test_unknown_commands_and_misfits_are_covered():
    """The rule is about our names, whatever the body's shape."""
    unknown = redacted(
        {"Operator_Account": "me", "Deep": {"Operator_Account": 5}}, "New.Thing", operator="drop"
    )
    misfit = redacted({**BODY, "Operator_Account": {"who": "leckie"}}, operator="hash")

    assert unknown.data == {"deep": {}}
    assert b"leckie" not in misfit.body


def test_numbers_under_a_hashed_name_are_left_out():
    """Their hash would be no number, and a few tries would find it."""
    event = redacted(MESSAGE, "C2C.CallbackAfterSendMsg", seq="hash")

    assert "seq" not in event.data["message"]


def test_malformed_callbacks_show_no_body():
    """What can't be read can't be redacted, so it is left out."""
    rule = Redaction.of({"operator": "drop"}, "")
    [event] = normalise(callback({}, EXIT)._replace(body=b"no json"), "j.1", rule)

    assert event.data == {"reason": "malformed_body"}
    assert malformed(callback(BODY, EXIT), "j.1", "x", redaction=rule).data == {"reason": "x"}


def put(value, path, new):
    """Return *value* with *new* in the place of what stands at *path*."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(copy[path[0]], path[1:], new)
    return copy


def places(value, text, place=()):
    """Yield where in *value*, names of ours without the places in lists, *text* stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, text, (*place, snake(key)))
    elif isinstance(value, list):
        for item in value:
            yield from places(item, text, place)
    elif isinstance(value, str) and text in value:
        yield place


def rules_for(row, command, body):
    """Return every name, and every end of a path, that leads to where MARK stands in the event of *body*."""
    with pytest.MonkeyPatch.context() as patch:
        # Why without: what is filled in is a copy; the field has its own name.
        patch.setattr(normalising, "COMMANDS", {row.name: dataclasses.replace(row, mend=None)})
        data = dict(normalise(callback(body, command), "j.1")[0].data)
    for derived in ("raw", "actor", "subjects"):
        data.pop(derived, None)
    ways = [place[: at + 1] for place in places(data, MARK) for at in range(len(place))]
    return sorted({".".join(way[at:]) for way in ways for at in range(len(way))})


MARK = "zq-marker-7"
MISFITS = (MARK, {"x": MARK}, [MARK, 5], [[MARK]], [{"Who": MARK}], [{"Who_Account": MARK}, {"More": MARK}])


@pytest.mark.parametrize("command", ["", "New.Thing"], ids=["known", "unknown"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_a_field_holds_is_nowhere_once_its_name_is_redacted(row, command):
    """Each field of each command, known or not, in any shape; with each name that leads to it; id and key hold."""
    sample = sample_body(row)
    command = command or row.name
    for path in parts(sample):
        for name in rules_for(row, command, put(sample, path, MARK)):
            for misfit in MISFITS:
                body = put(sample, path, misfit)
                plain = normalise(callback(body, command), "j.1")[0]
                for how in ("drop", "hash"):
                    event = normalise(callback(body, command), "j.1", Redaction.of({name: how}, KEY))[0]

                    assert MARK.encode() not in event.body, (path, name, how)
                    assert event.id == plain.id
                    assert event.attributes["subject"] == event.partition_key


@pytest.mark.parametrize("how", ["drop", "hash"])
@pytest.mark.parametrize("command", ["", "New.Thing"], ids=["known", "unknown"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_one_word_hides_every_account(row, command, how):
    """`accounts`: whoever stands anywhere in any command, in any role; one person has one digest."""
    body = sample_body(row)
    known = {field.wire for field in _fields(row.fields) if field.kind in (Kind.ACCOUNT, Kind.ACCOUNTS)}
    for path in parts(body):
        names = [part for part in path if isinstance(part, str)]
        is_account = names[-1].endswith("_Account") or (not command and names[-1] in known)
        if is_account and names[-1] != "Official_Account":
            body = put(body, path, MARK)
    event = normalise(callback(body, command or row.name), "j.1", Redaction.of({"accounts": how}, KEY))[0]

    assert MARK.encode() not in event.body
    if how == "hash" and MARK in str(body):
        assert digest(MARK).encode() in event.body


UNKNOWN = {
    "group": [("GroupId",), ("groupID",), ("ToGroupId",)],
    "topic": [("TopicId",)],
    "room": [("RoomId",)],
    "official_account": [("Official_Account",)],
    "c2c": [("From_Account", "To_Account"), ("To_Account", "From_Account")],
    "user": [("UserId",), ("Requestor_Account",), ("Operator_Account",)],
}
KINDS = sorted({text.split(":")[0] for row in ROWS for text in row.about})


@pytest.mark.parametrize("key", [KEY, ""], ids=["key", "no key"])
@pytest.mark.parametrize("how", ["drop", "hash"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_has_one_key_whatever_is_redacted(kind, how, key):
    """All commands about it, and both sides of a pair, whichever of the fields with its ids is named."""
    ids = ("a@TOPIC#_1", "b@TOPIC#_2") if kind == "topic" else ("a", "b")
    bodies = [(row.name, body) for row in ROWS for body in bodies_about(row, kind, ids)]
    bodies += [("New.Thing", dict(zip(ways, ids, strict=False))) for ways in UNKNOWN.get(kind, ())]
    names = {".".join(place) for place in SUBJECT_PLACES[kind]} | {
        "group_id", "accounts", "from", "requester", "user_id"
    }  # fmt: skip
    for name in sorted(names):
        rule = Redaction.of({name: how}, key)
        events = [normalise(callback(body, command), "j.1", rule)[0] for command, body in bodies]
        other = [
            normalise(callback(body, row.name), "j.1", rule)[0]
            for row in ROWS
            for body in bodies_about(row, kind, ("c@TOPIC#_1", "d"))
        ]

        assert {event.partition_key.split("/")[0] for event in events} == {kind}
        assert len({event.partition_key for event in events}) == 1, name
        if key:
            assert {event.partition_key for event in other}.isdisjoint({events[0].partition_key})


def bodies_about(row, kind, ids):
    """Yield the bodies of *row* about the conversation *ids* (one, or a pair in both orders)."""
    if kind == "user" and {"RoomId", "RoomInfo", "FromRoomId", "FromRoomInfo"} & {
        field.wire for field in row.fields
    }:
        return  # about a user only when the room is missing
    for text in row.about:
        name, *ways = text.split(":")
        if name == kind:
            for pair in (ids[: len(ways)], ids[: len(ways)][::-1]):
                yield with_ids(row, sample_body(row), dict(zip(ways, pair, strict=True)), kind)
            return


def with_ids(row, body, ids, kind):
    """Return *body* with *ids* by path, and without what would make it about another kind."""
    if row.envelope:
        return {
            row.envelope: [with_ids(dataclasses.replace(row, envelope=""), body[row.envelope][0], ids, kind)]
        }
    body = {
        name: value
        for name, value in body.items()
        if kind == "topic" or name not in ("TopicId", "TopicIdList")
    }
    if kind == "c2c":
        body = {name: value for name, value in body.items() if name not in ("GroupID", "GroupId")}
    if "ContactItem" in body:
        body = {**body, "ContactItem": {}}
    for way, text in ids.items():
        first, *rest = way.split(".")
        if not rest:
            body[first] = text
        else:
            inner = body.get(first)
            body[first] = {**(inner if isinstance(inner, dict) else {}), rest[0]: text}
    return body


def test_a_topic_shows_nothing_of_its_group():
    """A topic's id begins with its group's: that part has the group's digest, or the id is gone."""
    body = {"GroupId": "g-1", "TopicId": "g-1@TOPIC#_x", "MsgSeq": 5}
    hashed = redacted(body, "Group.CallbackAfterSendMsg", group_id="hash")
    dropped = redacted(body, "Group.CallbackAfterSendMsg", group_id="drop")
    topics = {"GroupId": "g-1", "TopicIdList": ["g-1@TOPIC#_x"]}
    gone = redacted(topics, "Group.CallbackAfterTopicDestroyed", group_id="hash")
    both = redacted(body, "Group.CallbackAfterSendMsg", group_id="drop", topic_id="hash")

    assert hashed.data["topic_id"] == f"{digest('g-1')}@TOPIC#_x"
    assert hashed.attributes["subject"] == f"topic/{digest('g-1')}@TOPIC#_x"
    assert "topic_id" not in dropped.data
    assert dropped.attributes["subject"] == hashed.attributes["subject"]
    assert redacted(topics, "Group.CallbackAfterTopicDestroyed", group_id="drop").data["topic_ids"] == []
    assert gone.data["topic_ids"] == [hashed.data["topic_id"]]
    assert both.data["topic_id"] == digest("g-1@TOPIC#_x")
    assert not any(b"g-1" in event.body for event in (hashed, dropped, gone, both))


def test_topics_of_unknown_commands_show_nothing_of_their_group():
    """Wherever the id stands, except in what people wrote."""
    body = {"Deep": [{"Where": "g-1@TOPIC#_x"}], "Name": "a@TOPIC#b", "TopicId": "g-1@TOPIC#_y"}
    body["MsgBody"] = [{"MsgType": "T", "MsgContent": {"Desc": "a@TOPIC#c"}}, None]
    event = redacted(body, "New.Thing", group_id="hash")

    assert event.data["deep"] == [f"{digest('g-1')}@TOPIC#_x"]
    assert event.attributes["subject"] == f"topic/{digest('g-1')}@TOPIC#_y"
    assert event.data["name"] == "a@TOPIC#b"
    assert event.data["msg_body"] == [{"msg_type": "T", "msg_content": {"desc": "a@TOPIC#c"}}, None]


def quit_of(**rule):
    body = {"GroupId": "g", "ExitType": "Quit", "Operator_Account": "me", "ExitMemberList": []}
    return redacted(body, **rule).data


def test_what_is_filled_in_follows_the_field_it_comes_from():
    """Who quits is taken from the operator: as the operator may be shown, and as members may be."""
    assert quit_of(operator="hash")["members"] == [digest("me")]
    assert quit_of(operator="hash", members="hash")["members"] == [digest("me")]
    assert quit_of(operator="drop")["members"] == []
    assert "members" not in quit_of(members="drop")
    assert quit_of(members="drop")["operator"] == "me"
    assert quit_of(members="hash") == {
        "group_id": "g",
        "exit_type": "quit",
        "operator": "me",
        "members": [digest("me")],
    }


@pytest.mark.parametrize("scene", ["Group", "C2C"])
def test_a_moderated_message_is_named_by_what_may_be_shown(scene):
    """Its reference becomes a sequence or a key of the message, unless it is redacted."""
    body = {"Scene": scene, "MsgID": "17", "From_Account": "a", "CtxcbRequestId": "r"}
    hashed = redacted(body, "ContentCallback.ResultNotify", msg_id="hash").data
    dropped = redacted(body, "ContentCallback.ResultNotify", msg_id="drop").data

    assert hashed.get("message") == (None if scene == "Group" else {"key": digest("17")})
    assert "message" not in dropped


def test_actor_and_subjects_follow_the_fields_they_come_from():
    """Names decide, not values: who mentions herself stays the sender, so that nobody can hide by a mention."""
    body = {
        **MESSAGE,
        "GroupId": "g",
        "GroupAtInfo": [{"GroupAt_Account": "zoe"}, {"GroupAt_Account": "zoe-2"}],
    }
    mentions = redacted(body, "Group.CallbackAfterSendMsg", mentions="drop").data
    message = redacted(body, "Group.CallbackAfterSendMsg", message="drop").data
    sender = redacted(body, "Group.CallbackAfterSendMsg", **{"from": "hash"}).data

    assert (mentions["actor"], mentions["from"], mentions["subjects"]) == ("zoe", "zoe", [])
    assert (message["actor"], message["subjects"]) == ("zoe", [])
    assert (sender["actor"], sender["subjects"]) == (digest("zoe"), ["zoe", "zoe-2"])


def test_a_name_goes_before_the_word_for_all_accounts():
    """Everybody hashed, the operator left out."""
    data = redacted(BODY, accounts="hash", operator="drop").data

    assert data == {
        "group_id": "g-1",
        "group_type": "Public",
        "exit_type": "kicked",
        "members": [digest("jared"), digest("tommy")],
    }


@pytest.mark.parametrize("how", ["drop", "hash"])
@pytest.mark.parametrize(
    "body",
    [
        {"Inviter_Account": "jared"},
        {"Deep": {"Inviter_Account": ["jared"], "Name_Account": "jared"}},
        {"List": [{"Inviter_Account": "jared"}]},
        {"MemberList": ["jared"], "FollowList": "jared", "UserId": "jared"},
        {"Events": [{"Inviter_Account": "jared"}], "Outer_Account": "jared"},
    ],
)
def test_accounts_that_nobody_knows_yet_are_hidden_too(body, how):
    """The wire says what an account is."""
    for command in ("New.Thing", "Group.CallbackAfterGroupFull", "Push.New"):
        event = normalise(callback(body, command), "j.1", Redaction.of({"accounts": how}, KEY))[0]

        assert b"jared" not in event.body
        assert how == "drop" or digest("jared").encode() in event.body


def test_accounts_of_official_accounts_stay():
    """They are no people, though the wire writes them alike."""
    body = {"Official_Account": "@TOA#_1", "From_Account": "a"}

    assert redacted(body, "New.Thing", accounts="drop").data == {"official": "@TOA#_1"}


@pytest.mark.parametrize("name", ["member", "members", "banned_list"])
def test_a_list_of_one_key_objects_has_the_names_of_both(name):
    """Unknown commands: the list's name, and the key of its objects, which the list lost."""
    body = {
        "BannedList": [{"Member_Account": "jared"}, {"Member_Account": "tommy"}],
        "Deep": [[{"Member_Account": "zoe-2"}]],
    }
    hashed = redacted(body, "New.Thing", **{name: "hash"})
    dropped = redacted(body, "New.Thing", **{name: "drop"})

    assert hashed.data["banned_list"] == [digest("jared"), digest("tommy")]
    assert not dropped.data.get("banned_list")
    assert (b"zoe-2" in hashed.body) == (b"zoe-2" in dropped.body) == (name == "banned_list")


def test_without_a_key_what_is_left_out_shows_as_such():
    """Where there is nothing to hash with, ids that would tell conversations apart are one word."""
    event = normalise(
        callback(MESSAGE, "C2C.CallbackAfterSendMsg"), "j.1", Redaction.of({"from": "drop"}, "")
    )[0]

    assert event.attributes["subject"] == event.partition_key == "c2c/redacted/redacted"


def test_redacting_twice_changes_nothing():
    """Rows that fill in are redacted before and after it."""
    rule = Redaction.of({"operator": "hash", "members": "hash", "group_id": "hash"}, KEY)
    once = rule.data({"operator": "me", "members": ["a"], "topic_id": "g@TOPIC#_1", "n": 1, "none": None})

    assert rule.data(once) == once
    assert once["none"] is None


def test_push_items_are_redacted_one_by_one():
    """Also the item's own raw is left out."""
    events = normalise(
        callback({"Events": [{"To_Account": "a"}, {"To_Account": "b"}], "To_Account": "around"}, "Push.OfflinePush"),
        "j.1", Redaction.of({"to": "drop"}, ""),
    )  # fmt: skip

    assert [event.attributes["subject"] for event in events] == ["user/redacted"] * 2
    assert not any(b"around" in event.body or b"raw" in event.body for event in events)


def test_the_configuration_is_checked(tmp_path):
    """Hashing needs a key that can't be guessed; a name has to be one; the key never shows."""
    path = tmp_path / "c.yaml"
    for text in ("{members: hash}", "{members: hash}, redact_key: short", "{'Members!': drop}", "{a: other}"):
        path.write_text("apps: {'1': {redact: " + text + "}}")
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert "redact" in str(caught.value)
        assert "short" not in str(caught.value)
    path.write_text(
        f"apps: {{'1': {{redact: {{members: hash, message.elements: drop}}, redact_key: {KEY}}}}}"
    )

    app: App = load(path, {}).apps["1"]
    assert Redaction.of(app.redact, app.redact_key.get_secret_value()).hash == {"members"}


@pytest.mark.parametrize("how", ["drop", "hash"])
@pytest.mark.parametrize(
    ("command", "name", "body"),
    [
        ("Group.CallbackAfterSendMsg", "message.elements", {"MsgBody": "jared"}),
        ("Group.CallbackAfterSendMsg", "message", {"MsgBody": ["jared"]}),
        ("Group.CallbackAfterSendMsg", "message.cloud_custom_data", {"CloudCustomData": {"a": "jared"}}),
        ("call_end", "user", {"UserId": ["jared"]}),
        ("Group.CallbackNew", "members", {"MemberList": [{"Member_Account": "jared"}]}),
        ("Group.CallbackNew", "message.elements", {"MsgBody": [{"MsgType": "T", "MsgContent": "jared"}]}),
        ("ContentCallback.ResultNotify", "to", {"ContactItem": [{"To_Account": "jared"}]}),
    ],
)
def test_what_does_not_fit_and_unknown_commands_are_redacted_by_our_names(how, command, name, body):
    stored = Callback(
        "1400000000",
        f"CallbackCommand={command}",
        json.dumps(body).encode(),
        "",
        1_700_000_000_000,
        True,
        1,
        10,
    )
    (event,) = normalise(stored, "j.1", Redaction.of({name: how}, "k" * 16))
    assert b"jared" not in event.body


def test_a_name_shared_by_elements_and_fields_is_not_redacted_by_the_wire_name():
    rule = Redaction.of({"group_type": "drop"}, "")
    kept = rule.data({"message": {"elements": [{"type": "text"}]}, "group_type": "Public"})
    assert kept == {"message": {"elements": [{"type": "text"}]}}
