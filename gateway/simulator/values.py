"""A value for each field of the catalogue: by its wire name where that says more than its kind. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.catalogue import Field, Kind
from gateway.simulator.draw import Draw
from gateway.simulator.elements import elements

Maker = Callable[[Draw], Any]
_COMMANDS_OF_REST = ("batchsendmsg", "sendmsg", "account_import", "get_group_msg_read_receipt")


def maker_of(field: Field, *, number_accounts: bool, inner: Callable[[tuple[Field, ...]], Maker]) -> Maker:
    """Return what makes values of *field*.

    *number_accounts*: the product writes accounts as numbers at times. *inner* makes the objects inside.
    """
    named = _BY_WIRE.get((field.wire, field.kind)) or _BY_WIRE.get(field.wire)
    if named is not None:
        return named
    values = field.values
    if field.kind in (Kind.OBJECT, Kind.OBJECTS) and field.fields:
        return _objects(inner(field.fields), is_list=field.kind is Kind.OBJECTS)
    if field.kind is Kind.ACCOUNT and number_accounts:
        return lambda draw: draw.number_account() if draw.happens(0.5) else draw.account()
    if field.kind is Kind.ACCOUNTS:
        return _listed(field.item, lambda draw: draw.fresh_accounts(3))
    if field.kind is Kind.TEXTS:
        return _listed(field.item, lambda draw: [draw.one_of(values or ("key1", "key2", "键3"))])
    if field.kind is Kind.BOOL and field.wire.endswith("Flag"):
        return lambda draw: draw.below(2)
    if values:
        return lambda draw: draw.one_of(values)
    return _BY_KIND[field.kind]


def _objects(make: Maker, *, is_list: bool) -> Maker:
    def some(draw: Draw) -> list[Any]:
        found = []
        for _ in range(1 + draw.below(3)):
            draw.next_message()
            found.append(make(draw))
        return found

    return some if is_list else make


def _listed(key: str, make: Callable[[Draw], list[Any]]) -> Maker:
    """Return what makes the list bare, or each item as an object with the one *key*."""
    return make if not key else lambda draw: [{key: item} for item in make(draw)]


def _mentions(draw: Draw) -> list[dict[str, Any]]:
    if draw.happens(0.3):
        return [{"GroupAtAllFlag": 1}]
    return [{"GroupAtAllFlag": 0, "GroupAt_Account": draw.account()}]


def _profile(draw: Draw) -> list[dict[str, Any]]:
    items = [
        ("Tag_Profile_IM_Nick", draw.text()),
        ("Tag_Profile_IM_Gender", "Gender_Type_Male"),
        ("Tag_Profile_IM_BirthDay", 19_900_101 + draw.below(300_000)),  # the wire has uint32 here, not text
        ("Tag_Profile_Custom_Data", draw.custom()),
    ]
    return [{"Tag": tag, "Value": value} for tag, value in items[: 1 + draw.below(4)]]


def _gift(draw: Draw) -> dict[str, Any]:
    return {"GiftId": f"g{draw.msg_seq}", "GiftCount": 1 + draw.below(99), "RoomId": draw.room()}


def _fresh_topics(draw: Draw) -> list[str]:
    return [draw.fresh_topic() for _ in range(1 + draw.below(2))]


def _moderated_text(draw: Draw) -> list[str] | str:
    return ["aaabbbccc", draw.text()] if draw.happens(0.7) else draw.text()  # Why: the pages disagree


def _unread(draw: Draw) -> int:
    return -1 if draw.happens(0.05) else draw.below(100)


def _signal(draw: Draw) -> str:
    return f'{{"msg":"这是自定义透传内容 {draw.number}"}}'


def _msg_id(draw: Draw) -> str:
    return f"{draw.number_account()}-{draw.msg_time_s}-{draw.msg_random}"


def _push_id(draw: Draw) -> str:
    return f"{draw.hex(8)}_{draw.hex(8)}_{draw.msg_seq:x}_200002d1089b322_{draw.number:x}"


def _seconds(draw: Draw) -> int:
    return draw.msg_time_s


_BY_WIRE: Mapping[str | tuple[str, Kind], Maker] = {
    "ApplyJoinOption": lambda draw: draw.one_of(("FreeAccess", "NeedPermission", "DisableApply")),
    "AtRobots_Account": lambda draw: [f"@RBT#{1 + draw.below(9):03d}"],
    "BattleId": lambda draw: draw.fresh_base64(),
    "Category": lambda draw: [1, 2, 3][: 1 + draw.below(3)],
    "ChatGroupId": lambda draw: "" if draw.happens(0.5) else draw.group_id,
    "Command": lambda draw: draw.one_of(_COMMANDS_OF_REST),
    "CreatedGroupNum": lambda draw: {"Public": draw.below(9), "ChatRoom": draw.below(9)},
    "CtxcbLabel": lambda draw: draw.one_of(("Sexy", "Abuse", "Ad")),
    "CtxcbSubLabelDesc": lambda draw: "影射XX",
    "Data": _signal,
    "ErrCode": lambda draw: 0 if draw.happens(0.9) else 70_000 + draw.below(999),
    "ErrInfo": lambda draw: "OK",
    "ErrorCode": lambda draw: 10_023,
    "ErrorInfo": lambda draw: draw.one_of(("", "send msg succeed")),
    "GiftWater": _gift,
    "GroupAtInfo": _mentions,
    "InviteOption": lambda draw: draw.one_of(("FreeAccess", "NeedPermission")),
    "Key": lambda draw: f"key{draw.below(9)}",
    "Keys": lambda draw: [f"key{draw.below(9)}", "键"],
    "key": lambda draw: f"key{draw.below(9)}",
    "MsgKey": lambda draw: draw.msg_key,
    "MsgID": _msg_id,
    "MsgId": _msg_id,
    "MsgRandom": lambda draw: draw.msg_random,
    "MsgSeq": lambda draw: draw.msg_seq,
    "Name": lambda draw: draw.fresh_name("Name"),
    "opType": lambda draw: draw.one_of((0, 1, "add")),
    "ProfileItem": _profile,
    "PushID": _push_id,
    "Quota": lambda draw: 10_000,
    "QuotaUsed": lambda draw: 8_000 + draw.below(2_000),
    "Random": lambda draw: draw.msg_random,
    "Request": lambda draw: 200 + draw.msg_seq,
    "Limit": lambda draw: 200,
    "RoomName": lambda draw: draw.fresh_name("Room"),
    "SendMsgResult": lambda draw: 0 if draw.happens(0.95) else 20_006,
    "ServiceName": lambda draw: "openim",
    "TaskId": _push_id,
    "TextContent": _moderated_text,
    "ToRoomIdList": lambda draw: [draw.room()],
    "TopicIdList": _fresh_topics,
    "UnreadMsgNum": _unread,
    "WithdrawMsgList": lambda draw: [{"MsgKey": draw.msg_key}],
    "FaceUrl": lambda draw: draw.url("png"),
    "CoverURL": lambda draw: draw.url("png"),
    "BackgroundURL": lambda draw: draw.url("png"),
    "FileURL": lambda draw: draw.url("jpg"),
}

_BY_KIND: Mapping[Kind, Maker] = {
    Kind.TEXT: lambda draw: draw.text(),
    Kind.OPAQUE: lambda draw: draw.custom(),
    Kind.ACCOUNT: lambda draw: draw.account(),
    Kind.GROUP_ID: lambda draw: draw.group_id,
    Kind.TOPIC_ID: lambda draw: draw.fresh_topic(),
    Kind.OFFICIAL_ID: lambda draw: draw.official(),
    Kind.ROOM_ID: lambda draw: draw.room(),
    Kind.ID: lambda draw: draw.uuid(),
    Kind.INT: lambda draw: draw.below(500),
    Kind.UINT32: lambda draw: draw.below(2**32),
    Kind.INTS: lambda draw: [draw.below(9)],
    Kind.BOOL: lambda draw: draw.happens(0.5),
    Kind.ENUM: lambda draw: "Unknown",
    Kind.SECONDS: _seconds,
    Kind.ELEMENTS: elements,
    Kind.OBJECT: lambda draw: {},
    Kind.OBJECTS: lambda draw: [],
    Kind.ANY: lambda draw: draw.text(),
}
