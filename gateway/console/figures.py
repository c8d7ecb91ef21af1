"""What the overview is made of: counts and gauges of one process, from the metrics registry, as JSON.

Counts only grow, so those of several processes add up; whoever wants a rate takes two of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import Metric

Figures = dict[str, Any]
_Samples = dict[str, list[tuple[Mapping[str, str], float]]]
_PREFIX = "gateway_"
_JOURNAL = {
    "head": "journal_head_position",
    "cursor": "journal_cursor_position",
    "waiting": "journal_waiting_records",
    "waiting_bytes": "journal_waiting_bytes",
    "capacity_bytes": "journal_capacity_bytes",
    "bytes": "journal_bytes",
    "oldest_s": "journal_oldest_waiting_seconds",
    "lost": "journal_lost_records_total",
    "is_full": "journal_full",
}
_SINK = {
    "written": "sink_written_total",
    "retried": "sink_retried_total",
    "waiting": "sink_waiting_events",
    "retrying": "sink_retrying_events",
    "dead": "sink_dead_events",
    "unacked": "sink_unacked_events",
    "oldest_s": "sink_oldest_unacked_seconds",
    "is_available": "sink_available",
    "is_stopped": "sink_stopped",
    "refuses": "sink_refuses",
}


def figures(families: Iterable[Metric], at_s: float) -> Figures:
    """Return what *families* say at *at_s* (Unix). What this process does not do is absent or zero."""
    found: _Samples = defaultdict(list)
    for family in families:
        for sample in family.samples:
            found[sample.name.removeprefix(_PREFIX)].append((sample.labels, sample.value))
    return {
        "at_s": at_s,
        "apps": _apps(found),
        "requests": {
            "answered": _sum(found, "requests_answered_total"),
            "probes": _sum(found, "requests_probes_total"),
            "stored": _sum(found, "callbacks_stored_total"),
            "late": _sum(found, "answers_late_total"),
            "refused": {k: v for k, v in _by(found, "requests_refused_total", "reason").items() if v},
            "inflight": _sum(found, "requests_inflight"),
            "connections": _sum(found, "connections_open"),
        },
        "answers": {
            # Why counts a bucket: quantiles do not add up over processes, these do.
            "buckets": _by(found, "answer_seconds_bucket", "le"),
            "count": _sum(found, "answer_seconds_count"),
        },
        "journal": {name: _sum(found, metric) for name, metric in _JOURNAL.items()},
        "broker": {
            "connected": _by(found, "broker_connected", "role"),
            "is_blocked": _sum(found, "broker_blocked"),
            "published": _sum(found, "events_published_total"),
            "unconfirmed": _sum(found, "publish_unconfirmed"),
            "failures": _by(found, "publish_failures_total", "reason"),
            "unrouted": _sum(found, "unrouted_events"),
        },
        "sinks": _sinks(found),
        "certificates": _by(found, "certificate_expiry_timestamp_seconds", "key"),
    }


def _apps(found: _Samples) -> dict[str, dict[str, float]]:
    last = _by(found, "last_callback_timestamp_seconds", "app")
    stored = _by(found, "callbacks_stored_total", "app")
    skew = _by(found, "clock_skew_seconds", "app")
    return {
        app: {"last_s": last.get(app, 0.0), "stored": stored.get(app, 0.0), "skew_s": skew.get(app, 0.0)}
        for app in {**last, **stored}
    }


def _sinks(found: _Samples) -> dict[str, dict[str, Any]]:
    sinks: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, metric in _SINK.items():
        for sink, value in _by(found, metric, "sink").items():
            sinks[sink][name] = value
    for labels, value in found.get("sink_parked_total", ()):
        parked = sinks[labels["sink"]].setdefault("parked", {})
        parked[labels["reason"]] = value
    for labels, value in found.get("sink_away_since_timestamp_seconds", ()):
        if value:
            sinks[labels["sink"]]["away"] = {"since_s": value, "reason": labels["reason"]}
    return dict(sinks)


def _sum(found: _Samples, name: str) -> float:
    return sum(value for _, value in found.get(name, ()))


def _by(found: _Samples, name: str, label: str) -> dict[str, float]:
    values: dict[str, float] = defaultdict(float)
    for labels, value in found.get(name, ()):
        values[labels[label]] += value
    return dict(values)
