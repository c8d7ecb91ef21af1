"""Personal data: what an app's rule names shows nowhere in its events."""

import dataclasses
import hashlib
import hmac
import json

import pytest

from gateway.callback import Callback
from gateway.config import App, load
from gateway.errors import ConfigError
from gateway.exits import member_exits
from gateway.normalise import malformed, normalise
from gateway.redact import Redaction
from tests.test_catalogue import ROWS, callback, sample_body

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
    """A pair is sorted after hashing, so that it is the same from both sides; a dropped id shows as such."""
    event = redacted(MESSAGE, "C2C.CallbackAfterSendMsg", **{"from": "hash", "to": "drop"})

    assert event.attributes["subject"] == "c2c/" + "/".join(sorted((digest("zoe"), "redacted")))
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
    [event] = normalise(dataclasses.replace(callback({}, EXIT), body=b"no json"), "j.1", rule)

    assert event.data == {"reason": "malformed_body"}
    assert malformed(callback(BODY, EXIT), "j.1", "x", redaction=rule).data == {"reason": "x"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_accounts_of_every_command_can_be_hidden(row):
    """All ids of people dropped: none of them is left in the event of any command."""
    names = "from to operator owner member members subjects actor requester peer report initiator admin admins user"
    names += (
        " subscribers old_owner new_owner current_owner original_owner mentions at_robots schedule_invitees"
    )
    event = redacted(sample_body(row), row.name, **dict.fromkeys(names.split(), "drop"))

    assert not any(name.encode() in event.body for name in ("jared", "jonh", "leckie", "tommy"))


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
    kept, _ = rule.data({"message": {"elements": [{"type": "text"}]}, "group_type": "Public"})
    assert kept == {"message": {"elements": [{"type": "text"}]}}
