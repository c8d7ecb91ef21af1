"""Every metric, with its help text, in one registry that is passed in. Labels come from closed sets only."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway import __version__

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)


class Spread(Collector):
    """A histogram without labels that one thread fills, at a tenth of the usual cost."""

    _type = "histogram"
    _labelnames = ()

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name, self._documentation, self._bounds = name, text, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterable[Metric]:
        found = HistogramMetricFamily(self._name, self._documentation)
        bounds = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        found.add_metric([], list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)
        yield found

    def describe(self) -> Iterable[Metric]:
        yield HistogramMetricFamily(self._name, self._documentation)


class _First(Collector):
    """Stands in front of all others, and calls who has counted by itself."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def collect(self) -> Iterable[Metric]:
        for call in self.calls:
            call()
        return ()

    def describe(self) -> Iterable[Metric]:
        return ()


class Metrics:
    """The gateway's metrics. Attributes are named like the metrics, without ``gateway_`` and suffixes."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.shown = self.registry
        """What readers are shown: this, or one that adds up those of several parts or processes."""
        self._first = _First()
        self.registry.register(self._first)
        ProcessCollector(registry=self.registry)
        self.build_info = self._gauge("build_info", "1, with the release that runs.", ("version",))
        self.build_info.labels(__version__).set(1)
        self.processes_up = self._gauge("processes_up", "Processes that take callbacks.")
        self.process_restarts = self._counter(
            "process_restarts", "Processes that ended and were started again (listen.processes)."
        )
        self._requests()
        self._journal()
        self._publishing()
        self._sinks()

    def before_reading(self, call: Callable[[], None]) -> None:
        """Have *call* called before anybody reads: it brings up to date what is too dear to do each time."""
        self._first.calls.append(call)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"gateway_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"gateway_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(f"gateway_{name}", text, labels, registry=self.registry, buckets=_FAST)

    def _requests(self) -> None:
        # answered = refused (all reasons) + probes + stored; hang-ups got no answer.
        self.requests_answered = self._counter(
            "requests_answered", "Requests that got an answer: refused + probes + stored."
        )
        self.requests_refused = self._counter("requests_refused", "Requests refused, by reason.", ("reason",))
        self.requests_probes = self._counter("requests_probes", "Probes answered and not stored.")
        self.callbacks_stored = self._counter(
            "callbacks_stored", "Callbacks stored in the journal and answered, by app.", ("app",)
        )
        self.requests_hangups = self._counter(
            "requests_hangups",
            "Requests whose caller had ended its side before the answer, by whether the callback was stored.",
            ("stored",),
        )
        self.answers_late = self._counter(
            "answers_late", "Callbacks stored but answered 503: no confirm within listen.answer_deadline_ms."
        )
        self.answer_seconds = Spread(
            "gateway_answer_seconds", "Time from a request's headers to its answer.", _FAST
        )
        self.registry.register(self.answer_seconds)
        self.requests_inflight = self._gauge("requests_inflight", "Requests under way.")
        self.connections_open = self._gauge("connections_open", "Open connections of callers.")
        self.connections_evicted = self._counter(
            "connections_evicted", "Connections closed because of listen.max_connections."
        )
        self.connections_refused = self._counter(
            "connections_refused", "Connections closed because of listen.max_connections_per_peer."
        )
        self.handshakes_failed = self._counter(
            "tls_handshakes_failed",
            "Connections that ended before they spoke TLS.",
        )
        self.certificate_expiry = self._gauge(
            "certificate_expiry_timestamp_seconds",
            "Until when the certificate of this configuration key is valid (Unix time).",
            ("key",),
        )
        self.clock_skew = self._gauge(
            "clock_skew_seconds", "RequestTime of an app's last matching Sign, less this clock.", ("app",)
        )
        self.last_callback = self._gauge(
            "last_callback_timestamp_seconds",
            "When an app's last callback was stored (Unix time), 0 when none was.",
            ("app",),
        )

    def _journal(self) -> None:
        self.journal_head = self._gauge("journal_head_position", "Position of the last callback stored.")
        self.journal_cursor = self._gauge(
            "journal_cursor_position", "Position up to which the broker has confirmed."
        )
        self.journal_waiting = self._gauge(
            "journal_waiting_records", "Callbacks stored and not confirmed yet: head - cursor - holes."
        )
        self.journal_oldest = self._gauge(
            "journal_oldest_waiting_seconds", "Age of the oldest callback that waits, 0 when none does."
        )
        self.journal_lost = self._counter(
            "journal_lost_records", "Callbacks lost to damage on the disk (holes in the positions)."
        )
        self.journal_bytes = self._gauge("journal_bytes", "Size of the segment files, confirmed ones too.")
        self.journal_waiting_bytes = self._gauge(
            "journal_waiting_bytes",
            "Bytes of the callbacks that wait for the broker.",
        )
        self.journal_capacity = self._gauge(
            "journal_capacity_bytes",
            "Bytes that may wait before callbacks are refused: journal.max_mb, or what the disk has.",
        )
        self.journal_full = self._gauge("journal_full", "1 while the journal refuses callbacks.")
        self.commit_seconds = self._histogram(
            "journal_commit_seconds", "Time of one group commit: write and fdatasync."
        )
        self.commit_records = Histogram(
            "gateway_journal_commit_records",
            "Callbacks in one group commit.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
        )

    def _publishing(self) -> None:
        self.events_published = self._counter("events_published", "Events confirmed by the broker.")
        self.publish_failures = self._counter(
            "publish_failures", "Publishing attempts that failed, by reason.", ("reason",)
        )
        self.publish_order_breaks = self._counter(
            "publish_order_breaks",
            "Times that events were refused with others after them: some queues may have those first.",
        )
        self.publish_seconds = self._histogram("publish_seconds", "Time from writing a batch to its confirm.")
        self.publish_unconfirmed = self._gauge("publish_unconfirmed", "Events sent and not confirmed yet.")
        self.broker_connected = self._gauge(
            "broker_connected", "1 while the connection stands, by role.", ("role",)
        )
        self.broker_blocked = self._gauge("broker_blocked", "1 while the broker refuses to read publishes.")
        self.topology_deleted = self._counter(
            "topology_deleted", "Exchanges, queues and bindings of ours that somebody deleted.", ("kind",)
        )
        # Why now: increase() does not see the first one of a series that begins with it.
        for kind in ("exchange", "queue", "binding"):
            self.topology_deleted.labels(kind)
        self.unrouted_events = self._gauge("unrouted_events", "Events that no sink takes, in im.unrouted.")

    def _sinks(self) -> None:
        self.sink_written = self._counter("sink_written", "Events written, by sink.", ("sink",))
        self.sink_parked = self._counter(
            "sink_parked", "Events parked, by sink and reason.", ("sink", "reason")
        )
        self.sink_retried = self._counter(
            "sink_retried", "Events handed back for a delayed retry.", ("sink", "reason")
        )
        self.sink_skipped = self._counter(
            "sink_skipped", "Events that none of the sink's patterns matches, acknowledged.", ("sink",)
        )
        self.sink_waiting = self._gauge(
            "sink_waiting_events", "Events in the sink's queue, ready.", ("sink",)
        )
        self.sink_dead = self._gauge("sink_dead_events", "Events parked in the sink's dead queue.", ("sink",))
        self.sink_retrying = self._gauge(
            "sink_retrying_events", "Events that wait for a delayed retry.", ("sink",)
        )
        self.sink_unacked = self._gauge(
            "sink_unacked_events", "Events this worker took and has not settled.", ("sink",)
        )
        self.sink_blocked = self._gauge(
            "sink_blocked_events",
            "Events of those that wait for an earlier one of their conversation, or fail (order: strict).",
            ("sink",),
        )
        self.sink_partitions = self._gauge(
            "sink_partitions_active",
            "Partitions of the sink that have given events to this worker (RabbitMQ only).",
            ("sink",),
        )
        self.sink_refuses = self._gauge(
            "sink_refuses",
            "1 while the sink's queue takes no events from us, which holds up all sinks (RabbitMQ only).",
            ("sink",),
        )
        self.sink_oldest = self._gauge(
            "sink_oldest_unacked_seconds",
            "How long ago this worker took the oldest event that it has not settled, 0 when none.",
            ("sink",),
        )
        self.sink_available = self._gauge("sink_available", "1 while the sink takes events.", ("sink",))
        self.sink_away_since = self._gauge(
            "sink_away_since_timestamp_seconds",
            "Since when the sink takes nothing (Unix time), and why; absent while it takes events.",
            ("sink", "reason"),
        )
        self.sink_stopped = self._gauge(
            "sink_stopped", "1 when the sink is tried again only after a restart of the worker.", ("sink",)
        )
        self.sink_write_seconds = self._histogram("sink_write_seconds", "Time of one batch write.", ("sink",))
