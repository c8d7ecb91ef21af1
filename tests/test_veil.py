"""Hiding what people wrote: nothing of it shows, whatever the command; ids and known words do."""

import json
from pathlib import Path

import pytest

from gateway.callback import Callback
from gateway.normalise import normalise_or_keep
from gateway.redact import Redaction
from gateway.veil import veiled

SAMPLES = sorted((Path(__file__).parent / "samples/callbacks").glob("*.json"))
SECRET = "what somebody wrote"


def event_of(command: str, body: bytes):
    """Return the first event that a callback becomes, as it is read back."""
    query = f"SdkAppid=14&CallbackCommand={command}"
    callback = Callback("14", query, body, "192.0.2.1", 1_800_000_000_000, True, 1, 10)
    return json.loads(normalise_or_keep(callback, "j.1", Redaction())[0].body)


def planted(value, depth=0):
    """Return *value* with every text inside a message, and a few unknown fields, replaced by the secret."""
    if isinstance(value, dict):
        return {
            key: SECRET if key in ("Text", "Desc", "Data", "Ext", "CloudCustomData") else planted(inner)
            for key, inner in value.items()
        }
    return [planted(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_no_text_of_a_message_shows(path):
    """Of every sample, with a text in each place where a message has one, and in fields that are not known."""
    body = planted(json.loads(path.read_text()))
    body["SomethingNew"] = SECRET
    body["Inner"] = {"Deep": [{"Text": SECRET, "List": [SECRET]}]}
    shown = json.dumps(veiled(event_of(path.stem, json.dumps(body).encode())))

    assert SECRET not in shown
    assert '"raw"' in shown


@pytest.mark.parametrize(
    "body", [b'{"CallbackCommand":"New.Thing","Words":"what somebody wrote"}', b"what somebody wrote"]
)
def test_what_is_unknown_is_hidden(body):
    """An unknown command, and a body that is none: nothing of them is known to be harmless."""
    assert SECRET not in json.dumps(veiled(event_of("New.Thing", body)))


def test_a_member_exit_is_shown_whole():
    """Ids, kinds and times are what an operator looks for, in data and in raw."""
    path = Path(__file__).parent / "samples/callbacks/Group.CallbackAfterMemberExit.json"
    event = event_of("Group.CallbackAfterMemberExit", path.read_bytes())

    assert veiled(event) == event


def test_a_message_keeps_who_and_where():
    """Sender, group, sequence and kind of element stay; the text is named by its length alone."""
    path = Path(__file__).parent / "samples/callbacks/Group.CallbackAfterSendMsg.json"
    body = json.loads(path.read_text())
    event = event_of("Group.CallbackAfterSendMsg", json.dumps(body).encode())
    shown = veiled(event)

    assert shown["data"]["from"] == event["data"]["from"]
    assert shown["data"]["group_id"] == event["data"]["group_id"]
    assert shown["data"]["message"]["seq"] == event["data"]["message"]["seq"]
    assert shown["data"]["message"]["elements"] == "(hidden)"
    assert shown["data"]["raw"]["MsgBody"] == "(hidden)"
    assert {name: shown[name] for name in shown if name != "data"} == {
        name: event[name] for name in event if name != "data"
    }


def test_data_of_another_shape_is_hidden():
    """A parked event may be anything: what is no object in data does not show."""
    assert veiled({"id": "1", "data": SECRET}) == {"id": "1", "data": "(hidden: 19 characters)"}
    assert veiled({"id": "1"}) == {"id": "1"}
