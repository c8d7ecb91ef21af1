"""What a request is: the decision over plain values."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway import answer
from gateway.callback import (
    Accepted,
    AppRule,
    Probe,
    Rules,
    command_of,
    decide,
)
from gateway.errors import Refused
from gateway.query import parse_query, read_query
from gateway.signature import sign

NOW_MS = 1_700_000_000_000
TOKEN = "a-token-of-the-console"
APPS = {
    "14": AppRule("14", "/callback", ()),
    "15": AppRule("15", "/callback", (TOKEN,)),
    "16": AppRule("16", "/", ()),
}
RULES = Rules(APPS, frozenset(app.path for app in APPS.values()), 60, 1, 10)
COMMAND = "CallbackCommand=Group.CallbackAfterMemberExit"


def judge(query, body=b"{}", *, method="POST", path="/callback", encoding=""):
    return decide(RULES, method, path, query, encoding, body, "1.2.3.4", NOW_MS)


def reason(query, body=b"{}", **rest):
    with pytest.raises(Refused) as caught:
        judge(query, body, **rest)
    assert caught.value.reason in answer.REFUSALS
    return caught.value.reason


def test_an_accepted_callback_has_everything_the_journal_needs():
    """App, query, body, peer, time, recipe and window are those of the request and the rules."""
    decision = judge(f"sdkappid=14&{COMMAND}&RequestID=x", b'{"a":1}')

    assert isinstance(decision, Accepted)
    callback = decision.callback
    assert (callback.app_id, callback.body, callback.peer) == ("14", b'{"a":1}', "1.2.3.4")
    assert (callback.received_ms, callback.id_recipe, callback.id_window_s) == (NOW_MS, 1, 10)
    assert callback.query == f"sdkappid=14&{COMMAND}&RequestID=x"
    assert not callback.verified


@pytest.mark.parametrize("name", ["SdkAppid", "SdkAppId", "sdkappid", "SDKAPPID", "%53dkAppid"])
def test_parameter_names_are_matched_without_case(name):
    """The sender's own pages disagree about the spelling."""
    assert isinstance(judge(f"{name}=14&{COMMAND}"), Accepted)


@pytest.mark.parametrize("twice", ["SdkAppid=14", "sdkappid=15", "CALLBACKCOMMAND=x", "sign=", "%53ign=1"])
def test_a_known_parameter_given_twice_is_ambiguous(twice):
    """Two readers must never see two different requests."""
    assert reason(f"SdkAppid=14&{COMMAND}&Sign=1&{twice}") == "ambiguous_query"


def test_an_unknown_parameter_may_come_twice():
    """What we do not read can't be ambiguous."""
    assert isinstance(judge(f"SdkAppid=14&{COMMAND}&x=1&x=2"), Accepted)


def test_the_sign_never_reaches_the_journal():
    """Whatever its case or encoding."""
    time_s = str(NOW_MS // 1000)
    decision = judge(f"SdkAppid=15&%73IGN={sign(TOKEN, time_s)}&{COMMAND}&RequestTime={time_s}")

    assert decision.callback.verified
    assert decision.callback.query == f"SdkAppid=15&{COMMAND}&RequestTime={time_s}"


def test_a_token_can_not_be_stripped():
    """Pitfall 20: leaving Sign out, or naming another app's path, does not get around the check."""
    assert reason(f"SdkAppid=15&{COMMAND}") == "no_signature"
    assert reason(f"SdkAppid=15&{COMMAND}", path="/") == "unknown_app"
    assert reason("SdkAppid=15", b'{"CallbackCommand":"x"}') == "no_signature"


def test_a_wrong_path_of_a_known_app_is_explained():
    """The text for the log names the app and its path, and nothing of the request."""
    with pytest.raises(Refused) as caught:
        judge(f"SdkAppid=14&{COMMAND}", path="/secret-guess")

    assert caught.value.reason == "not_found"
    assert "14" in caught.value.detail
    assert "/callback" in caught.value.detail
    assert "guess" not in caught.value.detail


@pytest.mark.parametrize(
    ("params", "body", "expected"),
    [
        ({"callbackcommand": "A"}, {"CallbackCommand": "B"}, ("A", False)),
        ({}, {"CallbackCommand": "B"}, ("B", False)),
        ({"command": "c"}, {}, ("c", True)),
        ({"command": "c"}, {"CallbackCommand": "B"}, ("c", False)),
        ({"callbackcommand": "A", "command": "c"}, {}, ("A", False)),
        ({"callbackcommand": ""}, {}, ("", False)),
        ({}, {"CallbackCommand": 7}, ("", False)),
    ],
)
def test_the_query_decides_the_command(params, body, expected):
    """Query before body; the lower-case name without one in the body is the legacy sender."""
    assert command_of(params, body) == expected


def test_the_legacy_sender_gets_its_own_answer():
    """Lower-case names, no command in the body: ErrorMessage instead of ActionStatus."""
    decision = judge("sdkappid=14&command=room&contenttype=json&clientip=0.0.0.0&optplatform=rest_api")

    assert json.loads(decision.answer) == {"ErrorCode": 0, "ErrorMessage": "Success"}


@pytest.mark.parametrize("body", [b"", b"  \r\n", b"{}", b" { } "])
def test_a_post_without_command_and_content_is_a_probe(body):
    """Whether or not it names an app of ours."""
    for query in ("", "x=1", "SdkAppid=15", "SdkAppid=99"):
        assert judge(query, body) == Probe()


def test_a_post_without_command_but_with_content_is_a_callback():
    """The command may stand in the body alone, or nowhere."""
    assert isinstance(judge("SdkAppid=14", b'{"CallbackCommand":"x"}'), Accepted)
    assert isinstance(judge("SdkAppid=14", b'{"x":1}'), Accepted)
    assert reason("SdkAppid=99", b'{"x":1}') == "unknown_app"


@pytest.mark.parametrize("depth", [1, 63, 64])
def test_64_levels_are_taken(depth):
    """The documented limit itself is fine, however many brackets stand beside it."""
    body = b'{"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b',"y":' + b"[[],[]]" * 1 + b"}"
    body = body if depth > 1 else b'{"x":1}'

    assert isinstance(judge(f"SdkAppid=14&{COMMAND}", body), Accepted)


@pytest.mark.parametrize("depth", [65, 100, 2000, 200_000])
def test_deeper_is_malformed(depth):
    """Also where a parser would run out of stack."""
    body = b'{"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"

    assert reason(f"SdkAppid=14&{COMMAND}", body) == "malformed_body"


@given(
    st.sampled_from(["GET", "POST", "PUT", "HEAD", "X"]),
    st.sampled_from(["/", "/callback", "/x", ""]),
    st.text(max_size=60) | st.sampled_from([f"SdkAppid=14&{COMMAND}", "SdkAppid=15&command=x"]),
    st.sampled_from(["", "identity", "gzip"]),
    st.binary(max_size=60) | st.sampled_from([b"{}", b'{"a":[1]}', b'{"FriendItem":[{"To_Account":1},2]}']),
)
def test_every_request_has_one_of_the_documented_outcomes(method, path, query, encoding, body):
    """Accepted, Probe or a refusal of the table: nothing else ever comes out."""
    try:
        decision = judge(query, body, method=method, path=path, encoding=encoding)
    except Refused as refused:
        assert refused.reason in answer.REFUSALS
    else:
        assert isinstance(decision, (Accepted, Probe))
        json.loads(decision.answer)


@given(
    st.lists(
        st.text(max_size=20).filter(lambda part: "&" not in part and "sign" not in part.lower()), max_size=5
    ),
    st.sampled_from(["Sign=ab", "sign=", "SIGN", "S%69gn=a%20b", "si%67n=+"]),
    st.integers(0, 5),
)
def test_what_is_kept_of_a_query_is_all_but_its_sign(parts, sign, at):
    """However the Sign is spelt, and wherever it stands; the others stay as they were, in order."""
    assume(not any("%" in part for part in parts))
    query = "&".join([*parts[:at], sign, *parts[at:]])
    try:
        kept = read_query(query).kept
    except Refused as refused:
        assert refused.reason == "ambiguous_query"
    else:
        assert kept == "&".join(parts)


def test_parse_query_decodes_values():
    """Percent escapes and plus signs, as a query has them."""
    assert parse_query("ClientIP=%3A%3A1&OptPlatform=a+b&x=y") == {"clientip": "::1", "optplatform": "a b"}
