"""docs/operations.md against the code: every warning and error that the gateway can log has its row."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = ("warning", "error", "critical")
PLACEHOLDER = re.compile(r"%[-.0-9]*[a-z]")
# Messages that consist of what another part says; those sentences stand where they are made.
PASSED_ON = {"%s", "%s: %s"}


def messages() -> list[tuple[str, str]]:
    """Return place and text of everything that is logged as a warning or worse, placeholders as they are."""
    found = []
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            logger = node.func.value
            if not (
                isinstance(logger, ast.Name) and logger.id in ("log", "_log") and node.func.attr in LEVELS
            ):
                continue
            text = node.args[0]
            said = text.value if isinstance(text, ast.Constant) else ast.unparse(text)
            found.append((f"{path.relative_to(ROOT)}:{node.lineno}", str(said)))
    return found


def snippets() -> list[list[str]]:
    """Return the parts, between each …, of everything that the page quotes from the log."""
    rows = [line for line in (ROOT / "docs/operations.md").read_text().splitlines() if line.startswith("| `")]
    quoted = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    return [[part.strip() for part in quote.split("…") if part.strip()] for quote in quoted]


def is_named(message: str, parts: list[str]) -> bool:
    at = 0
    for part in parts:
        at = message.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return sum(map(len, parts)) >= 12


@pytest.mark.parametrize(("place", "message"), messages())
def test_every_warning_and_error_is_explained(place: str, message: str) -> None:
    """An operator who searches the page for a line of the log finds what it means and what to do."""
    if message in PASSED_ON:
        return

    assert any(is_named(PLACEHOLDER.sub("…", message), parts) for parts in snippets()), f"{place}: {message}"
