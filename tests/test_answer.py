"""The bytes we answer with."""

import json
from pathlib import Path

import pytest

from gateway import answer

SAMPLES = Path(__file__).parent / "samples"


def sample(name):
    return json.loads((SAMPLES / name).read_text())


def test_ok_is_the_documented_answer():
    """All three fields are marked as required."""
    assert json.loads(answer.OK) == sample("answers/ok.json")


@pytest.mark.parametrize("command", ["Sns.CallbackPrevFriendAdd", "Sns.CallbackPrevFriendResponse"])
def test_the_two_friend_callbacks_get_an_entry_per_account(command):
    """ResultItem is required, with code 0 for each account asked about."""
    body = sample("callbacks/Sns.CallbackPrevFriendAdd.json")
    if command.endswith("Response"):
        body["ResponseFriendItem"] = body.pop("FriendItem")

    assert json.loads(answer.accepted(command, body, is_legacy=False)) == sample(
        "answers/before-friend-add-resultitem.json"
    )


@pytest.mark.parametrize("items", [None, "x", 5, {}, [], [1], [{}], [{"To_Account": 5}]])
def test_odd_friend_lists_still_get_ok(items):
    """Nothing in the body can make the answer fail."""
    given = json.loads(answer.accepted("Sns.CallbackPrevFriendAdd", {"FriendItem": items}, is_legacy=False))

    assert (given["ActionStatus"], given["ErrorCode"]) == ("OK", 0)


@pytest.mark.parametrize("reason", answer.REFUSALS)
def test_every_refusal_is_a_failure_in_json(reason):
    """ErrorCode is never 0, and ErrorInfo is a fixed token."""
    row = answer.REFUSALS[reason]
    body = json.loads(row.body)

    assert body == {"ActionStatus": "FAIL", "ErrorCode": row.status, "ErrorInfo": row.token}
    assert row.status >= 400
    assert row.token.replace("_", "").isalpha()


def test_signature_refusals_look_alike_to_the_caller():
    """Only the metric tells missing, stale and wrong apart."""
    rows = {answer.REFUSALS[f"{kind}_signature"] for kind in ("no", "stale", "bad")}

    assert rows == {answer.Refusal(401, "bad_signature")}
