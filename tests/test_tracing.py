"""Traces: the same ids wherever they are made, and the spans of real processes at a collector."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.config import Config
from gateway.event import Event
from gateway.trace import Trace, trace_in, trace_of, with_trace
from tests.gateway_process import eventually, gateways
from tests.sink_events import exit_event

TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]")


@given(st.integers(min_value=1), st.floats(min_value=0, max_value=1))
def test_a_trace_is_the_same_wherever_it_is_made(position, ratio):
    """Receiver, forwarder and worker agree without asking each other; it is valid W3C."""
    place = f"a1b2.{position}"
    text = str(trace_of(place, ratio))

    assert TRACEPARENT.fullmatch(text)
    assert trace_in(Event(b"", {"traceparent": text})) == trace_of(place, ratio) == trace_of(place, ratio)


def test_the_ratio_decides_how_many_are_sampled():
    """None, all, or about as many; the same ones at a higher ratio."""
    few = [trace_of(f"a.{at}", 0.25).is_sampled for at in range(2000)]
    most = [trace_of(f"a.{at}", 0.75).is_sampled for at in range(2000)]

    assert not any(trace_of(f"a.{at}", 0.0).is_sampled for at in range(100))
    assert all(trace_of(f"a.{at}", 1.0).is_sampled for at in range(100))
    assert 400 < sum(few) < 600
    assert all(more for less, more in zip(few, most, strict=True) if less)


def test_an_event_gets_its_trace_and_nothing_else():
    """In body and attributes; all events of one callback have one."""
    plain = exit_event("a1")
    first = with_trace(Event(plain.body, {**plain.attributes, "position": "j.7.0"}), 1.0)
    second = with_trace(Event(plain.body + b"\n", {**plain.attributes, "position": "j.7.1"}), 1.0)

    told = json.loads(first.body)
    assert told.pop("traceparent") == str(trace_of("j.7", 1.0)) == first.attributes["traceparent"]
    assert told == json.loads(plain.body)
    assert json.loads(second.body)["traceparent"] == first.attributes["traceparent"]


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "00-a-b-01",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        f"00-{'x' * 32}-{'1' * 16}-01",
    ],
)
def test_what_is_no_trace_is_none(text):
    """Whoever put it there: the event is written all the same."""
    assert trace_in(Event(b"", {"traceparent": text})) is None


def test_a_collector_with_a_password_in_its_url_is_refused():
    """It would stand in logs of the SDK."""
    with pytest.raises(ValueError, match="without user and password"):
        Config.model_validate({"tracing": {"otlp_url": "http://user:secret@x/v1/traces"}})


class Collector:
    """Takes spans as OpenTelemetry's does."""

    def __init__(self):
        self.spans = []
        self.headers = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.status == 200:
                    outer.headers.append(self.headers)
                    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                        outer.spans += [one for scope in resource.scope_spans for one in scope.spans]
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *words):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def named(self, name):
        return [one for one in list(self.spans) if one.name == name]

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector():
    found = Collector()
    yield found
    found.close()


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a Gateway in its own folder."""
    with gateways(tmp_path) as build:
        yield build


def about(span):
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


@pytest.mark.parametrize("way", ["embedded", "apart", "several"])
def test_a_callback_is_one_trace_from_request_to_sink(make, collector, amqp_url, way):
    """Receive, journal, publish and a write a sink: in one process, in two, and where several receive."""
    url = "embedded:var/broker.db" if way == "embedded" else amqp_url
    headers = {"Authorization": "Bearer the-token-of-the-collector"}
    gateway = make(
        broker={"url": url},
        tracing={"otlp_url": collector.url, "headers": headers},
        listen={"processes": 2 if way == "several" else 1},
    )
    for command in ("serve", "work") if way == "apart" else ("run",):
        gateway.start(command)
    assert gateway.sender().post(1)
    # Each process sends its own, in its own time.
    eventually(lambda: len(collector.spans) == 5, "all spans of one callback in two sinks")
    [event] = gateway.lines()

    [root], [journal], [publish] = map(collector.named, ("receive", "journal", "publish"))
    assert {about(one)["im.sink"] for one in collector.named("write")} == {"audit", "exits"}
    assert {one.trace_id for one in collector.spans} == {root.trace_id}
    children = [journal, publish, *collector.named("write")]
    assert {one.parent_span_id for one in children} == {root.span_id}
    assert not root.parent_span_id
    assert len({one.span_id for one in collector.spans}) == 5
    assert event["traceparent"] == f"00-{root.trace_id.hex()}-{root.span_id.hex()}-01"
    assert root.start_time_unix_nano <= journal.start_time_unix_nano <= journal.end_time_unix_nano
    assert journal.end_time_unix_nano <= root.end_time_unix_nano
    assert about(publish) == {
        "im.app": "1400000000",
        "im.event.id": event["id"],
        "im.event.type": event["type"],
    }
    assert collector.headers[0]["Authorization"] == headers["Authorization"]
    assert {key for one in collector.spans for key in about(one)} == {
        "im.app", "im.position", "im.sink", "im.event.id", "im.event.type", "http.response.status_code",
    }  # fmt: skip


async def test_a_message_carries_the_trace_in_its_headers(make, collector, amqp_url):
    """For consumers that know W3C trace context and do not look into the body."""
    import aio_pika

    gateway = make(broker={"url": amqp_url}, tracing={"otlp_url": collector.url, "sample_ratio": 0})
    gateway.start("serve")
    assert gateway.sender().post(1)
    eventually(lambda: gateway.metrics()["gateway_events_published_total"] == 1, "published")
    async with await aio_pika.connect(amqp_url) as connection:
        queue = await (await connection.channel()).get_queue("im.sink.audit", ensure=False)
        message = await queue.get()
        await message.ack()

    assert message.headers["traceparent"] == json.loads(message.body)["traceparent"]
    assert str(message.headers["traceparent"]).endswith("-00")
    assert collector.spans == []


def test_a_collector_that_is_away_costs_nothing_but_its_spans(make, collector):
    """Callbacks are answered and written; the log says so once, and when it is back."""
    collector.status = 400
    gateway = make(tracing={"otlp_url": collector.url})
    process = gateway.start("run")
    sender = gateway.sender()
    said = "The collector at tracing.otlp_url takes no spans"
    numbers = iter(range(10_000))
    eventually(lambda: sender.post(next(numbers)) and said in gateway.logs(), "the log says that it is away")
    collector.status = 200
    eventually(lambda: sender.post(next(numbers)) and "takes spans again" in gateway.logs(), "it is back")
    eventually(lambda: len(gateway.lines()) == len(sender.acknowledged), "all in the sink")

    assert gateway.stop(process) == 0
    assert gateway.logs().count(said) == 1
    assert sender.refused == []


def test_without_a_collector_nothing_of_it_is_loaded(make):
    """Off costs nothing: events have no trace, and the SDK is not in the process."""
    gateway = make()
    process = gateway.start("run")
    assert gateway.sender().post(1)
    eventually(lambda: len(gateway.lines()) == 1, "one in the sink")

    assert "traceparent" not in gateway.lines()[0]
    with open(f"/proc/{process.pid}/maps") as maps:
        assert "google/_upb" not in maps.read()


def test_the_trace_is_valid_for_other_readers():
    """Parsed by OpenTelemetry's own propagator."""
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    trace = trace_of("a.1", 1.0)
    context = get_current_span(
        TraceContextTextMapPropagator().extract({"traceparent": str(trace)})
    ).get_span_context()

    assert Trace(context.trace_id, context.span_id, context.trace_flags.sampled) == trace
