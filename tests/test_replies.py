"""Answers that an operator fixes: what Tencent allows, and the documented bodies."""

import json
from pathlib import Path

import pytest

from gateway import build
from gateway.answer import accepted
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.replies import ALLOWED, Reply, faults
from gateway.rules import rules_of

SAMPLES = Path(__file__).parent / "samples/answers"
REWRITTEN = json.loads((SAMPLES / "before-c2c-modify.json").read_text())


@pytest.mark.parametrize(
    ("command", "reply", "sample"),
    [
        ("C2C.CallbackBeforeSendMsg", Reply(code=1), "before-msg-deny"),
        ("Group.CallbackBeforeSendMsg", Reply(code=2), "before-msg-drop-silently"),
        ("C2C.CallbackBeforeSendMsg", Reply(code=120001, info="not allowed"), "before-c2c-deny-custom"),
        (
            "Group.CallbackBeforeCreateGroup",
            Reply(code=10100, info="not allowed"),
            "before-group-deny-custom",
        ),
        (
            "Group.CallbackBeforeInviteJoinGroup",
            Reply(refused_members=("jared",)),
            "before-invite-refuse-some",
        ),
        ("Chatbot.OnC2CSignalMessage", Reply(rsp_data="{}"), "chatbot-signal"),
        (
            "C2C.CallbackBeforeSendMsg",
            Reply(msg_body=tuple(REWRITTEN["MsgBody"]), cloud_custom_data=REWRITTEN["CloudCustomData"]),
            "before-c2c-modify",
        ),
    ],
)
def test_the_documented_answers_can_be_configured(command, reply, sample):
    """Each sample answer of the pages comes out of a reply that is allowed for its command."""
    assert faults(command, reply) == []
    assert json.loads(reply.body(None)) == json.loads((SAMPLES / f"{sample}.json").read_text())


@pytest.mark.parametrize(
    ("command", "reply", "said"),
    [
        ("Group.CallbackAfterMemberExit", Reply(code=1), "Tencent ignores the answer"),
        ("No.Such", Reply(), "Answers can be fixed for: C2C.CallbackBeforeSendMsg"),
        ("Group.CallbackBeforeCreateGroup", Reply(code=2), "allowed are 0, 1, or 10100 to 10200"),
        ("C2C.CallbackBeforeSendMsg", Reply(code=10100), "allowed are 0, 1, 2, or 120001 to 130000"),
        ("C2C.CallbackBeforeSendMsg", Reply(code=130001), "code 130001 has no meaning there"),
        ("C2C.CallbackBeforeSendMsg", Reply(refused_members=()), "refused_members is not known"),
        ("C2C.CallbackBeforeSendMsg", Reply(code=1, cloud_custom_data="x"), "only with code 0"),
        ("Sns.CallbackPrevFriendAdd", Reply(result_code=37999), "result_code 37999 is not allowed"),
        ("Live.CallbackBeforeSendGift", Reply(rsp_data=""), "rsp_data is not known"),
        ("group.callbackbeforesendmsg", Reply(), "Did you mean Group.CallbackBeforeSendMsg?"),
        ("Group.CallbackBeforeSendMsg", Reply(msg_body=({"A": b""},)), "a value that JSON has no form for"),
        ("Group.CallbackBeforeSendMsg", Reply(msg_body=({"A": 2**64},)), "a value that JSON has no form for"),
    ],
)
def test_what_tencent_does_not_allow_is_named(command, reply, said):
    """A sentence that says what would be right."""
    assert said in " ".join(faults(command, reply))


@pytest.mark.parametrize("command", ALLOWED)
def test_plain_ok_is_allowed_everywhere(command):
    """Naming a command without anything below it changes nothing."""
    assert faults(command, Reply()) == []


def test_friends_get_the_configured_result_per_account():
    """ResultItem has one entry per account asked about, with the operator's code."""
    body = json.loads(Reply(result_code=38001, result_info="no").body(["a", 5]))

    assert body["ResultItem"] == [
        {"To_Account": "a", "ResultCode": 38001, "ResultInfo": "no"},
        {"To_Account": 5, "ResultCode": 38001, "ResultInfo": "no"},
    ]


def test_an_apps_own_answer_goes_before_the_one_for_all():
    """And other apps keep the general one."""
    command = "Group.CallbackBeforeCreateTopic"
    config = Config.model_validate(
        {"answers": {command: {"code": 1}}, "apps": {"1": {"answers": {command: {"code": 10150}}}, "2": {}}}
    )
    rules = rules_of(config)

    assert rules.apps["1"].answers[command] == Reply(code=10150)
    assert rules.apps["2"].answers[command] == Reply(code=1)


def test_a_wrong_answer_is_a_configuration_error_with_its_path():
    """Said at start, not by Tencent later."""
    config = Config.model_validate(
        {"apps": {"1": {"answers": {"Group.CallbackBeforeCreateTopic": {"code": 7}}}}, "answers": {"X": {}}}
    )

    with pytest.raises(ConfigError) as caught:
        build.check(config)

    assert "apps.1.answers.Group.CallbackBeforeCreateTopic: code 7" in str(caught.value)
    assert "answers.X: Tencent ignores" in str(caught.value)


def test_a_single_friend_item_that_is_no_list_is_owed_its_result_too():
    told = json.loads(
        accepted("Sns.CallbackPrevFriendAdd", {"FriendItem": {"To_Account": "id1"}}, is_legacy=False)
    )
    assert told["ResultItem"] == [{"To_Account": "id1", "ResultCode": 0, "ResultInfo": ""}]
