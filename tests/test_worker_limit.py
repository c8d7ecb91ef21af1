"""The parking limit, by counts."""

import pytest

from gateway.worker.limit import ParkingLimit


def fail(limit: ParkingLimit, count: int) -> None:
    for _ in range(count):
        limit.failed()


def test_so_many_in_a_row_reach_it() -> None:
    """A success between them begins the row anew."""
    limit = ParkingLimit(5, 1)
    fail(limit, 4)
    limit.wrote(1)
    fail(limit, 4)
    assert not limit.is_reached
    fail(limit, 1)

    assert limit.is_reached
    assert not limit.may_fail


def test_too_large_a_part_of_the_last_ones_reaches_it() -> None:
    """Also when no row is long."""
    limit = ParkingLimit(0, 0.5)
    for _ in range(1000):
        limit.wrote(3)
        fail(limit, 2)
    assert not limit.is_reached
    for _ in range(1000):
        limit.wrote(2)
        fail(limit, 3)

    assert limit.is_reached


def test_few_events_reach_no_part() -> None:
    """Two of the first three are no bad release."""
    limit = ParkingLimit(0, 0.5)
    limit.wrote(1)
    fail(limit, 100)
    assert not limit.is_reached
    fail(limit, 1)

    assert limit.is_reached


def test_what_failed_long_ago_fades() -> None:
    """A large batch that was written leaves little of it."""
    limit = ParkingLimit(0, 0.5)
    fail(limit, 100)
    limit.wrote(10_000)
    fail(limit, 90)

    assert not limit.is_reached


@pytest.mark.parametrize("count", [1, 10_000])
def test_both_can_be_switched_off(count: int) -> None:
    """Whoever wants that parks everything."""
    limit = ParkingLimit(0, 1)
    fail(limit, count)

    assert limit.may_fail


def test_one_may_fail_at_a_trial() -> None:
    """And no more; what is written meanwhile by others ends nothing, only a reset does."""
    limit = ParkingLimit(2, 1)
    fail(limit, 2)
    limit.wrote(10)
    assert not limit.may_fail
    limit.try_one()
    assert limit.may_fail
    limit.failed()
    assert not limit.may_fail
    limit.reset()
    assert limit.may_fail
    fail(limit, 1)

    assert not limit.is_reached
