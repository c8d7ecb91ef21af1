"""The option --record."""

import pytest

from tests.microbench import cost


def pytest_addoption(parser):
    parser.addoption("--record", action="store_true", help="write the figures down instead of comparing")


@pytest.fixture(scope="session")
def figures(request):
    """Gather what is measured; with --record it is written down in the end."""
    found = {}
    yield found
    if request.config.getoption("--record"):
        cost.record(found)
