"""The generated part of ``docs/metrics.md``: each metric with its type, labels and help text. Pure."""

from __future__ import annotations

from prometheus_client.metrics import MetricWrapperBase

from gateway.metrics import Metrics, Spread

MARKER = "<!-- From here on: gateway schema --metrics -->"


def metric_table() -> str:
    """Return a table with one row a metric, in the order of their declaration."""
    lines = ["## All metrics", "", "| metric | type | labels | what |", "|---|---|---|---|"]
    lines += [
        _row(metric) for metric in vars(Metrics()).values() if isinstance(metric, (MetricWrapperBase, Spread))
    ]
    return "\n".join(lines) + "\n"


def _row(metric: MetricWrapperBase | Spread) -> str:
    # Why private: the library has no other way to the names of labels that no sample shows yet.
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)
    name = metric._name + ("_total" if metric._type == "counter" else "")
    return f"| `{name}` | {metric._type} | {labels} | {metric._documentation.replace('|', chr(92) + '|')} |"
