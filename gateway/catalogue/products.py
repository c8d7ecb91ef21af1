"""Rows of the cousin products on the same protocol: Room, Mic, Live, Call."""

from __future__ import annotations

from gateway.catalogue.parts import MEMBERS, OPERATOR, OPERATOR_MAYBE, OWNER, TIME
from gateway.catalogue.shape import Command, Field, Kind

_ROOM_PAGE = "trtc.io: Room webhooks"
_LIVE_PAGE = "trtc.io: Live webhooks"
_CALL_PAGE = "trtc.io: Call webhooks"

_ROOM = Field("RoomId", Kind.ROOM_ID, also=("RoomID",))
_ROOM_MAYBE = Field("RoomId", Kind.ROOM_ID, optional=True, also=("RoomID",))
_ABOUT_ROOM = ("room:RoomId", "room:RoomInfo.RoomId", "room:RoomID")
_ACTOR = ("Operator_Account", "RoomInfo.Owner_Account")


def _flag(wire: str) -> Field:
    return Field(wire, Kind.BOOL, optional=True)


_ROOM_INFO = Field(
    "RoomInfo",
    Kind.OBJECT,
    fields=(
        _ROOM_MAYBE,
        Field("RoomName", optional=True),
        Field("RoomType", Kind.ENUM, values=("Conference", "Live"), optional=True),
        Field("Owner_Account", Kind.ACCOUNT, optional=True),
        Field("MaxMemberCount", Kind.INT, optional=True),
        _flag("IsMessageDisabled"),
        Field("CustomInfo", Kind.OPAQUE, optional=True),
        _flag("IsSeatEnabled"),
        Field("TakeSeatMode", Kind.ENUM, values=("FreeToTake", "ApplyToTake"), optional=True),
        Field("MaxSeatCount", Kind.INT, optional=True),
        Field("CreateTime", Kind.SECONDS, optional=True),
        _flag("IsPublicVisible"),
        Field("CoverURL", optional=True),
        Field("BackgroundURL", optional=True),
        Field("Category", Kind.INTS, optional=True),
        Field("ActivityStatus", Kind.INT, optional=True),
        Field("ViewCount", Kind.INT, optional=True),
        _flag("IsUnlimitedRoomEnabled"),
        _flag("IsVideoDisabled"),
        _flag("IsAudioDisabled"),
        Field("EventTime", Kind.EVENT_MS, optional=True),
    ),
)
_STATISTIC = Field(
    "Statistic",
    Kind.OBJECT,
    optional=True,
    fields=tuple(
        Field(wire, Kind.INT, optional=True)
        for wire in (
            "TotalViewers",
            "TotalGiftsSent",
            "TotalGiftCoins",
            "TotalUniqueGiftSenders",
            "TotalLikesReceived",
        )
    ),
)

ROOM = (
    Command(
        name="Room.CallbackAfterCreateRoom",
        type="im.room.room.created",
        phase="after",
        source=_ROOM_PAGE,
        fields=(
            OPERATOR,
            _ROOM_INFO,
            Field("ScheduleInviteeList_Account", Kind.ACCOUNTS, "schedule_invitees", optional=True),
            TIME,
        ),
        about=_ABOUT_ROOM,
        actor=_ACTOR,
        subjects=("ScheduleInviteeList_Account",),
    ),
    Command(
        name="Room.CallbackAfterUpdateRoomInfo",
        type="im.room.info.changed",
        phase="after",
        source=_ROOM_PAGE,
        fields=(OPERATOR, _ROOM_INFO, TIME),
        about=_ABOUT_ROOM,
        actor=_ACTOR,
        older=("Room.CallbackUpdateRoomInfo",),
        note="Booleans may come as text.",
    ),
    Command(
        name="Room.CallbackAfterDestroyRoom",
        type="im.room.room.destroyed",
        phase="after",
        source=_ROOM_PAGE,
        fields=(OPERATOR, _ROOM, TIME),
        about=_ABOUT_ROOM,
        actor=_ACTOR,
    ),
    *(
        Command(
            name=f"Room.CallbackAfterMember{act}",
            type=f"im.room.member.{verb}",
            phase="after",
            source=_ROOM_PAGE,
            fields=(
                OPERATOR,
                _ROOM,
                Field("MemberCount", Kind.INT, optional=True),
                Field("Type", Kind.ENUM, f"{act.lower()}_type", values),
                Field("MemberList_Account", Kind.ACCOUNTS, "members", also=("MemberList",)),
                Field("Reason", optional=True),
                TIME,
            ),
            about=_ABOUT_ROOM,
            actor=_ACTOR,
            subjects=("MemberList_Account", "MemberList"),
        )
        for act, verb, values in (
            ("Enter", "entered", ("Enter",)),
            ("Leave", "left", ("Leave", "Kicked", "Expired")),
        )
    ),
    Command(
        name="Mic.CallbackAfterSeatInfoChanged",
        type="im.room.seats.changed",
        phase="after",
        source=_ROOM_PAGE,
        fields=(
            OPERATOR,
            _ROOM,
            Field(
                "SeatList",
                Kind.OBJECTS,
                fields=(
                    Field("Index", Kind.INT),
                    Field("Member_Account", Kind.ACCOUNT, optional=True),
                    _flag("IsTakenDisabled"),
                    _flag("IsVideoDisabled"),
                    _flag("IsAudioDisabled"),
                ),
            ),
            TIME,
        ),
        about=_ABOUT_ROOM,
        actor=_ACTOR,
        subjects=("SeatList.Member_Account",),
    ),
)


def _live(
    act: str,
    event: str,
    fields: tuple[Field, ...],
    subjects: tuple[str, ...] = (),
    older: tuple[str, ...] = (),
    note: str = "",
) -> Command:
    """Return the row of ``Live.CallbackAfter<act>``, which is about a room."""
    return Command(
        name=f"Live.CallbackAfter{act}",
        type=f"im.live.{event}",
        phase="after",
        source=_LIVE_PAGE,
        fields=(OPERATOR_MAYBE, *fields, TIME),
        about=(*_ABOUT_ROOM, "room:FromRoomId", "room:FromRoomInfo.RoomId", "user:Operator_Account"),
        actor=_ACTOR,
        subjects=subjects,
        older=older,
        note=note,
    )


_BATTLE = Field("BattleId", Kind.ID)
_BATTLE_ROOM = (_ROOM, Field("Score", Kind.INT, optional=True), OWNER)
_BATTLE_RUN = (
    _BATTLE,
    Field("Duration", Kind.INT, "duration_ms"),
    Field("CreateTime", Kind.SECONDS),
    Field("StartTime", Kind.SECONDS),
    Field("EndTime", Kind.SECONDS, optional=True),
    Field("OpType", Kind.INT, optional=True, also=("opType",)),
    Field("FromRoomInfo", Kind.OBJECT, fields=_BATTLE_ROOM),
    Field("ToRoomList", Kind.OBJECTS, fields=_BATTLE_ROOM),
)
_METADATA = Field("Metadata", Kind.OBJECTS, fields=(Field("Key"), Field("Value", Kind.ANY)))

LIVE = (
    _live("CreateRoom", "room.created", (_ROOM_INFO,), note="EventTime stands inside RoomInfo."),
    _live(
        "DestroyRoom",
        "room.destroyed",
        (_ROOM_MAYBE, Field("EventType", Kind.ENUM, values=("DestroyByUser",)), _ROOM_INFO, _STATISTIC),
    ),
    _live("UpdateRoomInfo", "info.changed", (_ROOM_INFO,)),
    _live(
        "MemberStateChanged",
        "member_state.changed",
        (
            _ROOM,
            Field("EventType", Kind.ENUM, values=("Online", "Offline")),
            Field("EventCause", Kind.ENUM, values=("Enter", "Leave", "Kicked"), optional=True),
            MEMBERS,
        ),
        subjects=("MemberList",),
        older=("Live.CallbackMemberStateChanged",),
    ),
    _live(
        "ChangeOwner",
        "owner.changed",
        (
            _ROOM,
            Field("CurrentOwner_Account", Kind.ACCOUNT),
            Field("OriginalOwner_Account", Kind.ACCOUNT),
        ),
        subjects=("CurrentOwner_Account", "OriginalOwner_Account"),
    ),
    _live(
        "ModifyAdmin",
        "admins.changed",
        (
            _ROOM,
            Field("Admin_Account", Kind.ACCOUNTS, "admins"),
            Field("opType", Kind.ANY, "op_type", also=("OpType",)),
        ),
        subjects=("Admin_Account",),
    ),
    _live("SetMetadata", "metadata.set", (_ROOM, _METADATA)),
    _live("DelMetadata", "metadata.deleted", (_ROOM, Field("Keys", Kind.TEXTS))),
    _live(
        "CreateRoomReachingThreshold",
        "room_quota.warned",
        (Field("CurRoomCount", Kind.INT), Field("MaxRoomCount", Kind.INT)),
    ),
    _live(
        "CreateBattle",
        "battle.created",
        (
            _BATTLE,
            Field("FromRoomId", Kind.ROOM_ID),
            Field("ToRoomIdList", Kind.TEXTS, "to_room_ids"),
            Field("Timeout", Kind.INT, "timeout_ms"),
            Field("Duration", Kind.INT, "duration_ms"),
            _flag("NeedResponse"),
            Field("ExtensionInfo", Kind.OPAQUE, optional=True),
        ),
    ),
    _live(
        "StartBattle",
        "battle.started",
        _BATTLE_RUN,
        subjects=("FromRoomInfo.Owner_Account", "ToRoomList.Owner_Account"),
    ),
    _live(
        "EndBattle",
        "battle.ended",
        _BATTLE_RUN,
        subjects=("FromRoomInfo.Owner_Account", "ToRoomList.Owner_Account"),
    ),
    Command(
        name="Live.CallbackBeforeSendGift",
        type="im.live.gift.requested",
        phase="before",
        source=_LIVE_PAGE,
        fields=(OPERATOR_MAYBE, _ROOM_MAYBE, Field("GiftWater", Kind.OBJECT), TIME),
        about=(*_ABOUT_ROOM, "room:GiftWater.RoomId"),
        actor=("Operator_Account", "From_Account"),
    ),
    Command(
        name="Live.CallbackBeforeCallBackNotBlock",
        type="im.live.callback_not_block.requested",
        phase="before",
        source="by name only, spelling unsure",
        fields=(_ROOM_MAYBE, OPERATOR_MAYBE, TIME),
        about=_ABOUT_ROOM,
        actor=("Operator_Account", "From_Account"),
        is_documented=False,
    ),
)

_CALL_FIELDS = (
    Field("CallId", Kind.ID),
    Field("CallMediaType", Kind.ENUM, values=("Audio", "Video"), optional=True),
    Field("ChatGroupId", Kind.ID, optional=True, note="May be empty."),
    Field("RoomId", Kind.ROOM_ID, optional=True, note="May be empty."),
    Field("RoomIdType", Kind.INT, optional=True),
)
_STATUSES = ("Calling", "Waiting")
_USERS = Field(
    "UserList",
    Kind.OBJECTS,
    optional=True,
    fields=(Field("User_Account", Kind.ACCOUNT), Field("Status", Kind.ENUM, values=_STATUSES, optional=True)),
)


def _call(
    act: str, event: str, fields: tuple[Field, ...], about: tuple[str, ...], subjects: tuple[str, ...]
) -> Command:
    return Command(
        name=f"Call.CallbackAfter{act}",
        type=f"im.call.{event}",
        phase="after",
        source=_CALL_PAGE,
        fields=(*fields, TIME),
        about=about,
        actor=("Operator_Account", "From_Account", "CallRecord.Caller_Account", "CallInfo.Caller_Account"),
        subjects=subjects,
    )


CALL = (
    _call(
        "StartCall",
        "call.started",
        (Field("CallInfo", Kind.OBJECT, fields=_CALL_FIELDS), _USERS),
        ("call:CallInfo.CallId", "call:CallId"),
        ("UserList.User_Account",),
    ),
    _call(
        "EndCall",
        "call.ended",
        (Field("CallRecord", Kind.OBJECT, fields=_CALL_FIELDS), _USERS),
        ("call:CallRecord.CallId", "call:CallInfo.CallId", "call:CallId"),
        ("UserList.User_Account", "CallRecord.UserList.User_Account"),
    ),
    _call(
        "MemberChanged",
        "member.changed",
        (
            Field("CallId", Kind.ID),
            _USERS,
            Field(
                "ChangedUserList",
                Kind.OBJECTS,
                fields=(
                    Field("User_Account", Kind.ACCOUNT),
                    Field("ActionType", Kind.ENUM, values=("Answer",), optional=True),
                ),
            ),
        ),
        ("call:CallId", "call:CallInfo.CallId"),
        ("ChangedUserList.User_Account",),
    ),
)

LEGACY = (
    Command(
        name="call_end",
        type="im.call.user_call.ended",
        phase="after",
        source="647/60130 of tencentcloud.com/document/product",
        fields=(
            Field("UserId", Kind.ACCOUNT, "user"),
            Field("RoomId", Kind.ROOM_ID, optional=True),
            Field("TotalNum", Kind.INT, optional=True),
            Field("MediaType", Kind.ENUM, values=("audio", "video"), optional=True),
            Field("CallType", Kind.ENUM, values=("single", "group"), optional=True),
            Field("CallId", Kind.ID),
            Field("Role", Kind.ENUM, values=("caller", "callee"), optional=True),
            Field(
                "CallResult",
                Kind.ENUM,
                values=("cancel", "reject", "not_answer", "normal_end", "call_busy", "interrupt"),
                optional=True,
            ),
            Field("StartCallTs", Kind.SECONDS, "start_time", optional=True),
            Field("AcceptTs", Kind.SECONDS, "accept_time", optional=True),
            Field("EndTs", Kind.SECONDS, "end_time", optional=True),
            Field("EventTime", Kind.EVENT_S, optional=True),
        ),
        about=("call:CallId",),
        actor=("UserId",),
        subjects=("UserId",),
        is_documented=False,
        note="The old call status callback: `command` in a lower-case query, none in the body.",
    ),
)

ROWS = (*ROOM, *LIVE, *CALL, *LEGACY)
