"""The protocol's known pitfalls, numbered 1 to 25 in docs/protocol.md: each has a test that names it."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PROTOCOL = TESTS.parent / "docs/protocol.md"


def named():
    """Return the numbers that test names and sentences give."""
    found = set()
    for path in TESTS.glob("test_*.py"):
        if path.name == Path(__file__).name:
            continue
        for match in re.finditer(r"pitfalls?[ _](\d+(?:(?:_|, | and )\d+)*)", path.read_text(), re.I):
            found |= {int(number) for number in re.findall(r"\d+", match[1])}
    return found


@pytest.mark.parametrize("number", range(1, 26))
def test_each_pitfall_is_documented_and_has_a_test(number):
    """What the sender is known to do wrong or oddly is met on purpose, not by luck."""
    assert number in named()
    assert re.search(rf"^{number}\. ", PROTOCOL.read_text(), re.M)
