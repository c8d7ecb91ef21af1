"""docs/config.md says what the configuration takes."""

from pathlib import Path

import yaml

from gateway.cli.config_table import MARKER, config_table

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/config.md").read_text()


def test_the_page_is_fresh():
    """docs/config.md is generated below its marker."""
    _, found, generated = PAGE.partition(f"{MARKER}\n\n")

    assert found, "the marker is gone"
    assert generated == config_table(), "stale: write it again with `gateway schema --config`"


def test_every_key_of_the_example_is_there():
    """What config.yaml shows stands in the tables, each in that of its section."""
    sections = {part.partition("\n")[0]: part for part in config_table().split("## ")}
    example = yaml.safe_load((ROOT / "config.yaml").read_text())
    checked = 0
    for name, about in example.items():
        if name in sections:
            for key in about:
                assert f"| `{key}` |" in sections[name], f"{name}.{key}"
                checked += 1

    assert checked > 50


def test_a_key_has_its_bounds_and_default():
    """Bounds are written out whole, choices named, secrets of no default left empty."""
    table = config_table()

    assert "| `max_body_bytes` | integer ≥ 1024, ≤ 67108864 | `1048576` |" in table
    assert '| `ack_after` | `journaled`, `confirmed`, `written` | `"journaled"` |' in table
    assert "| `dsn` | string | |" in table
