"""The commands we know, one row each: our type, phase, names and what identifies the fact.

Adding a command is adding a row. What has no row becomes ``im.unknown`` by the general rules of
``normalise``, with everything kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

UNKNOWN_TYPE = "im.unknown"
MALFORMED_TYPE = "im.malformed"


@dataclass(frozen=True, slots=True)
class Command:
    """How one command becomes an event."""

    name: str
    """Tencent's ``CallbackCommand``."""
    type: str
    """Our type: ``im.<domain>.<entity>.<past-tense verb>``; stable for ever."""
    phase: str
    """``before``, ``after``, ``sync`` or ``alert``."""
    source: str
    """Where the command is described."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Names in ``data`` that the general rule would not give, by the wire's."""
    accounts: frozenset[str] = frozenset()
    """Wire names of lists that hold accounts, in whatever shape; they become lists of strings."""
    enums: frozenset[str] = frozenset()
    """Wire names whose short fixed values are lowered."""
    fact: tuple[str, ...] = ()
    """Names in ``data`` that with the time identify the fact; lists count without order."""
    mend: Callable[[dict[str, Any]], None] | None = None
    """Fills in ``data`` what the wire is known to leave out."""


def _leaver_from_operator(data: dict[str, Any]) -> None:
    # Source: the only capture of a Quit has operator and leaver the same; some consumers meet empty lists.
    if not data.get("members") and data.get("exit_type") == "quit" and data.get("operator"):
        data["members"] = [data["operator"]]


_ROWS = (
    Command(
        name="Group.CallbackAfterMemberExit",
        type="im.group.member.exited",
        phase="after",
        source="trtc.io/document/34373",
        names={"ExitMemberList": "members"},
        accounts=frozenset(("ExitMemberList",)),
        enums=frozenset(("ExitType",)),
        fact=("group_id", "exit_type", "operator", "members"),
        mend=_leaver_from_operator,
    ),
)

COMMANDS: Mapping[str, Command] = {row.name: row for row in _ROWS}
