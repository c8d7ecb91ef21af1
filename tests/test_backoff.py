"""The delays between tries."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backoff import Backoff


def always(value: float) -> Callable[[], float]:
    return lambda: value


def test_doubles_up_to_the_most() -> None:
    """Each step is twice the one before, until it is as long as it may be."""
    backoff = Backoff(0.5, 15, always(1.0))

    assert [backoff.next_s() for _ in range(7)] == [0.5, 1, 2, 4, 8, 15, 15]


def test_jitter_takes_at_most_half() -> None:
    """The randomness draws from the upper half, so nobody tries again at once."""
    backoff = Backoff(1, 15, always(0.0))

    assert [backoff.next_s() for _ in range(5)] == [0.5, 1, 2, 4, 7.5]


def test_reset_starts_again() -> None:
    """After a success the next failure waits the shortest delay."""
    backoff = Backoff(0.5, 15, always(1.0))
    for _ in range(5):
        backoff.next_s()
    backoff.reset()

    assert backoff.next_s() == 0.5


def test_first_longer_than_most() -> None:
    """The upper bound holds for the first delay, too."""
    assert Backoff(10, 2, always(1.0)).next_s() == 2


@given(
    st.floats(0.001, 100),
    st.floats(0.001, 1000),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=60),
)
def test_stays_within_its_bounds(first_s: float, most_s: float, draws: list[float]) -> None:
    """No delay is longer than the most, nor shorter than half the first step."""
    source = iter(draws)
    backoff = Backoff(first_s, most_s, lambda: next(source))
    for _ in draws:
        assert min(first_s, most_s) / 2 <= backoff.next_s() <= most_s


def test_outages_of_years_do_not_overflow() -> None:
    """The exponent is bounded, so that the thousandth try is as good as the tenth."""
    backoff = Backoff(0.5, 15, always(1.0))

    assert [backoff.next_s() for _ in range(3000)][-1] == pytest.approx(15)
