"""Fields that many commands share, so that each has one name and one kind everywhere."""

from __future__ import annotations

from gateway.catalogue.shape import Field, Kind

TIME = Field("EventTime", Kind.EVENT_MS, optional=True)
TIME_TEXT = Field("EventTime", Kind.EVENT_MS_TEXT, optional=True)
TIME_S = Field("EventTime", Kind.EVENT_S, optional=True)

GROUP = Field("GroupId", Kind.GROUP_ID, "group_id", also=("GroupID", "groupID", "ToGroupId"))
GROUP_TYPES = ("Public", "Private", "ChatRoom", "AVChatRoom", "Community", "Work", "Meeting")
GROUP_TYPE = Field("Type", Kind.TEXT, "group_type", GROUP_TYPES)
GROUP_TYPE_MAYBE = Field("Type", Kind.TEXT, "group_type", GROUP_TYPES, optional=True)
TOPIC = Field("TopicId", Kind.TOPIC_ID, optional=True, note="Communities only; may be empty.")

OPERATOR = Field("Operator_Account", Kind.ACCOUNT)
OPERATOR_MAYBE = Field("Operator_Account", Kind.ACCOUNT, optional=True)
OWNER = Field("Owner_Account", Kind.ACCOUNT)
FROM = Field("From_Account", Kind.ACCOUNT)
TO = Field("To_Account", Kind.ACCOUNT)
REQUESTER = Field("Requester_Account", Kind.ACCOUNT, "requester", also=("Requestor_Account",))

NAME = Field("Name")
NAME_MAYBE = Field("Name", optional=True)
MEMBERS = Field("MemberList", Kind.ACCOUNTS, "members", optional=True, item="Member_Account")
INFO_CHANGES = (
    Field("Name", optional=True),
    Field("Introduction", optional=True),
    Field("Notification", optional=True),
    Field("FaceUrl", optional=True),
)
KEY_VALUE = (Field("Key"), Field("Value", Kind.ANY))
USER_DEFINED = Field("UserDefinedDataList", Kind.OBJECTS, optional=True, fields=KEY_VALUE)

# The parts of a message, gathered under `message`.
MSG_KEY = Field("MsgKey", Kind.ID, "message.key", optional=True)
MSG_SEQ = Field("MsgSeq", Kind.UINT32, "message.seq", optional=True)
MSG_RANDOM = Field("MsgRandom", Kind.UINT32, "message.random", also=("Random",))
RANDOM = Field("Random", Kind.UINT32, "message.random", optional=True, also=("MsgRandom",))
MSG_ID = Field("MsgId", Kind.ID, "message.id", optional=True, also=("MsgID",), note="Newer bodies.")
MSG_TIME = Field("MsgTime", Kind.SECONDS, "message.time", optional=True)
MSG_BODY = Field("MsgBody", Kind.ELEMENTS, "message.elements")
MSG_BODY_MAYBE = Field("MsgBody", Kind.ELEMENTS, "message.elements", optional=True)
CUSTOM = Field("CloudCustomData", Kind.OPAQUE, "message.cloud_custom_data", optional=True)
ONLINE_ONLY = Field("OnlineOnlyFlag", Kind.BOOL, "message.online_only", optional=True)
PRIORITY = Field("MsgPriority", Kind.ENUM, "message.priority", ("High", "Normal", "Low"), optional=True)
SEND_RESULT = Field("SendMsgResult", Kind.INT, "message.send_result", (0,), optional=True)
MENTIONS = Field(
    "GroupAtInfo", Kind.ACCOUNTS, "message.mentions", optional=True, item="GroupAt_Account",
    note="Each object has `GroupAtAllFlag` too: one that is set gives `message.mentions_all`.",
)  # fmt: skip
ERROR_INFO = Field("ErrorInfo", optional=True)
UNREAD = Field("UnreadMsgNum", Kind.INT, optional=True, note="-1 where the message could not be delivered.")

C2C_MESSAGE = (FROM, TO, MSG_SEQ, MSG_RANDOM, MSG_TIME, MSG_KEY, MSG_ID, ONLINE_ONLY, MSG_BODY, CUSTOM)
GROUP_MESSAGE = (
    GROUP, TOPIC, GROUP_TYPE_MAYBE, FROM, OPERATOR_MAYBE, RANDOM, ONLINE_ONLY, PRIORITY, MSG_BODY, CUSTOM,
)  # fmt: skip

SEQ = Field("Seq", Kind.INT)
OPERATE_TYPE = Field("OperateType", Kind.INT, values=(1, 2, 3), note="1 set, 2 delete, 3 clear.")
EXTENSIONS = Field(
    "ExtensionList", Kind.OBJECTS, optional=True,
    fields=(Field("Key"), Field("Value", Kind.OPAQUE, optional=True), Field("Seq", Kind.INT, optional=True)),
)  # fmt: skip

ABOUT_C2C = ("c2c:From_Account:To_Account",)
ABOUT_GROUP = ("group:GroupId",)
ABOUT_TOPIC = ("topic:TopicId", "group:GroupId")
