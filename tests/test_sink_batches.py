"""How a batch is cut: each event once, in the order of keys, in statements of bounded size."""

import pytest
from pydantic import SecretStr

from gateway.sinks.batches import Keyed, halves, parts, place_of, sorted_by_key
from gateway.sinks.rows import shape
from tests.sink_events import exit_event


def sizes(*size_bytes: int) -> list[Keyed[int]]:
    return [Keyed(at, [at], size) for at, size in enumerate(size_bytes)]


def test_each_event_goes_once_and_in_the_order_of_keys() -> None:
    """Two workers that insert overlapping batches take the keys in one order, not in a circle."""
    rows, _ = shape([exit_event(event_id) for event_id in ("b", "a", "c", "a")])
    keyed = sorted_by_key(rows)

    assert [(one.row.id, one.indexes) for one in keyed] == [("a", [1, 3]), ("b", [0]), ("c", [2])]


@pytest.mark.parametrize(
    ("rows", "cut"),
    [
        (sizes(), []),
        (sizes(5, 5), [[5, 5]]),
        (sizes(5, 6), [[5], [6]]),
        (sizes(99, 1), [[99], [1]]),
        (sizes(1, 99, 1), [[1], [99], [1]]),
    ],
)
def test_a_part_has_at_most_so_many_bytes_or_one_event(rows: list[Keyed[int]], cut: list[list[int]]) -> None:
    """Bounded, in order, and nothing is left out."""
    assert [[one.size_bytes for one in part] for part in parts(rows, 10)] == cut


def test_exits_count_as_bytes() -> None:
    """An event that names thousands of members is larger than its text."""
    rows, _ = shape([exit_event("1", members=["a"] * 1000)])

    assert sorted_by_key(rows)[0].size_bytes > 250_000


def test_halves_leave_nothing_out() -> None:
    """The stack they go to gives the first half first."""
    assert [[one.row for one in half] for half in halves(sizes(1, 1, 1))] == [[1, 2], [0]]


@pytest.mark.parametrize(
    ("dsn", "place"),
    [
        ("postgresql://u:pw@h:1/d?sslmode=require", "h:1/d"),
        ("mysql://u:p@w@h/d", "h/d"),
        ("mysql://u:p/w@h/d", "(DSN not readable)"),
        ("mysql://u:p#w@h/d", "(DSN not readable)"),
        ("mysql://u:pw@[::1/d", "(DSN not readable)"),
        ("mysql://u:pw@[::1]:3306/d", "[::1]:3306/d"),
    ],
)
def test_the_place_of_a_dsn_has_no_secret(dsn: str, place: str) -> None:
    """It stands in errors and logs."""
    assert place_of(SecretStr(dsn)) == place
