"""The parts of the http sink: what answers mean, where one may connect, signatures, and the order of requests."""

import asyncio
import math
import socket
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.config import HttpSink
from gateway.errors import Poison, Unavailable
from gateway.event import Event
from gateway.sinks.http_answers import Doubtful, judge, wait_s
from gateway.sinks.http_guard import Forbidden, Guard
from gateway.sinks.http_rounds import _MOST_NEW, _MOST_OLD, _PATIENCE, Memory, Round
from gateway.sinks.webhooks import keys_of, message_id, signed
from tests.sink_events import exit_event

WAIT = HttpSink.model_fields["wait_statuses"].default
NOW_S = 1_700_000_000.0


@pytest.mark.parametrize("status", range(200, 300))
def test_2xx_is_taken(status: int) -> None:
    """Whatever else the service says with it."""
    assert judge(status, "60", NOW_S, 300, WAIT) is None


@pytest.mark.parametrize("status", [status for status in range(400, 500) if status not in {*WAIT, 410, 429}])
def test_other_4xx_park_the_event(status: int) -> None:
    """It would be refused for ever."""
    assert type(judge(status, None, NOW_S, 300, WAIT)) is Poison


@pytest.mark.parametrize("status", [*WAIT, *range(500, 503), *range(504, 600), 101, 199, 600, 999])
def test_what_may_be_the_services_fault_parks_nothing(status: int) -> None:
    """A wrong credential, a wrong path or a bug there must not empty the queue into the dead letters."""
    verdict = judge(status, "60", NOW_S, 300, WAIT)

    assert type(verdict) is Doubtful
    assert verdict.wait_s == 0


@pytest.mark.parametrize("status", range(300, 400))
def test_a_redirect_is_a_fault_of_the_url(status: int) -> None:
    """All events wait until the url is right."""
    verdict = judge(status, None, NOW_S, 300, WAIT)

    assert (type(verdict), verdict and verdict.reason) == (Unavailable, "redirected")


def test_gone_is_for_good() -> None:
    """Not before a restart."""
    verdict = judge(410, "5", NOW_S, 300, WAIT)

    assert type(verdict) is Unavailable
    assert verdict.wait_s == math.inf


def test_which_4xx_wait_is_configured() -> None:
    """A service that answers 404 for entities it does not have, or 422 while it is read-only."""
    assert type(judge(404, None, NOW_S, 300, (422,))) is Poison
    assert type(judge(422, None, NOW_S, 300, (422,))) is Doubtful


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, 0),
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("100000", 300),
        ("9" * 5000, 300),
        (format_datetime(datetime.fromtimestamp(NOW_S + 90, UTC), usegmt=True), 90),
        (format_datetime(datetime.fromtimestamp(NOW_S - 90, UTC), usegmt=True), 0),
        ("Wed, 21 Oct 2122 07:28:00 GMT", 300),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("-7", 0),
        ("1.5", 0),
        ("\u0667", 0),
        ("soon", 0),
        ("", 0),
        ("Wed, 99 Oct 2122 07:28:00 GMT", 0),
        ("Wed, 21 Oct 9999999 07:28:00 GMT", 0),
        ("\0\r\n", 0),
    ],
)
def test_the_whole_sink_waits_as_long_as_it_is_asked_to(
    status: int, value: str | None, expected: float
) -> None:
    """Up to the cap; what is no number and no date is as if it were not there."""
    verdict = judge(status, value, NOW_S, 300, WAIT)

    assert type(verdict) is Unavailable
    assert verdict.wait_s == expected


@given(st.text(max_size=60))
def test_no_text_breaks_the_reading_of_retry_after(text: str) -> None:
    """A stranger writes it."""
    assert 0 <= wait_s(text, NOW_S) < math.inf


def test_reasons_are_of_a_closed_set() -> None:
    """They label metrics, and the service chooses the number."""
    verdicts = [judge(status, None, NOW_S, 300, WAIT) for status in range(1000)]

    assert len({verdict.reason for verdict in verdicts if verdict}) < 60


PRIVATE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16",
    "198.18.0.1", "192.0.2.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1",
    "255.255.255.255", "192.88.99.1",
    "::", "::1", "fe80::1", "fe80::1%lo", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "2001::1",
    "2001:10::1", "2002:7f00:1::", "3fff::1", "100::1", "5f00::1",
    "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808", "::ffff:0:127.0.0.1", "not an address",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "223.255.255.255", "2606:4700::1111",
          "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_an_inner_address_is_refused(address: str) -> None:
    """Loopback, private, link-local with the clouds' metadata, shared, documentation, multicast, in every disguise."""
    with pytest.raises(Forbidden, match="allow_networks"):
        Guard(()).check(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_not(address: str) -> None:
    """Services are on the Internet."""
    Guard(()).check(address)


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.0.0.0/8", "::ffff:10.1.2.3"),
        ("10.0.0.0/8", "64:ff9b::a01:203"),
        ("64:ff9b::/96", "64:ff9b::a01:203"),
        ("fd00::/8", "fd12::1"),
        ("::1/128", "::1"),
    ],
)
def test_networks_are_allowed_by_name(network: str, address: str) -> None:
    """Those, and no others."""
    guard = Guard((network, "192.0.2.0/24"))
    guard.check(address)
    with pytest.raises(Forbidden):
        guard.check("127.0.0.1")


def test_the_socket_is_made_for_the_address_looked_at() -> None:
    """The hook of the connector: no socket, no connection."""
    guard = Guard(("127.0.0.0/8",))
    found = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80))
    with guard.socket(found) as made:
        assert made.family == socket.AF_INET
    with pytest.raises(Forbidden):
        guard.socket((socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", 80, 0, 0)))


SECRETS = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_" + "A" * 32)


@pytest.mark.parametrize("secret", SECRETS)
def test_each_secret_verifies_a_request_signed_with_several(secret: str) -> None:
    """At a rotation the receiver knows the old one, or the new one; the library of Standard Webhooks decides."""
    body = exit_event("1").body
    now_s = int(datetime.now(UTC).timestamp())
    headers = signed(body, "1", now_s, keys_of(SECRETS))

    assert Webhook(secret).verify(body, headers)["id"] == "1"
    for changed in ({"webhook-id": "2"}, {"webhook-timestamp": str(now_s - 1)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, {**headers, **changed})
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "B" * 32).verify(body, headers)


def test_the_message_id_is_the_events() -> None:
    """Stable over retries, another one for another event; a batch has the same as long as it is the same."""
    one, two = exit_event("0" * 31 + "1"), exit_event("0" * 31 + "2")

    assert message_id([one]) == one.id
    assert message_id([one, two]) == message_id([exit_event(one.id), exit_event(two.id)])
    assert len({message_id(some) for some in ([one], [one, two], [two, one], [one, one])}) == 4


@pytest.mark.parametrize("odd", ["a\r\nx: y", "a.b", "\u00e9", "", "x" * 200, "a b", "\ud800"])
def test_another_publishers_id_can_write_no_header(odd: str) -> None:
    """It is hashed, with its source."""
    event = exit_event("1")
    events = [Event(event.body, {**event.attributes, "id": odd, "source": source}) for source in ("/a", "/b")]
    names = [message_id([one]) for one in events]

    assert all(name.startswith("event_") and name.isascii() and len(name) == 38 for name in names)
    assert len(set(names)) == 2


class Service:
    """Does with each event what *behaviour* says: take, refuse, or fail so many times (-1: always)."""

    def __init__(self, behaviour: Sequence[str | int]) -> None:
        self.left = list(behaviour)
        self.taken: list[int] = []
        self.sent: list[list[int]] = []
        self.is_away = False

    async def send(self, places: Sequence[int]) -> Poison | Unavailable | None:
        self.sent.append(list(places))
        if self.is_away:
            return Unavailable("http_503", "", 7.0)
        if any(self.left[at] == "refuse" for at in places):
            return Poison("http_400")
        failing = [at for at in places if self.left[at] != "take"]
        for at in failing:
            left = self.left[at]
            if isinstance(left, int) and left > 0:
                self.left[at] = "take" if left == 1 else left - 1
        if failing:
            return Doubtful("http_500")
        self.taken += places
        return None


class Queue:
    """Brings events to a service as a worker does: what is left of a write comes again, in order."""

    def __init__(self, service: Service, keys: Sequence[int] | None = None, *, batch: bool = False) -> None:
        self.service = service
        self.memory = Memory()
        self.batch = batch
        self.left = list(range(len(service.left)))
        self.keys = list(keys or self.left)
        self.failures: dict[int, Poison | Unavailable] = {}

    async def write(self) -> None:
        """Write what is left."""
        left = self.left

        async def send(places: Sequence[int]) -> Poison | Unavailable | None:
            return await self.service.send([left[at] for at in places])

        keys = [0 if self.batch else self.keys[at] for at in left]
        places = list(range(len(left)))
        try:
            found = await Round(left, keys, send, self.memory).run(
                [places] if self.batch else [[at] for at in places]
            )
        except Unavailable:
            return
        self.failures |= {left[at]: why for at, why in found.items() if not getattr(why, "wait_s", 0)}
        self.left = [left[at] for at, why in sorted(found.items()) if getattr(why, "wait_s", 0)]

    async def settle(self, most: int = 200, *, traffic: bool = False) -> bool:
        """Write until nothing is left; with *traffic*, more events come, which the service takes."""
        newest = -1
        for _ in range(most):
            await self.write()
            if not self.left:
                return True
            if traffic and newest not in self.left:
                newest = len(self.service.left)
                self.left.append(newest)
                self.keys.append(-len(self.keys) - 1)
                self.service.left.append("take")
        return False


BEHAVIOURS = st.lists(st.sampled_from(["take", "take", "take", "refuse", 1, 3, -1]), min_size=1, max_size=30)
BEHAVIOURS = BEHAVIOURS.filter(lambda some: some.count(-1) < _MOST_OLD)


@given(BEHAVIOURS, st.data())
def test_each_event_is_taken_once_and_in_the_order_of_its_key(behaviour, data) -> None:
    """Whatever each event meets: all that can be is taken once, in order, and only the others are named."""
    keys = data.draw(st.lists(st.integers(0, 3), min_size=len(behaviour), max_size=len(behaviour)))
    queue = Queue(Service(behaviour), keys)
    assert asyncio.run(queue.settle(traffic=True))
    taken = [at for at in queue.service.taken if at < len(behaviour)]

    assert {at: type(why) for at, why in queue.failures.items()} == {
        at: Poison if how == "refuse" else Doubtful
        for at, how in enumerate(behaviour)
        if how in ("refuse", -1)
    }
    assert sorted([*taken, *queue.failures]) == list(range(len(behaviour)))
    for key in set(keys):
        lane = [at for at in taken if keys[at] == key]
        assert lane == sorted(lane)


@given(BEHAVIOURS)
def test_bad_events_of_a_batch_are_found_by_halving(behaviour) -> None:
    """Each event that can be taken is taken once, in order; the others are named."""
    queue = Queue(Service(behaviour), batch=True)
    assert asyncio.run(queue.settle(traffic=True))

    assert queue.service.taken == sorted(set(queue.service.taken))
    assert sorted([*queue.service.taken, *queue.failures]) == list(range(len(queue.service.left)))
    assert all(behaviour[at] in ("refuse", -1) for at in queue.failures)


async def test_the_last_event_of_a_queue_does_not_count_as_bad_before_another_gets_through() -> None:
    """That events before it were taken says nothing about the service now."""
    queue = Queue(Service(["take", -1]), [0, 0])

    assert not await queue.settle()
    assert await queue.settle(traffic=True)
    assert list(queue.failures) == [1]


async def test_a_batch_of_500_costs_few_requests_for_one_bad_event() -> None:
    """Two requests a level."""
    queue = Queue(Service(["refuse" if at == 321 else "take" for at in range(500)]), batch=True)
    await queue.write()

    assert list(queue.failures) == [321]
    assert len(queue.service.sent) < 20


async def test_a_service_that_is_away_is_asked_once_and_for_all() -> None:
    """No further request is begun; what was taken is settled, the rest comes again after the wait it asked for."""
    service = Service(["take"] * 10)

    async def send(places: Sequence[int]) -> Poison | Unavailable | None:
        service.is_away = len(service.sent) == 4
        return await service.send(places)

    found = await Round(range(10), range(10), send, Memory()).run([[at] for at in range(10)])

    assert len(service.sent) == 5
    assert {
        at: (why.reason, why.wait_s) for at, why in found.items() if isinstance(why, Unavailable)
    } == dict.fromkeys(range(4, 10), ("http_503", 7.0))


async def test_where_nothing_is_settled_it_is_one_failure() -> None:
    """As every sink says that it is away."""
    service = Service(["take"] * 10)
    service.is_away = True
    with pytest.raises(Unavailable) as caught:
        await Round(range(10), range(10), service.send, Memory()).run([[at] for at in range(10)])

    assert len(service.sent) == 1
    assert (caught.value.reason, caught.value.wait_s) == ("http_503", 7.0)


async def test_what_is_left_comes_again_in_place_even_where_no_time_was_named() -> None:
    """Without a wait each would come later by itself, and out of order."""
    found = await Round("ab", "ab", Service(["take", 3]).send, Memory()).run([[0], [1]])

    assert [(at, why.wait_s > 0) for at, why in found.items() if isinstance(why, Unavailable)] == [(1, True)]


async def test_a_service_that_always_fails_is_not_asked_for_each_event() -> None:
    """500 from everywhere is the service; nothing is parked, nothing set aside, however long it takes."""
    queue = Queue(Service([-1] * 500))

    assert not await queue.settle(50)
    assert queue.failures == {}
    assert len(queue.service.sent) < 50 * (_MOST_NEW + 1)
    assert max(Counter(at for [at] in queue.service.sent).values()) < 50


async def test_an_event_that_always_fails_is_named_while_others_get_through() -> None:
    """After some patience; those behind it with its key then go on."""
    queue = Queue(Service([-1, "take", "take", "take"]), [1, 1, 2, 2])
    for _ in range(_PATIENCE - 1):
        await queue.write()
        assert queue.left == [0, 1]
        assert queue.service.taken == [2, 3]
    await queue.write()

    assert list(queue.failures) == [0]
    assert queue.service.taken == [2, 3, 1]


async def test_what_got_through_before_an_outage_proves_nothing_in_it() -> None:
    """An event that fails as the outage begins is not taken for the cause, however long it lasts."""
    queue = Queue(Service(["take", -1, "take"]))
    await queue.write()
    assert queue.left == [1]
    for _ in range(50):
        await queue.write()
        assert queue.failures == {}
    queue.service.left[1] = "take"
    await queue.write()

    assert queue.left == []


async def test_lanes_tell_each_other_that_the_service_works() -> None:
    """An event whose lane has no other conversation is told by those of the others."""
    service, memory = Service([-1]), Memory()
    for tries in range(1, 10):
        try:
            found = await Round("a", "a", service.send, memory).run([[0]])
            break
        except Unavailable:
            await Round([f"b{tries}"], "b", Service(["take"]).send, memory).run([[0]])

    assert tries == _PATIENCE
    assert list(found) == [0]


async def test_when_it_comes_back_alone_it_needs_no_patience_again() -> None:
    """Its retries do not hold up the others each time."""
    queue = Queue(Service([-1, "take", "take"]), [1, 2, 1])
    await queue.settle()
    assert list(queue.failures) == [0]
    queue.failures.clear()
    queue.service.taken.clear()
    queue.left = [0, 2]
    await queue.write()

    assert list(queue.failures) == [0]
    assert queue.service.taken == [2]


async def test_many_bad_events_in_front_do_not_hide_that_others_get_through() -> None:
    """What has failed before is asked last."""
    queue = Queue(Service([-1] * 40 + ["take"] * 10))

    assert await queue.settle(traffic=True)
    assert sorted(queue.failures) == list(range(40))
    assert sorted(queue.service.taken)[:10] == list(range(40, 50))


async def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many events fail."""
    monkeypatch.setattr("gateway.sinks.http_rounds._REMEMBERED", 10)
    memory = Memory()
    for number in range(100):
        memory.fail(number)

    assert len(memory._failed) == 10
    assert memory.fail(99).times == 2
    assert memory.fail(0).times == 1
