"""Records as bytes: what goes in comes out; damage is noticed and costs no neighbour."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import record
from gateway.callback import Callback
from gateway.record import HEADER_BYTES, MAGIC, MAX_POSITION, Found, Gap, Salt, Scanner

SALT = Salt.of(bytes(range(16)))
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
CALLBACKS = st.builds(
    Callback,
    app_id=ANY_TEXT,
    query=ANY_TEXT,
    body=st.binary(max_size=200) | st.binary(max_size=20).map(lambda body: MAGIC + body),
    peer=ANY_TEXT,
    received_ms=st.integers(-(2**63), 2**63 - 1),
    verified=st.booleans(),
    id_recipe=st.integers(0, 65535),
    id_window_s=st.integers(0, 2**32 - 1),
)
POSITIONS = st.integers(1, MAX_POSITION)


def callback(body: bytes = b'{"a":1}', *, verified: bool = False) -> Callback:
    return Callback("1400000000", "SdkAppid=1400000000", body, "192.0.2.1", 1700000000123, verified, 1, 10)


def scan(
    data: bytes, end: int | None = None, after: int = 0, before: int = MAX_POSITION + 1
) -> list[Found | Gap]:
    """Return all steps over *data*, with the bound moving up as a reader does it."""
    scanner = Scanner(lambda at, count: data[at : at + count], SALT)
    steps: list[Found | Gap] = []
    while (step := scanner.step(len(data) if end is None else end, after, before)) is not None:
        steps.append(step)
        after = step.position if isinstance(step, Found) else after
    return steps


def positions(steps: list[Found | Gap]) -> list[int]:
    return [step.position for step in steps if isinstance(step, Found)]


def journal_of(*bodies: bytes) -> tuple[bytes, list[int]]:
    """Return records 1, 2, … and the offset at which each ends."""
    data, ends = b"", []
    for position, body in enumerate(bodies, 1):
        data += record.encode(position, callback(body), SALT)
        ends.append(len(data))
    return data, ends


@given(POSITIONS, CALLBACKS)
def test_a_record_comes_out_as_it_went_in(position: int, stored: Callback) -> None:
    """Every field survives, lone surrogates and arbitrary bytes included."""
    data = record.encode(position, stored, SALT)
    (found,) = scan(data)

    assert isinstance(found, Found)
    assert (found.position, found.at, found.end) == (position, 0, len(data))
    assert record.unpack(found.payload) == stored


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.data())
def test_a_cut_costs_only_the_record_it_goes_through(bodies: list[bytes], data: st.DataObject) -> None:
    """Whatever is complete before the cut comes out; the rest is one gap."""
    whole, ends = journal_of(*bodies)
    cut = data.draw(st.integers(0, len(whole)))
    steps = scan(whole[:cut])

    complete = [end for end in ends if end <= cut]
    assert positions(steps) == list(range(1, len(complete) + 1))
    last = complete[-1] if complete else 0
    assert [step for step in steps if isinstance(step, Gap)] == ([Gap(last, cut)] if last < cut else [])


def test_every_flipped_bit_is_noticed_and_costs_one_record() -> None:
    """Magic, length, position, checksums, fields, body: no bit may change unseen."""
    whole, ends = journal_of(b'{"a":1}', b"", b'{"b":[2,3]}')
    for at in range(len(whole)):
        hit = sum(end <= at for end in ends) + 1
        for bit in range(8):
            bad = bytearray(whole)
            bad[at] ^= 1 << bit
            steps = scan(bytes(bad))

            assert positions(steps) == [position for position in (1, 2, 3) if position != hit]
            (gap,) = [step for step in steps if isinstance(step, Gap)]
            assert gap == Gap(ends[hit - 2] if hit > 1 else 0, ends[hit - 1])


@given(st.binary(max_size=60), st.integers(0, 3))
@example(MAGIC, 1)
@example(MAGIC[:3], 0)
def test_garbage_between_records_is_one_gap(garbage: bytes, before: int) -> None:
    """Bytes that never were a record are passed over, and every record around them comes out."""
    whole, ends = journal_of(b"x", b"y", b"z")
    place = [0, *ends][before]
    steps = scan(whole[:place] + garbage + whole[place:])

    assert positions(steps) == [1, 2, 3]
    assert [step for step in steps if isinstance(step, Gap)] == (
        [Gap(place, place + len(garbage))] if garbage else []
    )


@given(st.binary(min_size=16, max_size=16).filter(lambda guess: Salt.of(guess) != SALT))
def test_a_forged_record_in_a_body_is_not_accepted(guess: bytes) -> None:
    """A stranger's body holds a whole "verified" record; damage in front of it must not bring it to life."""
    forged = record.encode(2, callback(b"forged", verified=True), Salt.of(guess))
    whole, _ = journal_of(b"{" + forged + b"}", b"next")
    bad = bytearray(whole)
    bad[4] ^= 1
    steps = scan(bytes(bad))

    assert positions(steps) == [2]
    found = steps[-1]
    assert isinstance(found, Found)
    assert record.unpack(found.payload) == callback(b"next")


def test_a_forged_header_with_a_true_checksum_still_needs_the_payloads() -> None:
    """The two checksums have secrets of their own."""
    half_known = Salt(SALT.header, SALT.payload ^ 1)
    data = record.encode(1, callback(), half_known)

    assert scan(data) == [Gap(0, len(data))]


def test_implausible_positions_are_damage() -> None:
    """An old copy, or a record of a segment further on, does not count even with good checksums."""
    stale = record.encode(3, callback(b"stale"), SALT)
    future = record.encode(9, callback(b"future"), SALT)
    good = record.encode(5, callback(b"good"), SALT)
    steps = scan(stale + good + future, after=4, before=9)

    assert positions(steps) == [5]
    assert isinstance(steps[0], Gap)
    assert isinstance(steps[2], Gap)


def test_a_record_that_reaches_over_the_end_is_not_read() -> None:
    """Bytes that are not durable yet stay unread, and are read once the end has moved."""
    whole, ends = journal_of(b"one", b"two")
    scanner = Scanner(lambda at, count: whole[at : at + count], SALT)

    first = scanner.step(ends[0])
    assert isinstance(first, Found)
    assert scanner.step(ends[0]) is None
    second = scanner.step(ends[1], first.position)
    assert isinstance(second, Found)
    assert second.position == 2


def test_a_file_that_is_shorter_than_said_ends_in_a_gap() -> None:
    """A file cut from outside gives what is left, not an endless search."""
    whole, ends = journal_of(b"one", b"two")

    assert scan(whole[: ends[0] + 30], end=len(whole)) == [scan(whole)[0], Gap(ends[0], len(whole))]
    assert scan(whole[: ends[0] + 3], end=len(whole)) == [scan(whole)[0], Gap(ends[0], len(whole))]


def test_records_and_damage_larger_than_the_window() -> None:
    """Neither a long body nor a long gap depends on what is read at once."""
    long = bytes(record.WINDOW_BYTES * 2)
    whole, ends = journal_of(long, b"small", b"tail")
    shifted = long + MAGIC[:2] + whole

    assert positions(scan(whole)) == [1, 2, 3]
    assert scan(shifted)[0] == Gap(0, len(long) + 2)
    assert positions(scan(shifted)) == [1, 2, 3]
    bad = bytearray(whole)
    bad[ends[0] - 1] ^= 1
    assert positions(scan(bytes(bad))) == [2, 3]


def test_peek_does_not_move() -> None:
    """A hint can be tried without losing the place."""
    whole, ends = journal_of(b"one", b"two")
    scanner = Scanner(lambda at, count: whole[at : at + count], SALT)

    second = scanner.peek(ends[0], len(whole))
    assert second is not None
    assert second.position == 2
    assert scanner.peek(ends[0] + 1, len(whole)) is None
    assert scanner.peek(len(whole) + 50, len(whole)) is None
    assert scanner.at == 0
    assert scanner.step(len(whole)) is not None


def test_many_false_magics_cost_little() -> None:
    """A body full of magics that claim to be long is passed in linear time."""
    claim = MAGIC + (1 << 20).to_bytes(4, "big") + (2).to_bytes(8, "big") + bytes(8)
    whole, _ = journal_of(claim * 20_000, b"next")
    bad = bytearray(whole)
    bad[0] ^= 1

    assert positions(scan(bytes(bad))) == [2]


@pytest.mark.parametrize(
    "change",
    [
        {"id_recipe": -1},
        {"id_recipe": 65536},
        {"id_window_s": 2**32},
        {"received_ms": 2**63},
        {"peer": "p" * 65536},
    ],
)
def test_a_field_out_of_range_is_refused_before_anything_is_written(change: dict[str, object]) -> None:
    """The caller gets ValueError; the writer never sees it."""
    with pytest.raises(ValueError, match="does not fit"):
        record.pack(callback()._replace(**change))  # type: ignore[arg-type]


def test_another_format_version_is_no_callback() -> None:
    """A record of a newer release is not damage, so it must not be skipped as such."""
    payload = bytearray(record.pack(callback()))
    payload[0] += 1

    with pytest.raises(ValueError, match="format version 2"):
        record.unpack(bytes(payload))


def test_the_header_is_as_long_as_told() -> None:
    """Readers of the format rely on 24 bytes."""
    assert HEADER_BYTES == 24
    assert len(record.encode(1, callback(b""), SALT)) == 24 + len(record.pack(callback(b"")))
