"""What is said of a backlog: each level once, how long the room lasts, and a reminder at growing intervals."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.waiting import LEVELS, MB, Levels, Waiting, Watch

CAPACITY = 4096 * MB


def waiting(now_s=0.0, count=0, oldest_s=0.0, capacity=CAPACITY, fault=""):
    return Waiting(now_s, count // 500, count, capacity, oldest_s, fault)


def said(watch, *moments):
    return [sentence for moment in moments for _, sentence in watch.look(moment)]


def test_each_level_is_named_once_on_the_way_up():
    """A warning for every second above 50 % would hide the one that matters."""
    levels = Levels()

    assert [levels.crossed(share) for share in (0.4, 0.5, 0.6, 0.75, 0.74, 0.76, 0.9, 1.0)] == [
        None, 0.5, None, 0.75, None, None, 0.9, None,
    ]  # fmt: skip


def test_a_level_is_named_again_only_after_the_share_fell_well_below_it():
    """A share that wavers around a level says nothing new."""
    levels = Levels()

    assert levels.crossed(0.8) == 0.75
    assert [levels.crossed(share) for share in (0.7, 0.76, 0.66, 0.8)] == [None] * 4
    assert [levels.crossed(share) for share in (0.64, 0.76, 0.95)] == [None, 0.75, 0.9]
    assert [levels.crossed(share) for share in (0.1, 0.6)] == [None, 0.5]


@given(st.lists(st.floats(0, 1.2), max_size=60))
def test_between_two_namings_of_a_level_the_share_was_below_it(shares):
    """Whatever the way: never twice without having been 10 points under the level meanwhile."""
    levels, lowest = Levels(), dict.fromkeys(LEVELS, 0.0)
    for share in shares:
        named = levels.crossed(share)
        lowest = {level: min(least, share) for level, least in lowest.items()}
        if named is not None:
            assert share >= named
            assert lowest[named] < named - 0.1 + 1e-9
            lowest[named] = 2.0


def test_a_filling_journal_is_told_with_the_time_it_lasts():
    """What it means and what to do stand in the same line."""
    watch = Watch(4096, 512)
    at = CAPACITY * 3 // 4
    moments = [waiting(second, at - (10 - second) * 100_000) for second in range(11)]

    _, sentence = said(watch, *moments)

    assert "75% full: 3,072 MB of 4,096 MB (journal.max_mb) wait for the broker" in sentence
    assert "there is room for about 3 h more at the present rate" in sentence
    assert "refused with 503" in sentence
    assert sentence.endswith("Mend the broker, or raise journal.max_mb")
    assert "75% full" in watch.note


def test_a_disk_that_is_nearly_full_is_told_as_such():
    """Raising max_mb would not help there."""
    watch = Watch(4096, 512)

    disk, filling = said(watch, waiting(0, 950 * MB, capacity=1000 * MB))

    assert "room for 1,000 MB of callbacks, though journal.max_mb is 4096" in disk
    assert "95% full: 950 MB of 1,000 MB (the disk, less journal.min_free_mb 512)" in filling
    assert filling.endswith("Mend the broker, or make room on the disk")
    assert said(watch, waiting(1, 950 * MB, capacity=1000 * MB)) == []


def test_without_any_room_nothing_is_divided_by_it():
    """A disk without a byte left: full as soon as one callback waits."""
    assert waiting(0, 0, capacity=0).share == 0
    assert waiting(0, 1, capacity=0).share == 1


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (0, "wait on disk, the oldest for about 2 min"),
        (-1_000_000, "; they become fewer, and at the present rate are gone in about 33 min"),
    ],
)
def test_a_journal_that_does_not_fill_is_not_said_to(rate, words):
    """It stands still, or is on its way down: no time until it is full is invented."""
    watch = Watch(4096, 512)
    said(watch, *(waiting(second, 2_000_000_000 - rate * (10 - second)) for second in range(10)))

    [sentence] = said(watch, waiting(10, 2_000_000_000, oldest_s=100))

    assert sentence.endswith(words)


def test_the_rate_is_that_of_the_last_minute():
    """Hours at another rate before it do not count."""
    watch = Watch(4096, 512)
    for second in range(0, 3600, 10):
        watch.look(waiting(second, second * 10_000))
    for second in range(3600, 3700, 10):
        watch.look(waiting(second, 36_000_000 + (second - 3600) * 100_000))

    [sentence] = said(watch, waiting(3700, 46_000_000, oldest_s=3700))

    left_h = (CAPACITY - 46_000_000) / 100_000 / 3600
    assert f"about {left_h:.0f} h more" in sentence


def test_a_long_backlog_is_told_at_growing_intervals():
    """A minute after it began, then 1, 2, 4, … minutes later, each hour in the end; its end is told too."""
    watch = Watch(4096, 512)
    told = [
        second
        for second in range(4 * 3600)
        if watch.look(waiting(1000 + second, second * 500, oldest_s=second, fault="refused"))
    ]

    assert told == [60, 120, 240, 480, 960, 1920, 3840, 7440, 11040]
    [(level, sentence)] = watch.look(waiting(20_000, 0, oldest_s=0))
    assert level == logging.INFO
    assert "with the broker" in sentence
    assert watch.look(waiting(20_001, 0, oldest_s=0)) == []
    assert len(watch.look(waiting(20_002, 500, oldest_s=60))) == 1


def test_the_reminder_names_fault_number_and_age():
    """The same words as in the line that told of the fault."""
    watch = Watch(4096, 512)

    [sentence] = said(watch, waiting(0, 412 * 500, oldest_s=7300, fault="refused"))

    assert sentence == (
        "The broker takes no events (refused): 412 callbacks (0.2 MB) wait on disk, the oldest for about 2 h"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "less than a minute"),
        (60, "about a minute"),
        (90, "about 2 min"),
        (3600, "about 60 min"),
        (7200, "about 2 h"),
        (100_000, "about 28 h"),
        (200_000, "about 2 days"),
    ],
)
def test_times_are_rounded_as_people_say_them(seconds, words):
    """The unit fits the size."""
    watch = Watch(4096, 512)
    said(watch, *(waiting(second, second * 1000) for second in range(10)))

    [sentence] = said(watch, waiting(10, 10_000, capacity=10_000 + 1000 * seconds, oldest_s=60))[-1:]

    assert f"room for {words} more" in sentence
