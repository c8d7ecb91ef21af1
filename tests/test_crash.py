"""The short form of `make crash`: real processes under load, one fault after the other, everything counted."""

import pytest

from tests.crash.fault import all_faults
from tests.crash.runner import run_fault
from tests.crash.scene import SETTLE_S


@pytest.mark.timeout(SETTLE_S + 240)
@pytest.mark.parametrize(
    "fault", [pytest.param(one, id=one.name.replace(" ", "-")) for one in all_faults() if one.short]
)
def test_nothing_is_lost(fault, rabbitmq, postgres):
    """What was acknowledged is in PostgreSQL, once, whatever breaks meanwhile; a control shows that a loss is seen."""
    row = run_fault(fault, fault.short, rabbitmq, postgres)

    if fault.must_lose:
        assert row.lost > 0
        return
    assert row.faults == []
    assert (row.lost, row.duplicated) == (0, 0)
    assert row.arrived > 0
