"""The metrics of several processes as those of one: counters and histograms add up, gauges as each means."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_OF_PROCESS = "process_"
ADDED = frozenset({
    "process_virtual_memory_bytes", "process_resident_memory_bytes", "process_open_fds",
    "gateway_requests_inflight", "gateway_connections_open", "gateway_publish_unconfirmed",
    "gateway_broker_connected", "gateway_processes_up", "gateway_journal_head_position",
    "gateway_journal_cursor_position", "gateway_journal_waiting_records", "gateway_journal_bytes",
    "gateway_journal_waiting_bytes", "gateway_journal_capacity_bytes", "gateway_sink_unacked_events",
    "gateway_sink_blocked_events", "gateway_sink_partitions_active",
})  # fmt: skip
"""Gauges of what each process has for itself; head, cursor and waiting keep their relation."""
EXTREME = frozenset({
    "gateway_build_info", "gateway_clock_skew_seconds", "gateway_last_callback_timestamp_seconds",
    "gateway_journal_oldest_waiting_seconds", "gateway_journal_full", "gateway_broker_blocked",
    "gateway_unrouted_events", "gateway_sink_waiting_events", "gateway_sink_dead_events",
    "gateway_sink_retrying_events", "gateway_sink_refuses", "gateway_sink_oldest_unacked_seconds",
    "gateway_sink_stopped", "gateway_sink_away_since_timestamp_seconds",
})  # fmt: skip
"""Gauges of which the one farthest from 0 counts: they are of something that all share, or alarms."""
LEAST = frozenset({
    "process_start_time_seconds", "process_max_fds", "gateway_certificate_expiry_timestamp_seconds",
    "gateway_sink_available",
})  # fmt: skip
"""Gauges of which the least counts."""
_GROWING = ("counter", "histogram")
_STANDS_ON_DISK = "gateway_journal_"

Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Family:
    """One metric: its samples by name and labels."""

    text: str
    kind: str
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)


Page = dict[str, Family]
"""Families by name."""


def page_of(registry: CollectorRegistry) -> Page:
    """Return what *registry* holds now."""
    return {
        one.name: Family(
            one.documentation,
            one.type,
            {(sample.name, tuple(sample.labels.items())): float(sample.value) for sample in one.samples},
        )
        for one in registry.collect()
    }


def total(pages: Iterable[Page]) -> Page:
    """Return *pages* as one."""
    found: Page = {}
    for page in pages:
        for name, family in page.items():
            into = found.setdefault(name, Family(family.text, family.kind)).samples
            for key, value in family.samples.items():
                into[key] = _both(family.kind, name, key[0], into[key], value) if key in into else value
    return found


def growing(page: Page) -> Page:
    """Return what of *page* only ever grows: it stays when the process that counted it is gone."""
    return {name: family for name, family in page.items() if family.kind in _GROWING}


def on_disk(page: Page) -> Page:
    """Return the gauges of *page* that stay true while its process is gone: those of its journal."""
    return {
        name: family
        for name, family in page.items()
        if family.kind == "gauge" and name.startswith(_STANDS_ON_DISK)
    }


def together(own: CollectorRegistry, parts: Iterable[CollectorRegistry]) -> Page:
    """Return what *own* and *parts* of the same process hold; what is of the process counts once."""
    pages = [
        {name: family for name, family in page_of(part).items() if not name.startswith(_OF_PROCESS)}
        for part in parts
    ]
    return total([page_of(own), *pages])


def summed(page: Callable[[], Page]) -> CollectorRegistry:
    """Return a registry that shows what *page* returns."""
    registry = CollectorRegistry()
    registry.register(_Collector(page))
    return registry


def packed(page: Page) -> list[Any]:
    """Return *page* as plain lists, for JSON."""
    return [
        [name, one.text, one.kind, [[*key, value] for key, value in one.samples.items()]]
        for name, one in page.items()
    ]


def unpacked(lists: list[Any]) -> Page:
    """Return the page of which ``packed`` made *lists*."""
    return {
        name: Family(
            text,
            kind,
            {(sample, tuple((key, label) for key, label in labels)): value for sample, labels, value in rows},
        )
        for name, text, kind, rows in lists
    }


class _Collector(Collector):
    def __init__(self, page: Callable[[], Page]) -> None:
        self._page = page

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        for name, family in self._page().items():
            metric = Metric(name, family.text, family.kind)
            for (sample, labels), value in family.samples.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


def _both(kind: str, name: str, sample: str, one: float, other: float) -> float:
    if sample.endswith("_created") or name in LEAST:
        return min(one, other)
    if kind in _GROWING or name in ADDED:
        return one + other
    return max(one, other, key=abs)
