"""What the fields of a body have to do with each other, for the commands where that matters. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.simulator.draw import Draw

Body = dict[str, Any]
_WHOLE_GROUP = 800  # 45 kB; real ones may have 6,000 members, but these are to be sent by the thousand


def _state(body: Body, draw: Draw) -> None:
    action = body["Info"]["Action"]
    reasons = {"Login": ("Register",), "Logout": ("Unregister",)}.get(action, ("LinkClose", "TimeOut"))
    body["Info"]["Reason"] = draw.one_of(reasons)
    if action != "Login":
        body.pop("KickedDevice", None)


def _exit(body: Body, draw: Draw) -> None:
    if body["ExitType"] == "Quit":
        body["ExitMemberList"] = body["ExitMemberList"][:1]
        body["Operator_Account"] = body["ExitMemberList"][0]["Member_Account"]


def _destroyed(body: Body, draw: Draw) -> None:
    if body["Type"] == "Community":
        body.pop("MemberList", None)
    elif draw.happens(0.02):
        body["MemberList"] = [{"Member_Account": draw.fresh_account()} for _ in range(_WHOLE_GROUP)]


def _online(body: Body, draw: Draw) -> None:
    if "Type" in body:
        body["Type"] = "AVChatRoom"
    if "EventCause" in body:
        is_back = body["EventType"] == "Online"
        body["EventCause"] = draw.one_of(
            ("HeartbeatRecover", "Join") if is_back else ("HeartbeatInterrupt", "Quit")
        )


def _topic(body: Body, draw: Draw) -> None:
    body["Type"] = "Community"


def _message(body: Body, draw: Draw) -> None:
    if "TopicId" in body and "Type" in body:
        body["Type"] = "Community"


def _failed(body: Body, draw: Draw) -> None:
    body["ErrorInfo"] = "msg count exceeds limit,please retry later"
    _message(body, draw)


def _c2c_sent(body: Body, draw: Draw) -> None:
    if body.get("SendMsgResult"):
        body["ErrorInfo"] = "message refused"
        if "UnreadMsgNum" in body:
            body["UnreadMsgNum"] = -1


def _moderated(body: Body, draw: Draw) -> None:
    scene = body["Scene"]
    contact: Body = {"ContactType": 1, "To_Account": draw.account()}
    if scene.startswith("Group"):
        contact = {"ContactType": 2, "ToGroupId": draw.group_id}
    body["ContactItem"] = contact
    if "MsgID" in body:
        body["MsgID"] = str(draw.msg_seq) if scene.startswith("Group") else draw.msg_key
    body.pop("FileURL" if body["ContentType"] == "Text" else "TextContent", None)


def _pushed(item: Body, draw: Draw) -> None:
    item["EventType"] = draw.one_of((1, 2))
    item.pop("GroupID" if item["EventType"] == 1 else "MsgKey", None)
    if item["EventType"] == 2:
        item["GroupID"] = draw.group_id


def _pushed_to_all(item: Body, draw: Draw) -> None:
    item["EventType"] = draw.one_of((1, 2))


def _room_updated(body: Body, draw: Draw) -> None:
    # Source: the command's own sample writes booleans as text.
    info = body["RoomInfo"]
    body["RoomInfo"] = {
        wire: str(value).lower() if isinstance(value, bool) else value for wire, value in info.items()
    }


MENDS: Mapping[str, Callable[[Body, Draw], None]] = {
    "State.StateChange": _state,
    "Group.CallbackAfterMemberExit": _exit,
    "Group.CallbackAfterGroupDestroyed": _destroyed,
    "Group.CallbackOnMemberStateChange": _online,
    "Group.CallbackBeforeCreateTopic": _topic,
    "Group.CallbackAfterCreateTopic": _topic,
    "Group.CallbackAfterTopicDestroyed": _topic,
    "Group.CallbackAfterTopicInfoChanged": _topic,
    "Group.CallbackBeforeSendMsg": _message,
    "Group.CallbackAfterSendMsg": _message,
    "Group.CallbackSendMsgException": _failed,
    "Group.CallbackAfterRecallMsg": _message,
    "C2C.CallbackAfterSendMsg": _c2c_sent,
    "Bot.OnC2CMessage": _c2c_sent,
    "ContentCallback.ResultNotify": _moderated,
    "Push.OfflinePush": _pushed,
    "Push.AllMemberPush": _pushed_to_all,
    "Room.CallbackAfterUpdateRoomInfo": _room_updated,
}
