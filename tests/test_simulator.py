"""The simulator's own parts: bodies, queries, HTTP, schedule, figures. No process, no network."""

import json
from array import array
from functools import lru_cache
from urllib.parse import parse_qs, parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.callback import Callback
from gateway.catalogue import COMMANDS, ROWS
from gateway.ids import FACT_DIGITS
from gateway.normalise import ID_RECIPE, normalise
from gateway.signature import verify_sign
from gateway.simulator.bodies import Bodies
from gateway.simulator.http1 import Answer, Target, parse_answer
from gateway.simulator.ledger import Entry, expected_events
from gateway.simulator.query import query_of, signed
from gateway.simulator.sender import Plan, read_answer
from gateway.simulator.tally import Tally, percentiles, render

APP = "1400000000"
NAMES = [row.name for row in ROWS]
BASE_MS = 1_767_225_600_000
seeds = st.integers(-(2**63), 2**63)


def bodies(seed, **options):
    return Bodies(seed, APP, options.pop("groups", 5), BASE_MS, **options)


def stored(query, body, received_ms=BASE_MS):
    return Callback(APP, query, body, "", received_ms, False, ID_RECIPE, 10)


@lru_cache
def samples(seed, rounds=3):
    """Return (command, query, body) of every command, *rounds* times."""
    maker = bodies(seed)
    return [(name, *maker.make(at + 1, name)) for at, name in enumerate(NAMES * rounds)]


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_the_same_seed_gives_the_same_callbacks_in_the_same_order(seed):
    """A benchmark or a failure can be repeated exactly."""
    first, second = bodies(seed), bodies(seed)

    for number, name in enumerate(NAMES, 1):
        assert first.make(number, name) == second.make(number, name)


def test_another_seed_gives_other_bodies():
    """Two runs without a seed do not send the same facts."""
    assert not {body for _, _, body in samples(1)} & {body for _, _, body in samples(2)}


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_every_body_is_an_object_below_64_kib_without_nul(seed):
    """What is sent could have come from Tencent, and no sink has to change it."""
    for name, query, body in samples(seed):
        parsed = json.loads(body)
        assert isinstance(parsed, dict), name
        assert parsed.get("CallbackCommand", name) == name
        assert len(body) < 64 * 1024, name
        assert b"\\u0000" not in body
        assert query.isascii()


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_every_event_of_a_run_has_an_id_of_its_own(seed):
    """Every body is a fact of its own, even when all are received in the same millisecond."""
    ids = []
    for name, query, body in samples(seed):
        events = normalise(stored(query, body), "j.1")
        assert all(event.type == COMMANDS[name].type for event in events), name
        ids += [event.id for event in events]

    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", NAMES)
def test_many_bodies_of_one_command_are_different_facts(name):
    """Also where nothing but one field tells them apart."""
    maker = bodies(7, groups=1)
    ids = [
        event.id for number in range(1, 301) for event in normalise(stored(*maker.make(number, name)), "j.1")
    ]

    assert len(ids) == len(set(ids))


@given(seeds, st.integers(0, 2**42), st.booleans())
@settings(max_examples=15, deadline=None)
def test_expected_events_are_found_whenever_they_are_received(seed, received_ms, is_signed):
    """What the ledger has of an id does not depend on the receiver's clock, and is all that does not."""
    for name, query, body in samples(seed, 1):
        events, later = (
            normalise(stored(query, body, ms), "j.1") for ms in (received_ms, received_ms + 10**6)
        )
        expected = expected_events(APP, query, body, is_signed=is_signed)
        for event, again, one in zip(events, later, expected, strict=True):
            assert event.type == one.type
            assert event.id.startswith(one.id), name
            assert len(one.id) == (32 if event.id == again.id else FACT_DIGITS), name


def test_accounts_and_groups_come_again():
    """Partition keys repeat as in life, and --groups bounds how many there are."""
    maker = bodies(3, groups=4)
    found = [json.loads(maker.make(n, "Group.CallbackAfterMemberExit")[1]) for n in range(1, 200)]

    assert len({body["GroupId"] for body in found}) == 4
    assert {body["ExitType"] for body in found} == {"Kicked", "Quit"}
    assert all(
        [one["Member_Account"] for one in body["ExitMemberList"]] == [body["Operator_Account"]]
        for body in found
        if body["ExitType"] == "Quit"
    )


def test_times_come_in_every_documented_spelling():
    """Text, number, seconds, inside and not at all: a receiver meets all of them."""
    kinds = {}
    for name, _, body in samples(5, 40):
        parsed = json.loads(body)
        if name.startswith("Push."):
            parsed = parsed["Events"][0]
        value = parsed.get("EventTime")
        kinds.setdefault(name, set()).add(
            type(value).__name__ if value is None or isinstance(value, str) or value > 10**11 else "seconds"
        )

    assert kinds["Group.CallbackAfterMemberExit"] == {"str", "int", "NoneType"}
    assert kinds["State.StateChange"] == {"int", "NoneType"}
    assert kinds["Push.OfflinePush"] == {"seconds"}
    assert kinds["Sns.CallbackFriendDelete"] == {"NoneType"}
    assert kinds["Group.CallbackAfterGroupFull"] == {"str"}


def test_integers_beyond_32_and_53_bits_are_sent_as_numbers():
    """The account that JavaScript would round is in the bodies of the products that have it."""
    found = [json.loads(body) for name, _, body in samples(5, 40) if name.startswith("Mic.")]
    accounts = [seat.get("Member_Account") for body in found for seat in body["SeatList"]]

    assert any(isinstance(one, int) and one > 2**53 for one in accounts)


def test_the_query_is_tencents():
    """Names, order and the parameters that some commands lack."""
    assert (
        query_of("Group.CallbackAfterMemberExit", APP, "203.0.113.7", "iOS")
        == f"SdkAppid={APP}&CallbackCommand=Group.CallbackAfterMemberExit&contenttype=json"
        "&ClientIP=203.0.113.7&OptPlatform=iOS"
    )
    assert query_of("State.StateChange", APP, "203.0.113.7", "iOS").endswith("OptPlatform=IOS")
    assert "ClientIP" not in query_of("Push.OfflinePush", APP, "203.0.113.7", "Web")
    alert = parse_qs(query_of("Alert.RequestOverLimit", APP, "203.0.113.7", "Web"))
    assert "ClientIP" not in alert
    assert "OptPlatform" in alert


def test_a_legacy_callback_has_its_command_in_the_query_only():
    """The old room and call engines write lower-case names and no CallbackCommand in the body."""
    query, body = bodies(1, is_legacy=True).make(1, "Room.CallbackAfterDestroyRoom")

    assert dict(parse_qsl(query)) == {
        "sdkappid": APP,
        "command": "Room.CallbackAfterDestroyRoom",
        "contenttype": "json",
        "clientip": "0.0.0.0",
        "optplatform": "rest_api",
    }
    assert "CallbackCommand" not in json.loads(body)


def test_a_signed_query_passes_the_gateways_own_check():
    """Sign and RequestTime stand at the end; an empty token adds nothing."""
    query = signed("a=b", "xxxxyyyy", 1669872112)
    params = dict(parse_qsl(query))

    assert params["Sign"] == "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061"
    verify_sign(params["Sign"], params["RequestTime"], ["xxxxyyyy"], 1669872112, 60)
    assert signed("a=b", "", 1) == "a=b"


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Answer(200, b"{}", False)),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: close\r\n\r\n{}", Answer(200, b"{}", True)),
        (b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\n{\r\n1\r\n}\r\n0\r\n\r\n", Answer(503, b"{}", False)),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n", Answer(204, b"", False)),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", Answer(200, b"{}", True)),
    ],
)  # fmt: skip
def test_answers_are_read_however_they_are_cut(received, expected):
    """Nothing is taken for whole before its last byte, and not one byte later."""
    for at in range(len(received) - 1):
        incomplete = parse_answer(received[:at], is_ended=False)
        assert incomplete is None or (incomplete == expected and b"chunked" in received)
    assert parse_answer(received, is_ended=False) == expected


def test_an_answer_without_length_ends_with_the_connection():
    """As HTTP/1 has it; the connection is not used again."""
    received = b"HTTP/1.1 200 OK\r\n\r\n{}"

    assert parse_answer(received, is_ended=False) is None
    assert parse_answer(received, is_ended=True) == Answer(200, b"{}", True)


@pytest.mark.parametrize(
    "received",
    [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", b"x" * 1_100_000],
)
def test_what_is_no_answer_is_refused(received):
    """Another protocol, or more than anybody should answer."""
    with pytest.raises(ValueError):
        parse_answer(received, is_ended=False)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b'{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":""}', ("ok", 0)),
        (200, b'{"ErrorCode":0,"ErrorMessage":"Success"}', ("ok", 0)),
        (200, b'{"ActionStatus":"FAIL","ErrorCode":10100,"ErrorInfo":"no"}', ("ok", 10100)),
        (200, b"<html>", ("unreadable_answer", 0)),
        (200, b"[]", ("unreadable_answer", 0)),
        (401, b'{"ActionStatus":"FAIL","ErrorCode":1,"ErrorInfo":"bad_signature"}', ("bad_signature", 1)),
        (503, b'{"ErrorInfo":"ok"}', ("http_503", 0)),
        (502, b"<html>", ("http_502", 0)),
        (400, b'{"ErrorInfo":"\\u001b[31m"}', ("http_400", 0)),
    ],
)
def test_an_answer_is_ok_or_has_a_token(status, body, said):
    """Only 200 with a code is an acknowledgement; text from outside never becomes a token."""
    assert read_answer(Answer(status, body, False)) == said


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://127.0.0.1:8080/callback", Target("127.0.0.1", 8080, "/callback", False)),
        ("https://im.example.com", Target("im.example.com", 443, "/", True)),
        ("http://[::1]:9/x/", Target("::1", 9, "/x/", False)),
    ],
)
def test_a_url_is_where_callbacks_go(url, target):
    """And what goes there names the same place."""
    assert Target.of(url) == target
    assert target.request("q=1", b"{}").startswith(f"POST {target.path}?q=1 HTTP/1.1\r\nHost: ".encode())


@pytest.mark.parametrize(
    "url",
    ["ftp://a/", "a.b/c", "http://", "http://u@a/", "http://a/?b", "http://a/ b", "http://a:x/", "http://ä/"],
)
def test_a_url_that_the_console_would_not_take_is_refused(url):
    """Tencent takes no query, no user and no other scheme."""
    with pytest.raises(ValueError):
        Target.of(url)


@given(st.integers(1, 100_000), st.floats(0.1, 10_000))
def test_the_schedule_is_fixed_beforehand(number, rate):
    """Callback n is due (n - 1) / rate seconds after the start, whatever was answered."""
    plan = Plan(Target("h", 1, "/", False), APP, "", rate_per_s=rate)

    assert plan.due_s(number) == pytest.approx((number - 1) / rate)


@pytest.mark.parametrize(
    ("rate", "count", "duration", "total"),
    [
        (None, 5, None, 5),
        (None, None, 2.0, None),
        (50.0, None, 2.0, 100),
        (50.0, 30, 2.0, 30),
        (0.1, None, 1.0, 1),
    ],
)
def test_rate_and_duration_say_how_many(rate, count, duration, total):
    """Counts, not clocks, end a run that has a rate."""
    plan = Plan(Target("h", 1, "/", False), APP, "", rate_per_s=rate, count=count, duration_s=duration)

    assert plan.total == total


def test_a_token_does_not_show():
    """Neither in a traceback nor in a log line that holds the plan."""
    assert "secret" not in repr(Plan(Target("h", 1, "/", False), APP, "secret"))


@given(st.lists(st.floats(0, 1e6), max_size=300))
def test_percentiles_are_values_that_occurred(values):
    """In order, and the maximum is the maximum."""
    found = list(percentiles(array("d", values)).values())

    assert found == sorted(found)
    assert not values or found[-1] == round(max(values), 3)
    assert {round(one, 3) for one in values} >= set(found)


def test_a_summary_tells_all_that_happened():
    """Refusals by token, timeouts, repeats, and the rate that could not be kept."""
    tally = Tally(sent=4, behind=2, elapsed_s=2.0)
    tally.add(Entry(1, "c", (), "ok", 0, 1, 0, 5.0), 0.1)
    tally.add(Entry(2, "c", (), "ok", 10100, 1, 0, 7.0), 0.1)
    tally.add(Entry(3, "c", (), "bad_signature", 1, 1, 0, 1.0), 0.1)
    tally.add(Entry(4, "c", (), "timeout", 0, 3, 0, 1.0), 0.1)
    summary = tally.summary()

    assert (summary["ok"], summary["denied"], summary["timeouts"], summary["repeats"]) == (2, 1, 1, 2)
    assert summary["refused"] == {"bad_signature": 1}
    assert summary["latency_ms"]["max"] == 7.0
    assert not tally.is_all_acknowledged
    assert "bad_signature 1" in render(summary)
    assert "not sent in time   2" in render(summary)
