"""How ``gateway exits`` reads its times and shows what it found. Pure; the command itself stands elsewhere.

Names of groups and members come from outside: no control character of theirs reaches the terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.event import iso_time
from gateway.exits import MemberExit, iso_to_ms

_RELATIVE = re.compile(r"(\d{1,9})([smhdw])")
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_COLUMNS = ("time (UTC)", "group", "who left", "how", "by whom", "app")


def render_table(exits: Sequence[MemberExit], console: Console) -> None:
    """Print *exits* as a table, or a sentence when there are none."""
    if not exits:
        console.print("No member exit matches.")
        return
    table = Table(*_COLUMNS, box=box.SIMPLE, pad_edge=False, show_edge=False, collapse_padding=True)
    table.columns[0].no_wrap = True
    for one in exits:
        cells = (
            *(iso_time(one.time_ms), one.group_id, one.member),
            *(one.exit_type or "", one.operator or "", one.app_id),
        )
        # Why Text: a str would be read as rich's markup.
        table.add_row(*(Text(visible(cell), overflow="fold") for cell in cells))
    console.print(table)


def render_json(exits: Sequence[MemberExit]) -> str:
    """Return *exits* as a JSON array of objects; times are ISO 8601 in UTC."""
    rows = [
        {
            "time": iso_time(one.time_ms),
            "group_id": one.group_id,
            "group_type": one.group_type,
            "member": one.member,
            "operator": one.operator,
            "exit_type": one.exit_type,
            "app_id": one.app_id,
            "event_id": one.event_id,
        }
        for one in exits
    ]
    return visible_json(json.dumps(rows, ensure_ascii=False, indent=2))


def parse_time(text: str, now_ms: int) -> int:
    """Return the time that *text* names as Unix milliseconds.

    ISO 8601 (``2026-01-31``, ``2026-01-31T08:00:00+08:00``; UTC where no zone is given), or how long before
    *now_ms*: ``30m``, ``2h``, ``7d``. Raises ValueError with a sentence.
    """
    relative = _RELATIVE.fullmatch(text.strip())
    if relative:
        return max(0, now_ms - int(relative[1]) * _UNIT_MS[relative[2]])
    try:
        return iso_to_ms(text.strip())
    except ValueError as error:
        raise ValueError(
            f"{visible(text)} is not a time: write 2026-01-31, 2026-01-31T08:00 (UTC), or 30m, 2h, 7d ago"
        ) from error


def visible(text: str) -> str:
    """Return *text* with all that is not printable as an escape: ``\\x1b``, ``\\u202e``."""
    return "".join(char if char.isprintable() else _python_escape(char) for char in text)


def visible_json(text: str) -> str:
    """Return the JSON *text* with all that is not printable as JSON's own escape; it reads back the same."""
    # Why the line break: outside of strings only that is not printable, and in strings it can't stand.
    return "".join(char if char.isprintable() or char == "\n" else _json_escape(char) for char in text)


def _python_escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
