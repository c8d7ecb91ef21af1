"""Names and shapes of the broker objects, and the topic patterns, against obvious reference code."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.patterns import matches, narrowed
from gateway.topology import (
    RETRY_DELAYS_S,
    UNROUTED_BYTES,
    UNROUTED_TTL_MS,
    Topology,
    retry_delay_s,
)

SINKS = {"audit": ("#",), "exits": ("im.group.member.exited.#", "im.group.disbanded.*")}
EXCHANGES = pytest.mark.parametrize("exchange", ["im.events", "x.events", "odd"])
words = st.lists(st.sampled_from(["im", "group", "a", "", "*x"]), max_size=6)
parts = st.lists(st.sampled_from(["im", "group", "a", "", "*", "#"]), max_size=6)


def obvious(pattern: list[str], key: list[str]) -> bool:
    """Match word by word; # tries every number of words. Exponential, but plain."""
    if not pattern:
        return not key
    if pattern[0] == "#":
        return any(obvious(pattern[1:], key[count:]) for count in range(len(key) + 1))
    return bool(key) and pattern[0] in ("*", key[0]) and obvious(pattern[1:], key[1:])


@given(parts, words)
@example(["#"], [])
@example(["#", "#", "a", "#"], ["im", "a", "a"])
@example(["*"], [])
def test_matches_agrees_with_the_obvious_way(pattern: list[str], key: list[str]) -> None:
    """* takes one word, # any number, everything else itself."""
    # Why left out: [""] and [] are both written "", which RabbitMQ reads as no word.
    pattern, key = ([] if words == [""] else words for words in (pattern, key))

    assert matches(".".join(pattern), ".".join(key)) is obvious(pattern, key)


@pytest.mark.parametrize(
    ("pattern", "key", "is_match"),
    [
        ("im.group.#", "im.group", True),
        ("im.group.#", "im.group.member.exited.1400000000", True),
        ("im.group.*", "im.group", False),
        ("im.group.*", "im.group.created", True),
        ("im.group.*", "im.group.member.exited", False),
        ("#.1400000000", "im.group.created.1400000000", True),
        ("#.1400000000", "1400000000", True),
        ("#.1400000000", "im.group.created.14", False),
        ("im.gr*", "im.group", False),
        ("", "", True),
        ("*", "", False),
        ("im", "IM", False),
    ],
)
def test_matches_by_example(pattern: str, key: str, is_match: bool) -> None:
    """The patterns that people write do what RabbitMQ's manual says."""
    assert matches(pattern, key) is is_match


def test_many_hashes_take_no_exponential_time() -> None:
    """A pattern from the configuration can't hold up the forwarder."""
    assert not matches(".".join(["#", "a"] * 40), ".".join(["a"] * 39))


@given(st.lists(parts, min_size=1, max_size=3), st.sets(st.sampled_from(["a", "b"]), min_size=1), words)
@example([["#"]], {"a"}, ["a"])
@example([["im", "*", "#"]], {"a"}, ["im", "a"])
@example([["#", "*", "#", "#"]], {"a"}, ["im", "a"])
@example([["im", "#", "a"]], {"a", "b"}, ["im", "b"])
def test_narrowed_is_patterns_and_apps_together(
    patterns: list[list[str]], apps: set[str], key: list[str]
) -> None:
    """A key is matched when one of the patterns matches it and its last word is one of the apps."""
    texts = [".".join(words) for words in patterns if words != [""]] or ["#"]
    routing_key = ".".join(key)
    expected = any(matches(one, routing_key) for one in texts) and routing_key.split(".")[-1] in apps

    assert any(matches(one, routing_key) for one in narrowed(texts, sorted(apps))) is expected


@pytest.mark.parametrize(
    ("patterns", "apps", "expected"),
    [
        (["#"], [], ["#"]),
        (["im.group.#"], ["14", "15"], ["im.group.#.14", "im.group.#.15"]),
        (["im.group.member.*.*"], ["14"], ["im.group.member.*.14"]),
        (["im.group.#.14", "im.group.#"], ["14"], ["im.group.#.14"]),
        (["im.*.#"], ["14"], ["im.*.#.14", "im.14"]),
        (["im.group.#.15"], ["14"], []),
    ],
)
def test_narrowed_by_example(patterns: list[str], apps: list[str], expected: list[str]) -> None:
    """What people write becomes what they would bind by hand."""
    assert narrowed(patterns, apps) == tuple(expected)


def test_names_of_the_default_exchange() -> None:
    """The names are those that operators and alerts know."""
    topology = Topology.of("im.events", SINKS)
    exits = topology.sink("exits")

    assert topology.events == "im.events"
    assert topology.unrouted == "im.unrouted"
    assert exits.exchange == exits.queue == "im.sink.exits"
    assert exits.dead == "im.sink.exits.dead"
    assert exits.retry_queue(30) == "im.sink.exits.retry.30s"


def test_names_derive_from_another_exchange() -> None:
    """Two gateways may share a virtual host, so no name of one may be a name of the other."""
    ours, theirs = (Topology.of(exchange, SINKS) for exchange in ("im.events", "x.events"))

    assert theirs.unrouted == "x.unrouted"
    assert theirs.sink("exits").queue == "x.sink.exits"
    assert not {queue.name for queue in ours.queues()} & {queue.name for queue in theirs.queues()}
    assert not {it.name for it in ours.exchanges()} & {it.name for it in theirs.exchanges()}


def test_unknown_sink() -> None:
    """Asking for a sink that the configuration does not have is a KeyError with its name."""
    with pytest.raises(KeyError, match="nobody"):
        Topology.of("im.events", SINKS).sink("nobody")


@EXCHANGES
def test_every_queue_is_quorum_with_a_delivery_limit(exchange: str) -> None:
    """RabbitMQ 4 would drop an event after 20 returns without one, 3.10 at the first with -1."""
    queues = list(Topology.of(exchange, SINKS).queues())

    assert all(queue.arguments["x-queue-type"] == "quorum" for queue in queues)
    assert all(queue.arguments["x-delivery-limit"] == 1_000_000 for queue in queues)


@EXCHANGES
def test_only_unrouted_is_bounded(exchange: str) -> None:
    """A limit on a sink's queue would lose events or hold up all other sinks."""
    topology = Topology.of(exchange, SINKS)
    bounded = {"x-max-length", "x-max-length-bytes", "x-message-ttl", "x-expires"}
    found = {queue.name: set(queue.arguments) & bounded for queue in topology.queues()}
    unrouted = next(queue for queue in topology.queues() if queue.name == topology.unrouted)

    assert {name for name, limits in found.items() if limits} == {topology.unrouted}
    assert unrouted.arguments["x-max-length-bytes"] == UNROUTED_BYTES == 268_435_456
    assert unrouted.arguments["x-message-ttl"] == UNROUTED_TTL_MS == 604_800_000
    assert unrouted.arguments["x-overflow"] == "drop-head"


@EXCHANGES
def test_retry_queues_lead_back_without_loss(exchange: str) -> None:
    """An event whose delay is over goes to its own sink only, and is kept until it has come there."""
    topology = Topology.of(exchange, SINKS)
    arguments = {queue.name: queue.arguments for queue in topology.queues()}
    for sink, delay_s in itertools.product(topology.sinks, RETRY_DELAYS_S):
        back = arguments[sink.retry_queue(delay_s)]

        assert back["x-dead-letter-exchange"] == sink.exchange
        assert back["x-dead-letter-strategy"] == "at-least-once"
        assert back["x-overflow"] == "reject-publish"


@EXCHANGES
def test_every_exchange_but_unrouted_has_the_alternate(exchange: str) -> None:
    """What no queue takes stands in the unrouted queue, wherever it got lost; nothing circles."""
    topology = Topology.of(exchange, SINKS)
    first, *others = topology.exchanges()

    assert (first.name, first.kind, dict(first.arguments)) == (topology.unrouted, "fanout", {})
    assert all(dict(it.arguments) == {"alternate-exchange": topology.unrouted} for it in others)
    assert {it.name: it.kind for it in others} == {
        exchange: "topic",
        topology.sink("audit").exchange: "fanout",
        topology.sink("exits").exchange: "fanout",
    }


@EXCHANGES
def test_only_sink_exchanges_are_bound_to_events(exchange: str) -> None:
    """A queue bound to events itself would take events away from the alternate exchange."""
    topology = Topology.of(exchange, SINKS)
    bound = [binding for binding in topology.bindings() if binding.source == exchange]

    assert not any(binding.to_queue for binding in bound)
    assert {(it.destination, it.routing_key) for it in bound} == {
        (topology.sink(name).exchange, pattern) for name, patterns in SINKS.items() for pattern in patterns
    }


@EXCHANGES
def test_each_exchange_is_drained_before_it_is_fed(exchange: str) -> None:
    """While the topology is being declared, no event gets into an exchange that leads nowhere yet."""
    topology = Topology.of(exchange, SINKS)
    drained = set()
    for binding in topology.bindings():
        assert binding.to_queue or binding.destination in drained
        drained.add(binding.source)

    assert {it.name for it in topology.exchanges()} == drained
    assert {it.destination for it in topology.bindings() if it.to_queue} <= {
        queue.name for queue in topology.queues()
    }


def test_takers_are_in_the_order_of_the_configuration_and_each_once() -> None:
    """A sink with two patterns that match gets the event once, as an exchange would give it."""
    topology = Topology.of("im.events", {"b": ("im.#", "#.14"), "a": ("im.group.#",), "c": ("im.user.#",)})

    assert [sink.name for sink in topology.takers("im.group.created.14")] == ["b", "a"]
    assert topology.takers("other.15") == []


def test_no_sinks() -> None:
    """A gateway without sinks keeps everything in the unrouted queue."""
    topology = Topology.of("im.events", {})

    assert [queue.name for queue in topology.queues()] == ["im.unrouted"]
    assert [(it.source, it.destination) for it in topology.bindings()] == [("im.unrouted", "im.unrouted")]


@given(st.integers(-5, 100))
def test_retry_delay_never_shrinks(attempt: int) -> None:
    """Each attempt waits at least as long as the one before, from 5 seconds to 2 hours."""
    assert 5 <= retry_delay_s(attempt) <= retry_delay_s(attempt + 1) <= 7200


def test_retry_delays_are_queues() -> None:
    """Every delay has its queue, and the first three attempts the first three delays."""
    assert [retry_delay_s(attempt) for attempt in (1, 2, 3, 5, 6)] == [5, 30, 300, 7200, 7200]
    assert {retry_delay_s(attempt) for attempt in range(1, 50)} == set(RETRY_DELAYS_S)


def test_a_sink_with_partitions_has_queues_that_serve_one_worker_each() -> None:
    """Behind its exchange stands one that spreads by key, with the alternate exchange that all have."""
    topology = Topology.of("im.events", SINKS, {"exits": 3})
    sink = topology.sink("exits")
    exchanges = {exchange.name: exchange for exchange in topology.exchanges()}
    queues = {queue.name: queue.arguments for queue in topology.queues()}
    bindings = [(one.source, one.destination, one.routing_key) for one in topology.bindings()]

    assert sink.queues == ("im.sink.exits.p3.0", "im.sink.exits.p3.1", "im.sink.exits.p3.2")
    assert exchanges["im.sink.exits"].kind == "fanout"
    assert exchanges["im.sink.exits.p3"].kind == "x-consistent-hash"
    assert exchanges["im.sink.exits.p3"].arguments == {
        "alternate-exchange": "im.unrouted",
        "hash-header": "partitionkey",
    }
    assert all(queues[name]["x-single-active-consumer"] is True for name in sink.queues)
    assert "im.sink.exits" not in queues
    assert "x-single-active-consumer" not in queues["im.sink.exits.workers"]
    assert "im.sink.audit.workers" not in queues
    feed = bindings.index(("im.sink.exits", "im.sink.exits.p3", ""))
    assert [bindings[at] for at in range(feed - 3, feed)] == [
        ("im.sink.exits.p3", name, "1") for name in sink.queues
    ]


def test_generations_have_queues_of_their_own() -> None:
    """Whatever the numbers were before, no queue belongs to two of them."""
    sink = Topology.of("im.events", SINKS).sink("exits")
    names = [name for number in range(1, 65) for name in sink.generation(number)]

    assert len(names) == len(set(names))
    assert sink.generation(1) == (sink.queue,)
