"""How the sinks on database servers cut a batch: each event once, in order, in bounded statements. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from gateway.sinks.rows import EventRow

# Bound: what one statement carries. A server holds it several times over, and making it holds up the process
# for some ten milliseconds.
STATEMENT_BYTES = 4 * 1024 * 1024
_EXIT_BYTES = 256
Row = TypeVar("Row")


class Keyed(NamedTuple, Generic[Row]):
    """What one event becomes, and its places in the batch: more than one when it came twice."""

    row: Row
    indexes: list[int]
    size_bytes: int


def sorted_by_key(rows: Sequence[tuple[int, EventRow]]) -> list[Keyed[EventRow]]:
    """Return each event once, by key: workers that insert the same events in one order can't deadlock."""
    by_key: dict[tuple[str, str], Keyed[EventRow]] = {}
    for index, row in rows:
        new = Keyed(row, [], len(row.body) + _EXIT_BYTES * len(row.exits))
        by_key.setdefault((row.source, row.id), new).indexes.append(index)
    return [by_key[key] for key in sorted(by_key)]


def parts(rows: Sequence[Keyed[Row]], most_bytes: int = STATEMENT_BYTES) -> Iterator[list[Keyed[Row]]]:
    """Cut *rows* where *most_bytes*, those of one statement, are reached; nearly every batch is one part."""
    part: list[Keyed[Row]] = []
    part_bytes = 0
    for keyed in rows:
        if part and part_bytes + keyed.size_bytes > most_bytes:
            yield part
            part, part_bytes = [], 0
        part.append(keyed)
        part_bytes += keyed.size_bytes
    if part:
        yield part


def halves(rows: list[Keyed[Row]]) -> list[list[Keyed[Row]]]:
    """Return *rows* in two lists, the second one first: as a stack takes them."""
    half = len(rows) // 2
    return [rows[half:], rows[:half]]


def place_of(secret: SecretStr) -> str:
    """Return host and database of a DSN, which may be printed; never user, password or parameters."""
    dsn = secret.get_secret_value()
    try:
        url = urlsplit(dsn)
    except ValueError:
        return "(DSN not readable)"
    # Why the second look: an unescaped "#" or "/" in the password makes its first half look like the host.
    if "@" in dsn and "@" not in url.netloc:
        return "(DSN not readable)"
    return f"{url.netloc.rpartition('@')[2]}{url.path}"
