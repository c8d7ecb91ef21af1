"""Draws callbacks a second and processor time a callback as bars, by matplotlib in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import venv
from pathlib import Path
from statistics import median

from tests.bench.ingress import Results

MATPLOTLIB = "matplotlib==3.10.7"
_SCRIPT = """
import json, sys
import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot
names, rates, costs = json.loads(sys.argv[1])
figure, sides = pyplot.subplots(1, 2, figsize=(10, 0.5 * len(names) + 1.2), sharey=True)
for side, values, title in zip(sides, (rates, costs), ("callbacks a second", "processor time a callback, us")):
    colours = ["#2a78d6" if name.startswith("gateway") else "#9aa3ad" for name in names]
    bars = side.barh(names, values, color=colours, height=0.6)
    side.bar_label(bars, fmt="{:,.0f}", padding=3)
    side.set_title(title, fontsize=10)
    side.margins(x=0.15)
    for edge in ("top", "right", "bottom"):
        side.spines[edge].set_visible(False)
    side.set_xticks([])
sides[0].invert_yaxis()
figure.tight_layout()
figure.savefig(sys.argv[2], dpi=110)
"""


def draw(results: Results, folder: Path, target: Path) -> str:
    """Draw the medians of *results* into *target*; return what to tell the user."""
    home = folder / "chart"
    if not home.exists():
        venv.create(home, with_pip=True)
    done = subprocess.run([home / "bin/pip", "install", "--quiet", MATPLOTLIB], capture_output=True)
    if done.returncode:
        return "The chart is left out: pip could not install matplotlib"
    bars = {
        name: found for name, found in results.items() if not name.endswith(("half the rate", "overload"))
    }
    given = json.dumps(
        [
            list(bars),
            [median(one.per_s for one in found) for found in bars.values()],
            [median(one.cpu_us for one in found) for found in bars.values()],
        ]
    )
    subprocess.run([home / "bin/python", "-c", _SCRIPT, given, str(target)], check=True)
    return f"{target} drawn"
