"""The whole way, with real processes as a user starts them. Nothing of the package is imported here."""

import json
import signal
import socket
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing
from itertools import pairwise
from urllib.parse import urlsplit

import pymysql
import pytest
from standardwebhooks import Webhook

from tests.gateway_process import SAMPLE, eventually, gateways, number_of
from tests.webhook_service import Reply

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

QUERY = (
    "SdkAppid=1400000000&CallbackCommand=Group.CallbackAfterMemberExit&contenttype=json&ClientIP=127.0.0.1"
    "&OptPlatform=RESTAPI"
)
OK = b'{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":""}'


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a Gateway in its own folder."""
    with gateways(tmp_path) as build:
        yield build


def post_sample(gateway):
    request = urllib.request.Request(f"http://127.0.0.1:{gateway.port}/callback?{QUERY}", data=SAMPLE)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def rows(gateway):
    with closing(sqlite3.connect(f"file:{gateway.folder}/var/exits.db?mode=ro", uri=True)) as database:
        return database.execute("SELECT member FROM member_exits ORDER BY member").fetchall()


def assert_the_event_of_the_page(event):
    """The event of design: names, times and ids as documented, whichever way it came."""
    assert event["specversion"] == "1.0"
    assert event["source"] == "/tencent-im/1400000000"
    assert event["type"] == "im.group.member.exited"
    assert event["subject"] == event["partitionkey"] == "group/@TGS#2J4SZEAEL"
    assert event["time"] == "2022-12-09T08:26:54.123Z"
    assert event["timesource"] == "EventTime"
    assert (event["clientip"], event["platform"], event["verified"]) == ("127.0.0.1", "restapi", False)
    assert event["phase"] == "after"
    assert event["dataschema"] == "urn:im-gateway:event:im.group.member.exited:1"
    data = event["data"]
    assert data.pop("raw") == json.loads(SAMPLE)
    assert data == {
        "group_id": "@TGS#2J4SZEAEL",
        "group_type": "Public",
        "exit_type": "kicked",
        "operator": "leckie",
        "members": ["jared", "tommy"],
    }


def assert_exits_shows_it(gateway):
    table = gateway.command("exits", "--group", "@TGS#2J4SZEAEL")
    assert all(word in table for word in ("jared", "tommy", "leckie", "kicked", "2022-12-09"))
    found = json.loads(gateway.command("exits", "--json", "--member", "tommy", "--since", "2022-12-09"))
    assert [(one["member"], one["operator"], one["exit_type"]) for one in found] == [
        ("tommy", "leckie", "kicked")
    ]
    assert json.loads(gateway.command("exits", "--json", "--until", "2022-12-09")) == []


@pytest.fixture(params=["embedded", "rabbitmq"])
def broker(request):
    """Both ways: the settings of broker.url."""
    if request.param == "embedded":
        return {"url": "embedded:var/broker.db"}
    rabbitmq = request.getfixturevalue("rabbitmq")
    return {"url": request.getfixturevalue("amqp_url"), "management_url": rabbitmq.management_url}


def test_the_page_sample_in_one_process(make, broker):
    """`gateway run`: the page's request, the page's answer, the event within a second, who left."""
    gateway = make(broker=broker)
    gateway.start("run")

    assert post_sample(gateway) == OK
    started = time.monotonic()
    [event] = eventually(gateway.lines, "the event")
    assert time.monotonic() - started < 5
    assert_the_event_of_the_page(event)
    eventually(lambda: len(rows(gateway)) == 2, "both members")
    assert_exits_shows_it(gateway)


def test_the_page_sample_in_two_processes(make, broker):
    """`gateway serve` and `gateway work` do the same; what came before the worker is not missed."""
    gateway = make(broker=broker)
    gateway.start("serve")
    assert post_sample(gateway) == OK
    gateway.start("work")

    [event] = eventually(gateway.lines, "the event")
    assert_the_event_of_the_page(event)
    eventually(lambda: len(rows(gateway)) == 2, "both members")
    assert_exits_shows_it(gateway)
    assert gateway.get("/readyz", gateway.worker_port)[0] == 200


def test_the_page_sample_into_postgres(make, broker, pg_dsn):
    """The third sink, through both brokers; `gateway exits` reads from it too."""
    gateway = make(broker=broker, sinks={"crm": {"kind": "postgres", "dsn": pg_dsn}})
    gateway.start("run")

    assert post_sample(gateway) == OK
    eventually(lambda: "tommy" in gateway.command("exits"), "the exits")
    assert_exits_shows_it(gateway)


def test_callbacks_reach_a_redis_stream_once(make, amqp_url, redis, redis_url):
    """Through RabbitMQ, past a Redis that is killed meanwhile, published a second time: one entry each."""
    gateway = make(broker={"url": amqp_url}, sinks={"cache": {"kind": "redis", "url": redis_url}})
    process = gateway.start("run")
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(50))
    redis.kill()
    assert all(sender.post(number) for number in range(50, 100))
    redis.start()
    eventually(lambda: redis.cli("XLEN", "im:events") == "100", "all entries")
    said = gateway.command("journal", "replay", "--from", "1", expect=2)
    assert "--yes: cache (redis, once window_s is over) write an event again" in said
    gateway.command("journal", "replay", "--from", "1", "--yes")
    written = "gateway_sink_written_total{sink=cache}"
    eventually(lambda: gateway.metrics().get(written, 0) >= 200, "the copies are written")

    assert sorted(number_of(json.loads(one)) for one in _events(redis)) == list(range(100))
    assert gateway.stop(process) == 0


def _events(redis):
    lines = redis.cli("XRANGE", "im:events", "-", "+").splitlines()
    return [line for before, line in pairwise(lines) if before == "event"]


def test_the_page_sample_into_mysql(make, broker, mysql_dsn):
    """The same into MariaDB."""
    gateway = make(broker=broker, sinks={"shop": {"kind": "mysql", "dsn": mysql_dsn}})
    gateway.start("run")

    assert post_sample(gateway) == OK
    eventually(lambda: "tommy" in gateway.command("exits"), "the exits")
    assert_exits_shows_it(gateway)


def hooked(make, amqp_url, service, **more):
    """Return a running gateway whose events go to *service*."""
    hook = {
        "kind": "http",
        "url": service.url,
        "secrets": [SECRET],
        "allow_networks": ["127.0.0.0/8"],
        **more,
    }
    gateway = make(broker={"url": amqp_url}, sinks={"hook": hook})
    gateway.start("run")
    return gateway


@pytest.mark.parametrize("batch", [False, True])
def test_callbacks_reach_a_service(make, amqp_url, webhook_service, batch):
    """Through RabbitMQ, in order, past an outage and a service that wants to be left alone; what it refuses is parked."""
    service, refused = webhook_service, 70
    waited = []

    def reply(request):
        numbers = [number_of(event) for event in request.events]
        if 60 in numbers and not waited:
            waited.append(len(service.requests))
            return Reply(429, {"Retry-After": "1"})
        return Reply(422 if refused in numbers else 204)

    service.reply = reply
    gateway = hooked(make, amqp_url, service, batch=batch)
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(50))
    eventually(lambda: service.taken, "the first event")
    service.deafen()
    assert all(sender.post(number) for number in range(50, 100))
    service.listen()
    eventually(lambda: len({event["id"] for event in service.taken}) == 99, "all but the one refused", 60)

    first = list(dict.fromkeys(number_of(event) for event in service.taken))
    assert first == [number for number in range(100) if number != refused]
    assert waited
    parked = "gateway_sink_parked_total{reason=http_422,sink=hook}"
    eventually(lambda: gateway.metrics().get(parked) == 1, "the one refused is parked")
    for request in service.requests:
        Webhook(SECRET).verify(request.body, request.headers)


def test_an_event_that_a_service_fails_on_holds_up_no_other_conversation(make, amqp_url, webhook_service):
    """500 for one event, for a while: others go on, it comes again later by itself, and nothing is parked."""
    bad, tries = 0, []

    def reply(request):
        if any(number_of(event) == bad for event in request.events):
            tries.append(len(webhook_service.taken))
            return Reply(500 if len(tries) < 7 else 204)
        return Reply()

    webhook_service.reply = reply
    gateway = hooked(make, amqp_url, webhook_service)
    sender = gateway.sender()
    assert sender.post(bad, GroupId="@TGS#bad")
    number = 0
    retried = "gateway_sink_retried_total{reason=http_500,sink=hook}"
    while gateway.metrics().get(retried, 0) == 0:
        number += 1
        assert sender.post(number, GroupId=f"@TGS#{number % 5}")
        eventually(lambda: number in map(number_of, webhook_service.taken), "the others go on")  # noqa: B023
    assert 5 <= len(tries) <= 6
    eventually(lambda: bad in map(number_of, webhook_service.taken), "it comes again", 60)

    assert len(webhook_service.taken) == number + 1
    assert not any("parked" in name and value for name, value in gateway.metrics().items())


def test_a_service_that_is_gone_stops_its_sink_until_a_restart(make, amqp_url, webhook_service):
    """410: nothing more is sent, /readyz and the metric say so; the events are there for the next process."""
    webhook_service.reply = lambda request: Reply(410)
    gateway = hooked(make, amqp_url, webhook_service)
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(5))
    eventually(lambda: gateway.metrics().get("gateway_sink_stopped{sink=hook}") == 1, "it has stopped")
    sent = len(webhook_service.requests)
    webhook_service.reply = lambda request: Reply()
    assert all(sender.post(number) for number in range(5, 10))
    eventually(
        lambda: gateway.metrics().get("gateway_journal_waiting_records") == 0, "the later ones are published"
    )
    assert (len(webhook_service.requests), sent) == (1, 1)
    assert "has stopped (http_410" in gateway.logs()
    gateway.stop(gateway.processes[0])
    gateway.start("run")

    eventually(lambda: len({event["id"] for event in webhook_service.taken}) == 10, "all events")


def test_the_metrics_add_up(make, broker):
    """answered = refused + probes + stored = head; the last callback's time tells of silence (pitfall 8)."""
    gateway = make(broker=broker)
    gateway.start("run")
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(20))
    urllib.request.urlopen(f"http://127.0.0.1:{gateway.port}/callback", timeout=5).close()
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://127.0.0.1:{gateway.port}/none", timeout=5)
    eventually(lambda: len(rows(gateway)) == 20 and len(gateway.lines()) == 20, "all events")
    eventually(lambda: gateway.metrics()["gateway_journal_waiting_records"] == 0, "nothing waits")
    eventually(lambda: gateway.metrics().get("gateway_sink_written_total{sink=exits}") == 20, "all counted")

    found = gateway.metrics()

    assert found["gateway_requests_answered_total"] == 22
    assert found["gateway_requests_probes_total"] == 1
    assert found["gateway_requests_refused_total{reason=not_found}"] == 1
    assert found["gateway_callbacks_stored_total{app=1400000000}"] == 20
    assert found["gateway_journal_head_position"] == found["gateway_journal_cursor_position"] == 20
    assert found["gateway_events_published_total"] == 20
    assert found["gateway_sink_written_total{sink=audit}"] == 20
    assert found["gateway_sink_written_total{sink=exits}"] == 20
    assert abs(found["gateway_last_callback_timestamp_seconds{app=1400000000}"] - time.time()) < 60
    assert found["gateway_broker_connected{role=publish}"] == 1
    assert gateway.get("/livez") == (200, b"alive\n")
    status, body = gateway.get("/readyz")
    assert (status, json.loads(body)["ready"]) == (200, True)


def test_kill_9_under_load_loses_nothing(make, broker):
    """What was acknowledged before the kill arrives after the restart, exactly once in the database."""
    gateway = make(broker=broker)
    senders = [gateway.sender() for _ in range(4)]
    for round_number in range(3):
        process = gateway.start("run")
        threads = [
            threading.Thread(target=_send_until_cut, args=(sender, 10_000 * (4 * round_number + at)))
            for at, sender in enumerate(senders)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        process.kill()
        process.wait()
        for thread in threads:
            thread.join()
    gateway.start("run")
    acknowledged = {number for sender in senders for number in sender.acknowledged}

    eventually(lambda: acknowledged <= {number_of(one) for one in gateway.lines()}, "all in the file")
    eventually(lambda: acknowledged <= {int(one[0][1:]) for one in rows(gateway)}, "all in the database")
    assert len(acknowledged) > 100
    members = [one[0] for one in rows(gateway)]
    assert len(members) == len(set(members))


def _send_until_cut(sender, first):
    number = first
    while sender.post(number):
        number += 1
    sender.close()


def test_sigterm_under_load_answers_everything(make, broker):
    """Requests under way get their answer, in the documented order of stopping; what it took is not lost, and counted."""
    gateway = make(broker=broker)
    process = gateway.start("run")
    senders = [gateway.sender() for _ in range(4)]
    threads = [
        threading.Thread(target=_send_until_cut, args=(sender, 10_000 * at))
        for at, sender in enumerate(senders)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert gateway.stop(process) == 0
    for thread in threads:
        thread.join()
    order = [json.loads(line)["event"] for line in gateway.logs().splitlines() if "Stop" in line]
    stat = json.loads(gateway.command("journal", "stat", "--json"))
    gateway.start("run")
    acknowledged = {number for sender in senders for number in sender.acknowledged}

    eventually(lambda: acknowledged <= {number_of(one) for one in gateway.lines()}, "all in the file")
    assert all(not sender.refused for sender in senders)
    assert [line.split(",")[0].split(" (")[0] for line in order] == [
        "Stopping: unready",
        "Stopping: no new connections",
        "Stopping: waiting for the broker's confirms",
        "Stopping: the broker is closed",
        "Stopped: the journal is closed",
    ]
    # Nobody hung up while a request was under way, so what was stored is what was acknowledged.
    assert stat["head"] == len(acknowledged)
    assert f"{stat['waiting']} callbacks wait in it" in order[-1]


def test_a_caller_that_ends_its_side_gets_all_its_answers(make):
    """More requests at once than are taken in at once, then the end of the stream: each is stored and answered."""
    gateway = make()
    gateway.start("serve")
    one = f"POST /callback?{QUERY} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(SAMPLE)}\r\n\r\n".encode()
    with (
        socket.create_connection(("127.0.0.1", gateway.port), 10) as caller,
        caller.makefile("rb") as answers,
    ):
        caller.sendall((one + SAMPLE) * 40)
        caller.shutdown(socket.SHUT_WR)
        assert answers.read().count(b"HTTP/1.1 200 OK") == 40

    assert gateway.metrics()["gateway_journal_head_position"] == 40


def test_a_second_signal_stops_at_once(make):
    """drain_s can be long; nobody has to wait for it."""
    gateway = make(listen={"drain_s": 600})
    process = gateway.start("run")
    sender = gateway.sender()
    assert sender.post(1)
    process.send_signal(signal.SIGINT)
    eventually(lambda: gateway.get("/readyz")[0] == 503, "unready")

    assert sender.post(2)  # still answered while draining
    assert gateway.stop(process, signal.SIGINT) == 0
    gateway.start("run")
    eventually(lambda: {1, 2} <= {number_of(one) for one in gateway.lines()}, "both")


def test_without_rabbitmq_the_gateway_takes_callbacks(make, rabbitmq, amqp_url):
    """Pitfall 4, answer fast: with the broker absent callbacks are taken, ready, and all arrive in order later."""
    rabbitmq.stop()
    gateway = make(broker={"url": amqp_url, "reconnect_max_s": 0.5})
    gateway.start("run")
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(300))
    status, body = gateway.get("/readyz")
    assert status == 200
    assert "the broker takes no events" in body.decode()
    assert gateway.metrics()["gateway_journal_waiting_records"] == 300
    rabbitmq.start()

    eventually(lambda: len(gateway.lines()) >= 300, "all events", 60)
    assert [number_of(one) for one in gateway.lines()] == list(range(300))
    assert "300 callbacks wait" in gateway.logs()


def test_rabbitmq_restarted_while_callbacks_come(make, rabbitmq, amqp_url):
    """Stopped in the middle and started again: nothing lost, first arrivals in order."""
    gateway = make(broker={"url": amqp_url, "reconnect_max_s": 0.5})
    gateway.start("serve")
    gateway.start("work")
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(100))
    eventually(lambda: len(gateway.lines()) == 100, "the first events")
    rabbitmq.stop()
    assert all(sender.post(number) for number in range(100, 300))
    rabbitmq.start()
    assert all(sender.post(number) for number in range(300, 400))

    eventually(lambda: len({number_of(one) for one in gateway.lines()}) == 400, "all events", 60)
    first_arrivals = list(dict.fromkeys(number_of(one) for one in gateway.lines()))
    assert first_arrivals == list(range(400))


@pytest.mark.timeout(400)  # thirty processes take long to start on a busy machine
def test_a_worker_killed_thirty_times_drops_nothing(make, amqp_url, pg_dsn):
    """Quorum queues count returns; ours have a limit that is never reached. Rows equal events exactly."""
    gateway = make(
        broker={"url": amqp_url},
        sinks={"crm": {"kind": "postgres", "dsn": pg_dsn, "batch_max_events": 5, "batch_max_wait_ms": 0}},
    )
    gateway.start("serve")
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(200))
    for life in range(30):
        worker = gateway.start("work", wait=False)
        eventually(lambda: _is_taking(gateway) or worker.poll() is not None, "the worker takes events")  # noqa: B023
        assert worker.poll() is None, gateway.logs()
        time.sleep(0.005 * (life % 5))
        worker.kill()
        worker.wait()
    gateway.start("work")

    found = eventually(lambda: (lambda them: len(them) == 200 and them)(_members(gateway)), "all rows", 60)
    assert sorted(found) == sorted(f"u{number}" for number in range(200))


@pytest.mark.timeout(240)
def test_workers_into_mysql_killed_under_load_leave_what_was_sent(make, amqp_url, mariadb, mysql_dsn):
    """kill -9 of workers and server in the middle of batches, copies among them: both tables have each event once."""
    own = {
        "table": "left_members", "each": "data.members", "columns": {"member": "item", "left_at": "time"},
        "key": ["member"],
    }  # fmt: skip
    both = {"kind": "mysql", "dsn": mysql_dsn, "batch_max_events": 20, "batch_max_wait_ms": 0}
    gateway = make(broker={"url": amqp_url}, sinks={"crm": both, "own": {**both, **own}})
    gateway.start("serve")
    senders = [gateway.sender() for _ in range(2)]
    threads = [
        threading.Thread(target=_send_some_twice, args=(sender, range(at * 1000, at * 1000 + 500)))
        for at, sender in enumerate(senders)
    ]
    for thread in threads:
        thread.start()
    for life in range(8):
        worker = gateway.start("work", wait=False)
        eventually(lambda: _is_taking(gateway) or worker.poll() is not None, "the worker takes events")  # noqa: B023
        assert worker.poll() is None, gateway.logs()
        time.sleep(0.03 * (life % 4))
        if life % 4 == 2:
            mariadb.kill()
            mariadb.start()
        worker.kill()
        worker.wait()
    for thread in threads:
        thread.join()
    gateway.start("work")
    sent = sorted({number for sender in senders for number in sender.acknowledged})

    eventually(lambda: len(_members(gateway)) >= 1000, "all exits", 60)
    eventually(lambda: len(_left_members(mysql_dsn)) >= 1000, "all rows", 60)
    assert len(sent) == 1000
    assert sorted(_members(gateway)) == sorted(f"u{number}" for number in sent)
    assert _left_members(mysql_dsn) == sorted(
        (f"u{number}", f"2022-12-09T08:26:5{4 + (123 + number) // 1000}.{(123 + number) % 1000:03d}Z")
        for number in sent
    )


@pytest.mark.timeout(240)
def test_workers_into_redis_and_a_service_killed_under_load_leave_what_was_sent(
    make, amqp_url, redis, redis_url, webhook_service
):
    """kill -9 in the middle of batches: the stream has each event once, the service each at least once, in order."""
    sinks = {
        "crm": {"kind": "redis", "url": redis_url, "batch_max_events": 20, "batch_max_wait_ms": 0},
        "hook": {
            "kind": "http",
            "url": webhook_service.url,
            "secrets": [SECRET],
            "allow_networks": ["127.0.0.1/32"],
        },
    }
    gateway = make(broker={"url": amqp_url}, sinks=sinks)
    gateway.start("serve")
    sender = gateway.sender()
    thread = threading.Thread(target=_send_some_twice, args=(sender, range(500)))
    thread.start()
    for life in range(6):
        worker = gateway.start("work", wait=False)
        eventually(lambda: _is_taking(gateway) or worker.poll() is not None, "the worker takes events")  # noqa: B023
        assert worker.poll() is None, gateway.logs()
        time.sleep(0.03 * (life % 4))
        worker.kill()
        worker.wait()
    thread.join()
    gateway.start("work")
    assert set(sender.acknowledged) == set(range(500))

    eventually(lambda: int(redis.cli("XLEN", "im:events")) >= 500, "all entries", 60)
    eventually(lambda: len({event["id"] for event in webhook_service.taken}) >= 500, "all requests", 60)
    depths = ("gateway_sink_unacked_events{sink=crm}", "gateway_sink_unacked_events{sink=hook}")
    eventually(lambda: not any(gateway.metrics(gateway.worker_port)[one] for one in depths), "all is settled")
    assert sorted(number_of(json.loads(one)) for one in _events(redis)) == list(range(500))
    first = list(dict.fromkeys(number_of(event) for event in webhook_service.taken))
    assert first == list(range(500))


def _send_some_twice(sender, numbers):
    for number in numbers:
        for _ in range(2 if number % 3 == 0 else 1):
            sender.post(number)


def _left_members(dsn):
    url = urlsplit(dsn)
    with (
        pymysql.connect(
            host=url.hostname, port=url.port, user=url.username, password=url.password, database=url.path[1:]
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT member, left_at FROM left_members ORDER BY member")
        return list(cursor.fetchall())


def _is_taking(gateway):
    try:
        return gateway.metrics(gateway.worker_port)["gateway_sink_available{sink=crm}"] == 1
    except OSError:
        return False


def _members(gateway):
    return [one["member"] for one in json.loads(gateway.command("exits", "--json", "--limit", "5000"))]


GONE = """
import math

from gateway.sinks import Unavailable


class Gone:
    def write(self, events):
        raise Unavailable("http_410", "the endpoint is gone for good", math.inf)
"""


def test_a_sink_that_is_gone_for_good_stops_alone(make):
    """Its worker is unready and says why; the other sink goes on, and the events wait for a restart."""
    gateway = make(
        sinks={
            "gone": {"kind": "python", "target": "gone:Gone"},
            "audit": {"kind": "jsonl", "path": "var/events.jsonl"},
        }
    )
    (gateway.folder / "gone.py").write_text(GONE)
    gateway.start("serve")
    worker = gateway.start("work")
    assert post_sample(gateway) == OK
    eventually(lambda: "has stopped" in gateway.logs(), "the stop")
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(10))

    eventually(lambda: len(gateway.lines()) == 11, "the events at the other sink")
    status, body = gateway.get("/readyz", gateway.worker_port)
    assert status == 503
    assert json.loads(body)["causes"] == [
        "sink gone has stopped (http_410): mend it, then restart this process"
    ]
    assert gateway.metrics(gateway.worker_port)["gateway_sink_stopped{sink=gone}"] == 1
    eventually(lambda: gateway.metrics()["gateway_sink_waiting_events{sink=gone}"] == 11, "waiting events")
    gateway.stop(worker)
    (gateway.folder / "gone.py").write_text("class Gone:\n    def write(self, events):\n        pass\n")
    gateway.start("work")
    eventually(lambda: gateway.metrics()["gateway_sink_waiting_events{sink=gone}"] == 0, "all written")


def test_wrong_configuration_ends_with_2_and_words(make):
    """A slip, a port in use, a journal in use: each is said, none is a traceback."""
    gateway = make()
    (gateway.folder / "bad.yaml").write_text("listen: {prot: 1}")
    assert "did you mean listen.port" in gateway.command("serve", "--config", "bad.yaml", expect=2)
    assert "--config" in gateway.command("check", "--config", "none.yaml", expect=2)
    gateway.start("run")

    said = gateway.command("serve", expect=2)
    assert "in use" in said
    assert "Traceback" not in said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other = make(listen={"port": taken.getsockname()[1]})
        said = other.command("run", expect=2)
    assert "listen.port" in said
    assert "Traceback" not in said


def test_check_connects_and_says_what_is_wrong(make, amqp_url, pg_dsn, tmp_path):
    """Every part is tried; each fault is a sentence, and the exit code tells."""
    good = make(broker={"url": amqp_url}, sinks={"crm": {"kind": "postgres", "dsn": pg_dsn}})
    said = good.command("check", "--connect")
    assert "ok      broker: RabbitMQ 3." in said
    assert "ok      sink crm" in said
    bad = make(
        broker={"url": "amqp://guest:pass-word@127.0.0.1:1/"},
        sinks={
            "crm": {"kind": "postgres", "dsn": "postgresql://u:pass-word@127.0.0.1:1/x"},
            "file": {"kind": "jsonl", "path": "/proc/none/x"},
        },
    )

    said = bad.command("check", "--connect", expect=1)

    assert said.count("FAILED") == 3
    assert "pass-word" not in said
    assert "nothing listens there" in said


def test_topology_shows_marks_and_rescues(make, rabbitmq, amqp_url):
    """What no sink takes is kept, a new sink gets it by rescue, and strangers' queues are marked."""
    broker = {"url": amqp_url, "management_url": rabbitmq.management_url}
    before = make(broker=broker, sinks={"none": {"kind": "jsonl", "path": "x", "events": ["nothing.at.all"]}})
    process = before.start("serve")
    sender = before.sender()
    assert all(sender.post(number) for number in range(5))
    eventually(lambda: before.metrics().get("gateway_journal_waiting_records") == 0, "published")
    before.stop(process)
    after = make(broker=broker)
    after.start("run")

    said = after.command("topology", "show")
    assert "im.events (topic)" in said
    assert "x-delivery-limit=1000000" in said
    assert "! im.sink.none gets our events though no sink" in said
    assert "unrouted: 5" in said
    assert "5 events were published again; 0 stand" in after.command("topology", "rescue")
    eventually(lambda: [number_of(one) for one in after.lines()] == list(range(5)), "the rescued events")
