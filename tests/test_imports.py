"""The structure: which module may import which, and how long a module may get."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "gateway"
# Lower tiers first; a module imports only from tiers below, or from its own where that is said.
TIERS = {
    "words": {"errors", "config"},
    "pure": {
        "callback", "event", "catalogue", "normalise", "names", "signature", "answer", "record", "topology",
        "backoff", "retries", "caution", "exits", "replies", "limits", "networks", "trace", "query", "rules",
        "waiting", "veil", "roles", "about", "content", "fields", "ids", "messages", "paths", "patterns", "places", "redact", "samples", "schema",
    },
    "observe": {"metrics", "logs", "clock", "notes", "outcome", "settled", "heavy", "precedence", "outage", "recent", "sums"},
    "edges": {"journal", "broker", "sinks", "server", "admin", "notify", "ports", "tally", "tls", "tokens", "spans"},
    "stages": {"receiver", "forwarder", "worker", "sampler", "simulator", "replay", "dead", "console"},
    "wiring": {"traced", "tracing", "adoption", "ending", "processes", "build", "destinations", "banner", "leavers", "portfiles", "adminport", "reload", "allocator", "run", "cli", "__main__"},
}  # fmt: skip
ORDER = list(TIERS)
MAY_IMPORT_OWN_TIER = {"words", "pure", "wiring"}
NO_IO = {"asyncio", "socket", "aiohttp", "aio_pika", "aiormq", "sqlite3", "asyncpg", "time", "random", "os"}
LONG_TABLES = {"chat.py", "groups.py", "products.py"}

FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """Return the name of the tier table that the file belongs to."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports_of(path: Path) -> list[tuple[str, str]]:
    """Return (module, name) of every import in the file, wherever it stands in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def ours(path: Path) -> set[tuple[str, str]]:
    """Return (part, full module) of the imports of our own package."""
    found = set()
    for module, name in imports_of(path):
        if module == "gateway" and (PACKAGE / name).with_suffix(".py").exists() | (PACKAGE / name).is_dir():
            found.add((name, f"gateway.{name}"))
        elif module.startswith("gateway."):
            found.add((module.split(".")[1], module))
    return found


def tier_of(part: str) -> str:
    return next(tier for tier, parts in TIERS.items() if part in parts)


def test_every_module_has_a_tier():
    """A new module has to be placed before it is used."""
    parts = {part_of(path) for path in FILES} - {"__init__"}

    assert parts == set().union(*TIERS.values())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path):
    """Each arrow points to a lower tier, so a callback's way can be read from top to bottom."""
    part = part_of(path)
    if part == "__init__":
        return
    tier = tier_of(part)
    for other, module in ours(path):
        if other == part:
            continue
        if tier == tier_of(other):
            assert tier in MAY_IMPORT_OWN_TIER, f"{path.name} imports {module} of its own tier"
        else:
            assert ORDER.index(tier_of(other)) < ORDER.index(tier), f"{path.name} imports {module} above it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_stages_know_no_concrete_broker_or_sink(path):
    """Stages speak to protocols, so that a broker or sink can be added without touching them."""
    if part_of(path) not in TIERS["stages"]:
        return

    modules = {module for _, module in ours(path)}

    assert not {one for one in modules if one.startswith(("gateway.broker.", "gateway.sinks."))}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_environment_is_read_in_one_place(path):
    """Only the configuration reads the environment and YAML; printing YAML is the check command's."""
    text = path.read_text()
    if part_of(path) == "config":
        return

    assert "os.environ" not in text
    assert "getenv" not in text
    assert "yaml.load" not in text
    assert "safe_load" not in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pure_modules_do_no_io(path):
    """No I/O, no clock, no asyncio, no randomness in what decides and translates."""
    if part_of(path) not in TIERS["pure"]:
        return

    assert not {module.split(".")[0] for module, _ in imports_of(path)} & NO_IO


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_short(path):
    """More than 250 lines are two ideas, tables aside."""
    if path.name in LONG_TABLES:
        return

    assert path.read_text().count("\n") <= 250
