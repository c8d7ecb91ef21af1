"""Events for the tests of sinks, as the gateway publishes them."""

from typing import Any

import orjson

from gateway.event import Event

TIME = "2022-12-09T08:26:54.123Z"
TIME_MS = 1670574414123


def exit_event(event_id: str, **changes: Any) -> Event:
    """Return a member exit; *changes* replace names of its ``data``, or ``time``, or ``raw`` (JSON bytes)."""
    raw = changes.pop("raw", b'{"CallbackCommand":"Group.CallbackAfterMemberExit"}')
    time = changes.pop("time", TIME)
    data = {
        "group_id": "@TGS#2J4SZEAEL",
        "group_type": "Public",
        "exit_type": "kicked",
        "operator": "leckie",
        "members": ["jared", "tommy"],
        **changes,
        "raw": orjson.Fragment(raw),
    }
    return cloud_event(event_id, "im.group.member.exited", data, time)


def cloud_event(event_id: str, kind: str, data: dict[str, Any], time: str = TIME) -> Event:
    """Return an event of type *kind*, parsed from its bytes as a worker has it."""
    group = data.get("group_id", "g")
    attributes = {
        "specversion": "1.0",
        "id": event_id,
        "source": "/tencent-im/1400000000",
        "type": kind,
        "subject": f"group/{group}",
        "time": time,
        "datacontenttype": "application/json",
        "dataschema": f"urn:im-gateway:event:{kind}:1",
        "partitionkey": f"group/{group}",
        "position": "journal1.17.0",
        "recordedtime": "2022-12-09T08:26:54.130Z",
        "appid": "1400000000",
        "command": "Group.CallbackAfterMemberExit",
        "phase": "after",
        "timesource": "EventTime",
        "verified": True,
        "data": data,
    }
    return Event.parse(orjson.dumps(attributes))
