import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def _quiet() -> Iterator[None]:
    """What is logged in thousands of lives would fill the memory, and tells nothing."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
