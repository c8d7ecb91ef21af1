"""The commands we know, one row each: type, phase, fields, what they are about and what identifies the fact.

Adding a command is adding a row to a table of this package. What has no row becomes ``im.unknown`` by the
general rules of ``normalise``, with everything kept.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.catalogue import chat, groups, products
from gateway.catalogue.shape import EVENT_TIMES, Command, Field, Kind

UNKNOWN_TYPE = "im.unknown"
MALFORMED_TYPE = "im.malformed"

ROWS: tuple[Command, ...] = (*chat.ROWS, *groups.ROWS, *products.ROWS)
"""Every row once: the 83 documented commands, and what is older or unverified (``is_documented`` False)."""

COMMANDS: Mapping[str, Command] = {name: row for row in ROWS for name in (row.name, *row.older)}
"""The row of each command, by its name and by its older names."""

__all__ = [
    "COMMANDS",
    "EVENT_TIMES",
    "MALFORMED_TYPE",
    "ROWS",
    "UNKNOWN_TYPE",
    "Command",
    "Field",
    "Kind",
]
