"""What bounds one app."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refused
from gateway.limits import AppLimits, Backlog, Bucket


def test_a_bucket_lets_a_burst_and_then_the_rate_through():
    """One second's worth at once, then as many as time brings."""
    bucket = Bucket(10, 0.0)

    assert sum(bucket.take(0.0) for _ in range(50)) == 10
    assert sum(bucket.take(0.5) for _ in range(50)) == 5
    assert sum(bucket.take(100.0) for _ in range(50)) == 10


@given(st.lists(st.tuples(st.integers(0, 300_000), st.booleans()), max_size=80))
def test_a_backlog_is_never_below_the_truth(steps):
    """It counts what is stored and not confirmed, at most one merged step too much; at the head it is zero."""
    backlog, sizes, cursor = Backlog(), [], 0
    for size, is_stored in steps:
        if is_stored:
            sizes.append(size)
            backlog.add(len(sizes), size)
        else:
            cursor = min(len(sizes), cursor + 1)
            backlog.confirm(cursor)
        truth = sum(sizes[cursor:])
        assert truth <= backlog.waiting_bytes <= truth + 256 * 1024

    backlog.confirm(len(sizes))
    assert backlog.waiting_bytes == 0


def test_an_app_over_its_bounds_is_refused_for_the_right_reason():
    """Rate and backlog each; confirming makes room again."""
    limits = AppLimits(max_per_s=1, max_backlog_mb=1, now_s=0.0)
    limits.check(0.0, 0)
    with pytest.raises(Refused) as rate:
        limits.check(0.0, 0)
    limits.stored(1, 2_000_000)
    with pytest.raises(Refused) as backlog:
        limits.check(10.0, 0)

    assert (rate.value.reason, backlog.value.reason) == ("app_rate", "app_backlog")
    limits.check(20.0, 1)
