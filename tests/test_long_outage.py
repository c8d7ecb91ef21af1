"""The short form of `python -m tests.crash.long_outage`: what must hold whatever the machine; nothing is timed."""

import pytest

from tests.crash.long_outage import LongOutage


@pytest.mark.timeout(600)
def test_twenty_thousand_wait_and_all_arrive_in_order(rabbitmq, tmp_path):
    """Through an outage, three kills and a lost cursor file; memory does not grow with what waits."""
    outage = LongOutage(rabbitmq, tmp_path / "gateway", 20_000)
    try:
        found = outage.run()
    finally:
        outage.close()

    assert found.faults == []
    assert found.backlog == 20_000
    assert found.arrived == found.stored >= found.acknowledged
    assert found.rss_after_mb < found.rss_before_mb + 50
    assert set(found.starts_s) == {
        "cursor file as it was", "cursor file missing", "cursor file damaged", "cursor file stale"
    }  # fmt: skip
