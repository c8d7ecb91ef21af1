"""What a fault did, as a row, and all rows as a table."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Row:
    """One fault. Everything but the first three counts callbacks, where not said otherwise."""

    fault: str
    rounds: int
    rate_per_s: int
    """Callbacks sent a second, over the whole run."""
    acknowledged: int
    """Answered 200."""
    refused: int
    """Answered otherwise."""
    unanswered: int
    """Timed out after 2 s, or the connection was lost."""
    arrived: int
    """Acknowledged, and all their events in PostgreSQL."""
    lost: int
    """Acknowledged, and an event is nowhere in PostgreSQL."""
    duplicated: int
    """Rows in PostgreSQL beyond one for each event and each member that left."""
    copies: int
    """Lines beyond the first of an event in the log file, whose sink promises at least once: no fault."""
    longest_ms: int
    """Longest time to an answer 200."""
    faults: list[str] = field(default_factory=list)
    """Everything else that did not hold."""
    notes: list[str] = field(default_factory=list)
    must_lose: bool = False
    """A control: it is good when it has lost something."""

    @property
    def is_good(self) -> bool:
        if self.must_lose:
            return self.lost > 0
        return not (self.lost or self.duplicated or self.faults) and self.arrived > 0


_HEADS = (
    ("fault", "fault"),
    ("rounds", "rounds"),
    ("sent/s", "rate_per_s"),
    ("acknowledged", "acknowledged"),
    ("refused", "refused"),
    ("unanswered", "unanswered"),
    ("arrived", "arrived"),
    ("**lost**", "lost"),
    ("**duplicated in the sink**", "duplicated"),
    ("copies in the log file", "copies"),
    ("longest answer (ms)", "longest_ms"),
)


def render(rows: list[Row]) -> str:
    """Return *rows* as a Markdown table, with sums where they mean something."""
    lines = [_line([head for head, _ in _HEADS]), "|---|" + "---:|" * (len(_HEADS) - 1)]
    lines += [_line([_cell(getattr(row, name)) for _, name in _HEADS]) for row in rows]
    ours = [row for row in rows if not row.must_lose]
    if len(ours) > 1:
        lines.append(_line(["**all but controls**", *(_sum(ours, name) for _, name in _HEADS[1:])]))
    return "\n".join(lines)


def _sum(rows: list[Row], name: str) -> str:
    values = [getattr(row, name) for row in rows]
    if name == "rate_per_s":
        return ""
    return _cell(max(values) if name == "longest_ms" else sum(values))


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
