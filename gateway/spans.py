"""Spans to an OpenTelemetry collector, by OTLP over HTTP on a thread; the only user of that SDK."""

from __future__ import annotations

import atexit
import logging
import secrets
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway import __version__
from gateway.config import Tracing
from gateway.trace import Trace

_log = logging.getLogger(__name__)
_TIMEOUT_S = 3.0
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
KINDS = {"receive": SpanKind.SERVER, "publish": SpanKind.PRODUCER, "write": SpanKind.CONSUMER}


class Spans:
    """Bound: 2048 spans wait for the collector; what comes while it is away is dropped."""

    def __init__(self, config: Tracing) -> None:
        self.ratio = config.sample_ratio
        self._resource = Resource.create(
            {"service.name": config.service_name, "service.version": __version__}
        )
        exporter = OTLPSpanExporter(
            endpoint=config.otlp_url,
            certificate_file=str(config.tls_ca) if config.tls_ca else None,
            headers={name: value.get_secret_value() for name, value in config.headers.items()},
            timeout=_TIMEOUT_S,
        )
        # Why silent: it logs each failure, with texts of the other side; ``_Told`` says it once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        self._processor = BatchSpanProcessor(
            _Told(exporter), schedule_delay_millis=1000, export_timeout_millis=_TIMEOUT_S * 1000
        )
        atexit.register(self.close)

    def note(
        self,
        name: str,
        trace: Trace,
        times_ns: tuple[int, int],
        about: Mapping[str, str | int],
        fault: str = "",
    ) -> None:
        """Take a span of *trace*, which lasted from and to *times_ns* (Unix); the others belong to "receive".

        *about* are attributes; *fault* says what went wrong, a fixed token.
        """
        if not trace.is_sampled:
            return
        root = SpanContext(trace.trace_id, trace.span_id, is_remote=name != "receive", trace_flags=_SAMPLED)
        own = SpanContext(trace.trace_id, secrets.randbits(64) or 1, is_remote=False, trace_flags=_SAMPLED)
        is_root = name == "receive"
        self._processor.on_end(
            ReadableSpan(
                name,
                context=root if is_root else own,
                parent=None if is_root else root,
                resource=self._resource,
                attributes=about,
                kind=KINDS.get(name, SpanKind.INTERNAL),
                status=Status(StatusCode.ERROR, fault) if fault else Status(),
                start_time=times_ns[0],
                end_time=times_ns[1],
            )
        )

    def close(self) -> None:
        """Send what waits, for some seconds at most."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


class _Told(SpanExporter):
    """Sends by *exporter*, and says when that fails, and when it works again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._is_away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        is_away = result is not SpanExportResult.SUCCESS
        if is_away and not self._is_away:
            _log.warning("The collector at tracing.otlp_url takes no spans; they are dropped, events are not")
        elif self._is_away and not is_away:
            _log.info("The collector at tracing.otlp_url takes spans again")
        self._is_away = is_away
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
