"""Finding the refused one: small batches, three strikes, and what tells nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.caution import STRIKES, Caution


@given(st.integers(1, 500), st.integers(1, 300), st.integers(1, 256))
def test_a_refused_position_strikes_out_and_nobody_else(bad, stored, usual):
    """Against a broker that refuses whatever holds *bad*: found after a bounded number of tries."""
    caution = Caution()
    cursor, tries, struck = 0, 0, []
    while cursor < stored:
        tries += 1
        size = caution.batch_size(cursor, usual)
        batch = range(cursor + 1, min(cursor + size, stored) + 1)
        if bad in batch and not caution.has_struck_out(bad):
            if caution.note("rejected", batch[0], batch[-1], usual):
                struck.append(batch[0])
            continue
        cursor = batch[-1]

    assert struck == ([bad] if bad <= stored else [])
    assert tries <= stored + 8


@pytest.mark.parametrize("reason", ["nacked", "returned", "deadline"])
def test_a_nack_makes_the_next_batch_a_single_event(reason):
    """One copy a probe, and nobody strikes out for it."""
    caution = Caution()
    for _ in range(2 * STRIKES):
        assert not caution.note(reason, 1, 50, 100)
        assert caution.batch_size(0, 100) == 1
    assert not caution.has_struck_out(1)
    assert caution.batch_size(50, 100) == 100


def test_a_lost_connection_tells_nothing_about_what_was_sent():
    """Batches stay as large as they are."""
    caution = Caution()

    assert not caution.note("closed", 1, 50, 100)
    assert caution.batch_size(0, 100) == 100


def test_strikes_are_of_one_position_in_a_row():
    """Another one that is refused alone starts from one."""
    caution = Caution(until=9, size=1, suspect=4, strikes=2)

    assert not caution.note("rejected", 5, 9, 100)
    assert caution.strikes == 1
    assert not caution.has_struck_out(4)
