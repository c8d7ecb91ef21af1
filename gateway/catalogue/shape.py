"""What a row of the catalogue says: a command, its fields on the wire, what it is about, what identifies it.

Documentation, JSON Schema, simulator bodies and property tests all come from these records. Data only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal


class Kind(StrEnum):
    """What stands in a field on the wire, and so what becomes of it in ``data``."""

    TEXT = "text"
    OPAQUE = "opaque text"
    """Text of the app's own, JSON inside perhaps: never parsed."""
    ACCOUNT = "account"
    """A string, or a 64-bit number; a string in ``data``."""
    ACCOUNTS = "account list"
    """Objects with the one key ``Field.item``, or strings when ``item`` is empty; strings in ``data``."""
    TEXTS = "text list"
    """As ACCOUNTS with texts; a single text is a list of one."""
    GROUP_ID = "group id"
    TOPIC_ID = "topic id"
    OFFICIAL_ID = "official account id"
    ROOM_ID = "room id"
    ID = "id"
    INT = "int"
    UINT32 = "uint32"
    INTS = "int list"
    """As TEXTS with integers."""
    BOOL = "bool"
    """true or false; also as text, or as 1 and 0. Sent as 0 or 1 where the name ends in ``Flag``."""
    ENUM = "enum"
    """A word of a small open set (``Field.values``); lower case in ``data``."""
    EVENT_MS = "event time, ms number"
    EVENT_MS_TEXT = "event time, ms string"
    EVENT_S = "event time, seconds"
    """The three are ``time`` of the event, not a field of ``data``; any of them may come in any spelling."""
    SECONDS = "time in seconds"
    """Unix seconds; ``…_ms`` in ``data``."""
    ELEMENTS = "message elements"
    """``MsgBody``."""
    OBJECT = "object"
    OBJECTS = "list of objects"
    """Both with ``Field.fields``; what stands in there beside them goes by the general rules."""
    ANY = "anything"


EVENT_TIMES = frozenset((Kind.EVENT_MS, Kind.EVENT_MS_TEXT, Kind.EVENT_S))


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a body on the wire."""

    wire: str
    """Tencent's name."""
    kind: Kind = Kind.TEXT
    name: str = ""
    """Our name where the general rule would give another; ``message.seq`` stands inside ``message``."""
    values: tuple[Any, ...] = ()
    """Known values; the set is open. Integers for INT, the wire's spelling for ENUM and TEXT."""
    optional: bool = False
    """Some versions or cases leave it out."""
    also: tuple[str, ...] = ()
    """Other spellings of ``wire`` that were seen."""
    fields: tuple[Field, ...] = ()
    """What an object, or each object of a list, holds."""
    item: str = ""
    """The key inside each object of a list of accounts, texts or integers; "" when they stand there bare."""
    note: str = ""
    """A sentence for the documentation."""


Phase = Literal["before", "after", "sync", "alert"]


@dataclass(frozen=True, slots=True)
class Command:
    """How one command becomes an event. Paths are wire names with dots; they lead through lists too."""

    name: str
    """Tencent's ``CallbackCommand``."""
    type: str
    """Our type: ``im.<domain>.<entity>.<past-tense verb>``; stable for ever."""
    phase: Phase
    source: str
    """Where the command is described."""
    fields: tuple[Field, ...] = ()
    """All fields of the body but ``CallbackCommand``; of one item for a Push envelope."""
    about: tuple[str, ...] = ()
    """Subject and partition key: the first of ``kind:path`` (``c2c:path:path``) whose ids are there.
    Kinds: group, topic, c2c, user, official_account, room, call; app when none is."""
    actor: tuple[str, ...] = ()
    """Who did it: the first path that holds an account."""
    subjects: tuple[str, ...] = ()
    """Whom it happened to: all accounts on these paths."""
    fact: tuple[str, ...] = ()
    """What with the time identifies the fact; lists count without order. A path that ends in ``?`` may be
    missing. Empty, or one of the others missing: the whole body in canonical form."""
    once: tuple[str, ...] = ()
    """Paths that name the fact for ever even without a time: with one of them the window does not count."""
    since: int = 1
    """The id recipe from which ``fact`` and ``once`` hold. What was stored under an earlier one goes by the
    rules for unknown commands."""
    older: tuple[str, ...] = ()
    """Other names of the same command."""
    is_documented: bool = True
    """False: older, or known from third-party code or by name only; not one of the 83 in use."""
    is_uniform: bool = True
    """``data`` gets ``actor`` and ``subjects``."""
    envelope: str = ""
    """The wire name of the list whose items are the events (``Events``)."""
    mend: Callable[[dict[str, Any]], None] | None = None
    """Fills in ``data`` what the wire is known to leave out or to write in several shapes."""
    note: str = ""
    """A sentence for the documentation."""
