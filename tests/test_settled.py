"""Files that change: told once they stand still."""

import os

import pytest

from gateway.settled import Settled


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "file"
    found.write_text("old")
    return found


def test_a_change_is_told_once_it_stands_still(path):
    """At each look until it is taken."""
    watch = Settled(path)
    assert [watch.look(), watch.look()] == [False, False]

    path.write_text("newer")
    assert [watch.look(), watch.look(), watch.look()] == [False, True, True]
    watch.take()
    assert not watch.look()


def test_a_file_that_keeps_changing_is_not_told(path):
    """Whoever writes it has not finished."""
    watch = Settled(path)
    for size in range(5, 10):
        path.write_text("x" * size)
        assert not watch.look()

    assert watch.look()


def test_all_files_have_to_stand_still(path, tmp_path):
    """A certificate and its key are one thing."""
    other = tmp_path / "other"
    watch = Settled(path, other)
    path.write_text("newer")
    watch.look()
    other.write_text("there now")

    assert [watch.look(), watch.look()] == [False, True]


def test_a_file_that_is_gone_has_changed(path):
    """And one that is back as it was has not."""
    watch = Settled(path)
    path.rename(path.with_name("aside"))
    assert [watch.look(), watch.look()] == [False, True]

    watch.take()
    path.write_text("back")
    assert [watch.look(), watch.look()] == [False, True]


def test_a_link_set_to_another_file_has_changed(tmp_path):
    """Kubernetes swaps a link to a folder of secrets, whose files keep their names and sizes."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokens").write_text(name)
    data, fresh = tmp_path / "..data", tmp_path / "..data_tmp"
    data.symlink_to("one")
    path = tmp_path / "tokens"
    path.symlink_to("..data/tokens")
    watch = Settled(path)
    fresh.symlink_to("two")
    os.replace(fresh, data)

    assert [watch.look(), watch.look()] == [False, True]


def test_the_time_of_a_file_may_be_set_back(path):
    """Tools that copy times make a new content look old."""
    before = path.stat()
    watch = Settled(path)
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # until the clock of the file system has moved
        path.write_text("new")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert [watch.look(), watch.look()] == [False, True]
