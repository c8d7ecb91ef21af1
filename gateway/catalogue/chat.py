"""Rows of Chat: state, profile, relations, one-to-one messages, official accounts, moderation, push, alerts.

Sources: numbers are pages of trtc.io/document, ``269/…`` of cloud.tencent.com/document/product.
"""

from __future__ import annotations

from typing import Any

from gateway.catalogue.parts import (
    ABOUT_C2C,
    C2C_MESSAGE,
    CUSTOM,
    ERROR_INFO,
    EXTENSIONS,
    FROM,
    GROUP,
    MSG_BODY,
    MSG_BODY_MAYBE,
    MSG_ID,
    MSG_KEY,
    MSG_RANDOM,
    MSG_SEQ,
    MSG_TIME,
    NAME,
    NAME_MAYBE,
    ONLINE_ONLY,
    OPERATE_TYPE,
    OPERATOR,
    OPERATOR_MAYBE,
    OWNER,
    REQUESTER,
    SEND_RESULT,
    SEQ,
    TIME,
    TIME_S,
    TO,
    UNREAD,
)
from gateway.catalogue.shape import Command, Field, Kind

_C2C_FACT = ("From_Account", "To_Account", "MsgSeq", "MsgRandom", "MsgTime")
_PAIR = (FROM, TO)
_PAIRS = Field("PairList", Kind.OBJECTS, fields=_PAIR)
_RESULT = (
    Field("PushPlatform", Kind.INT),
    Field("PushStage", Kind.INT),
    Field("ErrCode", Kind.INT),
    Field("ErrInfo"),
    TIME_S,
)


def _moderated_message(data: dict[str, Any]) -> None:
    # Source: 269/95616, MsgID is a MsgKey in one-to-one chats and a MsgSeq in groups.
    reference = data.get("msg_id")
    if not isinstance(reference, str) or not reference:
        return
    if str(data.get("scene", "")).startswith("group"):
        if reference.isascii() and reference.isdigit() and len(reference) <= 18:
            data["message"] = {**data.get("message", {}), "seq": int(reference)}
    else:
        data["message"] = {**data.get("message", {}), "key": reference}


STATE = (
    Command(
        name="State.StateChange",
        type="im.state.user.changed",
        phase="after",
        source="34357",
        fields=(
            Field(
                "Info",
                Kind.OBJECT,
                fields=(
                    Field("Action", Kind.ENUM, values=("Login", "Logout", "Disconnect")),
                    TO,
                    Field("Reason", Kind.ENUM, values=("Register", "Unregister", "LinkClose", "TimeOut")),
                ),
            ),
            Field(
                "KickedDevice",
                Kind.TEXTS,
                values=("Android", "iOS", "Windows", "Mac", "iPad", "Web", "Linux"),
                optional=True,
                item="Platform",
                note="Platforms in lower case; only on Login.",
            ),
            TIME,
        ),
        about=("user:Info.To_Account",),
        actor=("Info.To_Account",),
        subjects=("Info.To_Account",),
        note="Old SDKs send Login and Logout for one multi-device kick, new ones Login with kicked_device.",
    ),
    Command(
        name="Profile.CallbackPortraitSet",
        type="im.profile.user.changed",
        phase="after",
        source="48733",
        fields=(
            FROM,
            OPERATOR,
            Field("ProfileItem", Kind.OBJECTS, fields=(Field("Tag"), Field("Value", Kind.ANY))),
            TIME,
        ),
        about=("user:From_Account",),
        actor=("Operator_Account", "From_Account"),
        subjects=("From_Account",),
    ),
    Command(
        name="Alert.RequestOverLimit",
        type="im.alert.request_rate.exceeded",
        phase="alert",
        source="269/105418",
        fields=(Field("ServiceName"), Field("Command"), Field("Request", Kind.INT), Field("Limit", Kind.INT)),
        note="At 80 % of a REST limit.",
    ),
)

RELATIONS = (
    Command(
        name="Sns.CallbackPrevFriendAdd",
        type="im.relation.friend_add.requested",
        phase="before",
        source="43468",
        fields=(
            REQUESTER,
            FROM,
            Field(
                "FriendItem",
                Kind.OBJECTS,
                fields=(
                    TO,
                    Field("Remark", optional=True),
                    Field("GroupName", optional=True),
                    Field("AddSource", optional=True),
                    Field("AddWording", optional=True),
                ),
            ),
            Field("AddType", values=("Add_Type_Both", "Add_Type_Single")),
            Field("ForceAddFlags", Kind.INT, values=(0, 1)),
            TIME,
        ),
        about=("user:From_Account",),
        actor=("Requester_Account", "Requestor_Account", "From_Account"),
        subjects=("FriendItem.To_Account",),
    ),
    Command(
        name="Sns.CallbackPrevFriendResponse",
        type="im.relation.friend_response.requested",
        phase="before",
        source="43467",
        fields=(
            REQUESTER,
            FROM,
            Field(
                "ResponseFriendItem",
                Kind.OBJECTS,
                fields=(
                    TO,
                    Field("Remark", optional=True),
                    Field("TagName", optional=True),
                    Field(
                        "ResponseAction",
                        values=(
                            "Response_Action_AgreeAndAdd",
                            "Response_Action_Agree",
                            "Response_Action_Reject",
                        ),
                    ),
                ),
            ),
            TIME,
        ),
        about=("user:From_Account",),
        actor=("Requester_Account", "Requestor_Account", "From_Account"),
        subjects=("ResponseFriendItem.To_Account",),
    ),
    Command(
        name="Sns.CallbackFriendAdd",
        type="im.relation.friend.added",
        phase="after",
        source="34359",
        fields=(
            Field(
                "PairList",
                Kind.OBJECTS,
                fields=(*_PAIR, Field("Initiator_Account", Kind.ACCOUNT, optional=True)),
            ),
            Field("ClientCmd", values=("friend_add", "FriendAdd", "friend_response", "FriendResponse")),
            Field("Admin_Account", Kind.ACCOUNT, optional=True, note="May be empty."),
            Field("ForceFlag", Kind.INT, values=(0, 1)),
            TIME,
        ),
        about=("user:PairList.From_Account",),
        actor=("Admin_Account", "PairList.Initiator_Account", "PairList.From_Account"),
        subjects=("PairList.To_Account",),
    ),
    *(
        Command(
            name=f"Sns.Callback{act}",
            type=f"im.relation.{verb}",
            phase="after",
            source=source,
            fields=(_PAIRS, TIME),
            about=("user:PairList.From_Account",),
            actor=("PairList.From_Account",),
            subjects=("PairList.To_Account",),
        )
        for act, verb, source in (
            ("FriendDelete", "friend.deleted", "34360"),
            ("BlackListAdd", "blacklist.added", "34361"),
            ("BlackListDelete", "blacklist.deleted", "34362"),
        )
    ),
    Command(
        name="Follow.CallbackAfterFollowAdd",
        type="im.relation.follow.added",
        phase="after",
        source="269/118915",
        fields=(FROM, Field("FollowList", Kind.ACCOUNTS, "to", item="To_Account"), TIME),
        about=("user:From_Account",),
        actor=("From_Account",),
        subjects=("FollowList",),
    ),
    Command(
        name="Follow.CallbackAfterFollowDelete",
        type="im.relation.follow.deleted",
        phase="after",
        source="1047/70356",
        fields=(FROM, Field("To_Account", Kind.ACCOUNTS, "to"), TIME),
        about=("user:From_Account",),
        actor=("From_Account",),
        subjects=("To_Account",),
    ),
)

C2C = (
    Command(
        name="C2C.CallbackBeforeSendMsg",
        type="im.c2c.message.requested",
        phase="before",
        source="34364",
        fields=(*C2C_MESSAGE, TIME),
        about=ABOUT_C2C,
        actor=("From_Account",),
        subjects=("To_Account",),
        fact=_C2C_FACT,
        once=("MsgKey", "MsgSeq"),
    ),
    Command(
        name="C2C.CallbackAfterSendMsg",
        type="im.c2c.message.sent",
        phase="after",
        source="34365",
        fields=(*C2C_MESSAGE, SEND_RESULT, ERROR_INFO, UNREAD, TIME),
        about=ABOUT_C2C,
        actor=("From_Account",),
        subjects=("To_Account",),
        fact=_C2C_FACT,
        once=("MsgKey", "MsgSeq"),
        note="Also when delivery failed: then `message.send_result` is not 0.",
    ),
    Command(
        name="C2C.CallbackAfterMsgReport",
        type="im.c2c.message.read",
        phase="after",
        source="43465",
        fields=(
            Field("Report_Account", Kind.ACCOUNT),
            Field("Peer_Account", Kind.ACCOUNT),
            Field("LastReadTime", Kind.SECONDS),
            Field("UnreadMsgNum", Kind.INT, optional=True),
            TIME,
        ),
        about=("c2c:Report_Account:Peer_Account",),
        actor=("Report_Account",),
        subjects=("Peer_Account",),
        once=("LastReadTime",),
    ),
    Command(
        name="C2C.CallbackAfterMsgWithDraw",
        type="im.c2c.message.recalled",
        phase="after",
        source="43466",
        fields=(FROM, TO, MSG_KEY, MSG_ID, Field("UnreadMsgNum", Kind.INT, optional=True), TIME),
        about=ABOUT_C2C,
        actor=("From_Account",),
        subjects=("To_Account",),
        fact=("From_Account", "To_Account", "MsgKey"),
        once=("MsgKey",),
    ),
    Command(
        name="C2C.CallbackAfterMsgReadReceipt",
        type="im.c2c.read_receipt.sent",
        phase="after",
        source="269/128223",
        fields=(
            OPERATOR,
            Field("Peer_Account", Kind.ACCOUNT),
            Field(
                "C2CMsgInfo",
                Kind.OBJECTS,
                fields=(FROM, TO, Field("MsgKey", Kind.ID), Field("MsgId", Kind.ID, optional=True)),
            ),
            TIME,
        ),
        about=("c2c:Operator_Account:Peer_Account",),
        actor=("Operator_Account",),
        subjects=("Peer_Account",),
        once=("C2CMsgInfo.MsgKey",),
    ),
    Command(
        name="C2C.CallbackAfterMsgReadAll",
        type="im.c2c.all_messages.read",
        phase="after",
        source="269/128225",
        fields=(
            Field("Report_Account", Kind.ACCOUNT),
            Field(
                "GroupReadInfo",
                Kind.OBJECTS,
                optional=True,
                fields=(GROUP, Field("MsgSeq", Kind.UINT32)),
            ),
            TIME,
        ),
        about=("user:Report_Account",),
        actor=("Report_Account",),
        note="A one-to-one command that names groups.",
    ),
    Command(
        name="C2C.CallbackAfterModifyMsg",
        type="im.c2c.message.modified",
        phase="after",
        source="269/128224",
        fields=(
            OPERATOR,
            FROM,
            TO,
            MSG_RANDOM,
            MSG_SEQ,
            MSG_TIME,
            MSG_KEY,
            MSG_ID,
            MSG_BODY_MAYBE,
            CUSTOM,
            TIME,
        ),
        about=ABOUT_C2C,
        actor=("Operator_Account", "From_Account"),
        subjects=("To_Account",),
        note="Only what was changed.",
    ),
    Command(
        name="C2C.CallbackAfterC2CMsgExtension",
        type="im.c2c.message_extension.changed",
        phase="after",
        source="269/126475",
        fields=(FROM, TO, MSG_KEY, OPERATE_TYPE, EXTENSIONS, SEQ, TIME),
        about=ABOUT_C2C,
        actor=("From_Account",),
        subjects=("To_Account",),
    ),
    Command(
        name="Bot.OnC2CMessage",
        type="im.bot.c2c_message.received",
        phase="after",
        source="269/90407",
        fields=(*C2C_MESSAGE, SEND_RESULT, ERROR_INFO, UNREAD, TIME),
        about=ABOUT_C2C,
        actor=("From_Account",),
        subjects=("To_Account",),
        fact=_C2C_FACT,
        once=("MsgKey", "MsgSeq"),
        note="Comes beside `im.c2c.message.sent` of the same message.",
    ),
    Command(
        name="Chatbot.OnC2CSignalMessage",
        type="im.bot.signal_message.received",
        phase="sync",
        source="269/103730",
        fields=(FROM, TO, MSG_SEQ, MSG_RANDOM, MSG_KEY, Field("Data", Kind.OPAQUE), TIME),
        about=ABOUT_C2C,
        actor=("From_Account",),
        subjects=("To_Account",),
        fact=("From_Account", "To_Account", "MsgKey"),
        once=("MsgKey",),
    ),
)

_OFFICIAL = Field("Official_Account", Kind.OFFICIAL_ID)
_SUBSCRIBERS = Field("SubscribeAccountList", Kind.ACCOUNTS, "subscribers", item="Subscriber_Account")
_ABOUT_OFFICIAL = ("official_account:Official_Account",)
_OFFICIAL_MESSAGE = (_OFFICIAL, ONLINE_ONLY, MSG_BODY, CUSTOM)


def _official(act: str, event: str, page: str, fields: tuple[Field, ...], **more: Any) -> Command:
    """Return the row of ``OfficialAccount.Callback<act>``."""
    return Command(
        name=f"OfficialAccount.Callback{act}",
        type=f"im.official_account.{event}",
        phase="before" if act.startswith("Before") else "after",
        source=page,
        fields=(*fields, TIME),
        **{
            "about": _ABOUT_OFFICIAL,
            "actor": ("Operator_Account", "From_Account", "Owner_Account"),
            **more,
        },
    )


OFFICIAL_ACCOUNTS = (
    _official(
        "BeforeCreateOfficialAccount",
        "creation.requested",
        "269/102315",
        (OPERATOR, OWNER, NAME),
        about=("user:Owner_Account",),
        subjects=("Owner_Account",),
    ),
    _official(
        "AfterCreateOfficialAccount",
        "account.created",
        "269/102316",
        (_OFFICIAL, OPERATOR, OWNER, NAME),
        subjects=("Owner_Account",),
    ),
    _official(
        "AfterOfficialAccountInfoChanged",
        "info.changed",
        "269/102317",
        (
            _OFFICIAL,
            OPERATOR,
            NAME_MAYBE,
            Field("Introduction", optional=True),
            Field("FaceUrl", optional=True),
            Field("Organization", optional=True),
        ),
        note="Only what was changed.",
    ),
    _official(
        "AfterOfficialAccountDestroyed",
        "account.destroyed",
        "269/102318",
        (_OFFICIAL, OPERATOR_MAYBE, OWNER, NAME),
        subjects=("Owner_Account",),
    ),
    _official(
        "BeforeAddSubscriber",
        "subscription.requested",
        "269/102319",
        (_OFFICIAL, OPERATOR, _SUBSCRIBERS),
        subjects=("SubscribeAccountList",),
    ),
    _official(
        "AfterAddSubscriber",
        "subscriber.added",
        "269/102320",
        (_OFFICIAL, OPERATOR, _SUBSCRIBERS),
        subjects=("SubscribeAccountList",),
        fact=("Official_Account", "Operator_Account?", "SubscribeAccountList"),
    ),
    _official(
        "AfterDeleteSubscriber",
        "subscriber.deleted",
        "269/102321",
        (_OFFICIAL, OPERATOR, _SUBSCRIBERS),
        subjects=("SubscribeAccountList",),
        fact=("Official_Account", "Operator_Account?", "SubscribeAccountList"),
    ),
    _official("AfterOfficialAccountFull", "account.filled", "269/102322", (_OFFICIAL,)),
    _official("BeforeSendMsg", "message.requested", "269/102323", _OFFICIAL_MESSAGE),
    _official(
        "AfterSendMsg",
        "message.sent",
        "269/102324",
        (*_OFFICIAL_MESSAGE, MSG_KEY, MSG_TIME),
        fact=("Official_Account", "MsgKey"),
        once=("MsgKey",),
    ),
    _official(
        "AfterMsgWithDraw",
        "message.recalled",
        "269/102325",
        (
            _OFFICIAL,
            Field("WithdrawMsgList", Kind.TEXTS, "msg_keys", item="MsgKey", also=("WithDrawMsgList",)),
        ),
        once=("WithdrawMsgList.MsgKey", "WithDrawMsgList.MsgKey"),
    ),
)

MODERATION = (
    Command(
        name="ContentCallback.ResultNotify",
        type="im.moderation.content.reviewed",
        phase="after",
        source="269/95616",
        fields=(
            Field(
                "Scene",
                Kind.ENUM,
                values=(
                    "C2C",
                    "C2CCustom",
                    "Group",
                    "GroupCustom",
                    "GroupInfo",
                    "GroupMemberInfo",
                    "RelationChain",
                    "UserInfo",
                ),
            ),
            Field("SdkAppId", Kind.ID, "sdk_app_id", also=("SdkAppid",)),
            FROM,
            Field(
                "ContactItem",
                Kind.OBJECT,
                optional=True,
                fields=(
                    Field("ContactType", Kind.INT, values=(1, 2)),
                    Field("To_Account", Kind.ACCOUNT, optional=True),
                    Field("ToGroupId", Kind.GROUP_ID, "group_id", optional=True, also=("GroupId", "GroupID")),
                ),
            ),
            Field("ContentType", Kind.ENUM, values=("Text", "Image", "Audio", "Video", "File")),
            Field("TextContent", Kind.TEXTS, optional=True),
            Field("FileURL", optional=True),
            Field(
                "MsgID",
                Kind.ID,
                "msg_id",
                optional=True,
                also=("MsgId",),
                note="A MsgKey in one-to-one chats, a MsgSeq in groups; absent for what was blocked.",
            ),
            Field("CtxcbResult", Kind.INT),
            Field("CtxcbRequestId", Kind.ID),
            Field("CtxcbKeywords", Kind.TEXTS, optional=True),
            Field("CtxcbSuggestion", Kind.ENUM, values=("Block", "Review", "Pass")),
            Field("CtxcbLabel"),
            Field("CtxcbSubLabel", optional=True),
            Field("CtxcbSubLabelDesc", optional=True),
            Field("CtxcbLibName", optional=True),
            CUSTOM,
            TIME,
        ),
        about=(
            "group:ContactItem.ToGroupId",
            "group:ContactItem.GroupId",
            "c2c:From_Account:ContactItem.To_Account",
            "user:From_Account",
        ),
        actor=("From_Account",),
        subjects=("ContactItem.To_Account",),
        once=("CtxcbRequestId",),
        mend=_moderated_message,
        note="The body has no CallbackCommand.",
    ),
)

PUSH = (
    Command(
        name="Push.OfflinePush",
        type="im.push.offline_push.reported",
        phase="after",
        source="269/102567",
        envelope="Events",
        fields=(
            Field("EventType", Kind.INT, values=(1, 2), note="1 one-to-one, 2 group."),
            FROM,
            TO,
            MSG_KEY,
            Field("GroupID", Kind.GROUP_ID, "group_id", optional=True, also=("GroupId",)),
            MSG_SEQ,
            MSG_RANDOM,
            MSG_TIME,
            Field("PushID", Kind.ID, also=("PushId",)),
            *_RESULT,
        ),
        about=("group:GroupID", "group:GroupId", *ABOUT_C2C),
        actor=("From_Account",),
        subjects=("To_Account",),
    ),
    Command(
        name="Push.AllMemberPush",
        type="im.push.all_member_push.reported",
        phase="after",
        source="269/102568",
        envelope="Events",
        fields=(
            Field("EventType", Kind.INT, values=(1, 2), note="1 offline, 2 online."),
            Field("TaskId", Kind.ID),
            Field("TaskTime", Kind.SECONDS),
            TO,
            *_RESULT,
        ),
        about=("user:To_Account",),
        subjects=("To_Account",),
    ),
)

ROWS = (*STATE, *RELATIONS, *C2C, *OFFICIAL_ACCOUNTS, *MODERATION, *PUSH)
