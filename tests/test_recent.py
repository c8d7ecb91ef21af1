"""The ring of the last events: numbers, order, bound."""

from gateway.recent import Recent


def test_the_newest_come_first_and_have_numbers():
    """Numbers count from the start; what was asked for is what stands behind a number."""
    recent = Recent()
    recent.note([b"a", b"b"])
    recent.note([b"c"])

    assert recent.newest() == [(3, b"c"), (2, b"b"), (1, b"a")]
    assert recent.newest(1) == [(3, b"c"), (2, b"b")]
    assert recent.newest(2) == [(3, b"c")]
    assert recent.newest(3) == []


def test_the_oldest_go_when_there_is_no_room():
    """Bytes count; the last batch stays, however large; numbers go on."""
    recent = Recent(max_bytes=10)
    for letter in b"abc":
        recent.note([bytes([letter]) * 5])
    kept = recent.newest()
    recent.note([b"x" * 50])

    assert kept == [(3, b"ccccc"), (2, b"bbbbb")]
    assert [number for number, _ in recent.newest()] == [4]
    assert recent.count == 4


def test_a_batch_of_nothing_changes_nothing():
    """A batch whose callbacks make no events."""
    recent = Recent()
    recent.note([])

    assert (recent.newest(), recent.count) == ([], 0)
