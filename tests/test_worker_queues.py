"""What waits in a lane, against plain lists."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.broker import Delivery
from gateway.worker.queues import Conversations, Row

MEGABYTE = 1_048_576
KEYS = st.sampled_from("abc")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(KEYS, max_size=5)),
        st.tuples(st.just("take"), st.integers(1, 4), st.lists(st.booleans(), min_size=4, max_size=4)),
        st.tuples(st.just("wait"), st.floats(0, 20)),
    ),
    max_size=40,
)


def delivery(number: int, key: str = "a", size_bytes: int = 1) -> Delivery:
    return Delivery(b"x" * size_bytes, 1, number, headers={"partitionkey": key})


@given(steps)
def test_conversations_keep_each_order_whatever_fails(steps: list[tuple]) -> None:
    """Of each key one event at a time, and the next only when that one is settled."""
    queue, now_s, number = Conversations(), 0.0, 0
    waiting: dict[str, list[int]] = {key: [] for key in "abc"}
    for step in steps:
        if step[0] == "wait":
            now_s += step[1]
        elif step[0] == "add":
            queue.add([delivery(number + at, key) for at, key in enumerate(step[1])], now_s)
            for at, key in enumerate(step[1]):
                waiting[key].append(number + at)
            number += len(step[1])
        else:
            since_s, part = queue.take(step[1], now_s)
            keys = [one.key for one in part]
            assert len(set(keys)) == len(keys) <= step[1]
            assert since_s <= now_s
            for one, fails in zip(part, step[2], strict=False):
                assert one.tag == waiting[one.key][0]
                if fails:
                    assert queue.failed(one, since_s, now_s) >= 0
                else:
                    queue.settled(one)
                    del waiting[one.key][0]
        assert len(queue) == sum(map(len, waiting.values()))
        assert (queue.ready_in(now_s) is None) == (len(queue) == 0)
    for key, left in waiting.items():
        assert [one.tag for one in queue.remove(key)] == left
    assert len(queue) == 0


def test_a_conversation_that_fails_waits_longer_each_time() -> None:
    """At most 15 seconds; the time since its first failure counts."""
    queue, now_s = Conversations(), 100.0
    queue.add([delivery(1)], now_s)
    waits = []
    for _ in range(12):
        since_s, [one] = queue.take(10, now_s)
        fails_s = queue.failed(one, since_s, now_s)
        waits.append(queue.ready_in(now_s) or 0.0)
        now_s += waits[-1]

    assert waits[0] < 0.21
    assert 7 < waits[-1] <= 15
    assert fails_s == sum(waits[:-1])
    assert queue.held == 1
    assert queue.oldest_s == 100.0


def test_each_conversation_has_its_turn() -> None:
    """One that has many events does not keep the others from the next part."""
    queue = Conversations()
    queue.add([delivery(n, "a") for n in range(5)] + [delivery(5, "b")], 0.0)
    _, [first] = queue.take(1, 0.0)
    queue.settled(first)
    _, [second] = queue.take(1, 0.0)

    assert (first.key, second.key) == ("a", "b")


def test_a_part_has_a_megabyte_or_one_event() -> None:
    """Both queues bound it."""
    sizes = [600_000, 600_000, 3 * MEGABYTE, 10]
    row, conversations = Row(), Conversations()
    for queue in (row, conversations):
        queue.add([delivery(n, str(n), size) for n, size in enumerate(sizes)], 0.0)
        parts = []
        while queue.ready_in(0.0) == 0:
            parts.append([one.tag for one in queue.take(10, 0.0)[1]])

        assert parts == [[0], [1], [2], [3]]


def test_a_row_joins_and_divides_what_came() -> None:
    """In order, as many as are asked for; the time is that of the oldest, or older."""
    row = Row()
    row.add([delivery(n) for n in range(3)], 1.0)
    row.add([delivery(n) for n in range(3, 8)], 2.0)
    taken = [row.take(5, 3.0), row.take(5, 3.0)]

    assert [since_s for since_s, _ in taken] == [1.0, 1.0]
    assert [[one.tag for one in part] for _, part in taken] == [[0, 1, 2, 3, 4], [5, 6, 7]]
    assert len(row) == 0
