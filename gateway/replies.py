"""Answers that an operator fixes for before-callbacks: what each command allows, and the bytes. Pure.

What a code does is Tencent's decision, see the page of each command. Source: trtc.io/document 34364 to 34374,
43467, 43468, 49463; 269/102315 to 102325, 103730, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an answer to one command may hold."""

    codes: frozenset[int]
    """ErrorCodes with a meaning of their own."""
    custom: range = range(0)
    """ErrorCodes that reach the client with ErrorInfo."""
    fields: frozenset[str] = frozenset()
    """Further keys of ``Reply`` that the command knows."""
    result_codes: range = range(0)
    """ResultCodes that refuse one account; 0 allows it."""


_ALLOW_OR_DENY = frozenset((0, 1))
_OR_DROP = frozenset((0, 1, 2))
_GROUP = range(10100, 10201)
_C2C = range(120001, 130001)
_FRIEND = range(38000, 39001)
_REWRITE = frozenset(("msg_body", "cloud_custom_data"))
_MEMBERS = frozenset(("refused_members",))
_RESULTS = frozenset(("result_code", "result_info"))

ALLOWED: Mapping[str, Allowed] = {
    "C2C.CallbackBeforeSendMsg": Allowed(_OR_DROP, _C2C, _REWRITE),
    "Group.CallbackBeforeSendMsg": Allowed(_OR_DROP, _GROUP, _REWRITE),
    "Group.CallbackBeforeCreateGroup": Allowed(_ALLOW_OR_DENY, _GROUP),
    "Group.CallbackBeforeApplyJoinGroup": Allowed(_ALLOW_OR_DENY, _GROUP),
    "Group.CallbackBeforeInviteJoinGroup": Allowed(_ALLOW_OR_DENY, _GROUP, _MEMBERS),
    "Group.CallbackBeforeCreateTopic": Allowed(_ALLOW_OR_DENY, _GROUP),
    "Sns.CallbackPrevFriendAdd": Allowed(_ALLOW_OR_DENY, range(0), _RESULTS, _FRIEND),
    "Sns.CallbackPrevFriendResponse": Allowed(_ALLOW_OR_DENY, range(0), _RESULTS, _FRIEND),
    "OfficialAccount.CallbackBeforeCreateOfficialAccount": Allowed(_ALLOW_OR_DENY),
    "OfficialAccount.CallbackBeforeAddSubscriber": Allowed(_ALLOW_OR_DENY, range(0), _MEMBERS),
    "OfficialAccount.CallbackBeforeSendMsg": Allowed(_ALLOW_OR_DENY),
    "Live.CallbackBeforeSendGift": Allowed(_ALLOW_OR_DENY),
    "Chatbot.OnC2CSignalMessage": Allowed(_ALLOW_OR_DENY, range(0), frozenset(("rsp_data",))),
}
"""Commands whose answer decides something; every other one gets OK, whatever is configured."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One fixed answer."""

    code: int = 0
    info: str = ""
    refused_members: tuple[str, ...] | None = None
    msg_body: tuple[Mapping[str, Any], ...] | None = None
    cloud_custom_data: str | None = None
    rsp_data: str | None = None
    result_code: int = 0
    result_info: str = ""

    def body(self, accounts: list[Any] | None) -> bytes:
        """Return the answer's JSON; *accounts* are those that a ResultItem is owed for, None for no list."""
        told: dict[str, Any] = {"ActionStatus": "OK", "ErrorCode": self.code, "ErrorInfo": self.info}
        if accounts is not None:
            told["ResultItem"] = [
                {"To_Account": account, "ResultCode": self.result_code, "ResultInfo": self.result_info}
                for account in accounts
            ]
        optional = {
            "RefusedMembers_Account": self.refused_members,
            "MsgBody": self.msg_body,
            "CloudCustomData": self.cloud_custom_data,
            "RspData": self.rsp_data,
        }
        told |= {name: value for name, value in optional.items() if value is not None}
        return orjson.dumps(told)


def faults(command: str, reply: Reply) -> list[str]:
    """Return what is wrong with answering *command* by *reply*, one sentence a fault."""
    allowed = ALLOWED.get(command)
    if allowed is None:
        near = get_close_matches(command.lower(), {name.lower(): name for name in ALLOWED}, 1, 0.9)
        meant = next((f"Did you mean {name}? " for name in ALLOWED if near == [name.lower()]), "")
        known = ", ".join(sorted(ALLOWED))
        return [f"Tencent ignores the answer to this command. {meant}Answers can be fixed for: {known}"]
    said = []
    if reply.code not in allowed.codes and reply.code not in allowed.custom:
        custom = f", or {allowed.custom.start} to {allowed.custom.stop - 1}" if allowed.custom else ""
        codes = ", ".join(map(str, sorted(allowed.codes)))
        said.append(f"code {reply.code} has no meaning there; allowed are {codes}{custom}")
    if reply.result_code and reply.result_code not in allowed.result_codes:
        said.append(f"result_code {reply.result_code} is not allowed there; 0 allows, 38000 to 39000 refuse")
    said += [f"{name} is not known to this command" for name in sorted(_given(reply) - allowed.fields)]
    if reply.code != 0 and (reply.msg_body is not None or reply.cloud_custom_data is not None):
        said.append("a message is rewritten only with code 0")
    try:
        reply.body(None)
    except (TypeError, ValueError):
        said.append("it holds a value that JSON has no form for, such as !!binary or a number above 64 bits")
    return said


def _given(reply: Reply) -> set[str]:
    plain = Reply()
    names = ("refused_members", "msg_body", "cloud_custom_data", "rsp_data", "result_code", "result_info")
    return {name for name in names if getattr(reply, name) != getattr(plain, name)}
