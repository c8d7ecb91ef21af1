"""When an event that failed comes again, and what its header says of that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.retries import HISTORY_ENTRIES, lengthened, retry_delay_ms
from gateway.topology import RETRY_DELAYS_S


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_the_delay_is_its_rung_by_a_fifth_more_or_less(attempt: int, chance: float) -> None:
    """The rung follows from the attempt; the last one stands for all further ones."""
    rung_ms = RETRY_DELAYS_S[min(attempt, len(RETRY_DELAYS_S)) - 1] * 1000

    assert 0.8 * rung_ms <= retry_delay_ms(attempt, chance) <= 1.2 * rung_ms


@pytest.mark.parametrize(("chance", "delay_ms"), [(0.0, 24_000), (0.5, 30_000), (0.75, 33_000)])
def test_chance_spreads_what_failed_together(chance: float, delay_ms: int) -> None:
    """Otherwise it would come back together, again and again."""
    assert retry_delay_ms(2, chance) == delay_ms


@given(st.lists(st.integers(0, 2_000_000_000_000), max_size=40))
def test_the_history_has_the_last_failures_in_order(times_ms: list[int]) -> None:
    """Bounded, the oldest forgotten first."""
    history = ""
    for number, at_ms in enumerate(times_ms):
        history = lengthened(history, at_ms, "crm", f"reason_{number}")
    entries = history.split("; ") if history else []
    expected = range(max(0, len(times_ms) - HISTORY_ENTRIES), len(times_ms))

    assert [entry.split(" ")[1:] for entry in entries] == [["crm", f"reason_{number}"] for number in expected]


def test_an_entry_says_when_where_and_why() -> None:
    """As it stands in the header."""
    assert lengthened("", 1_670_574_414_123, "crm", "busy") == "2022-12-09T08:26:54.123Z crm busy"
