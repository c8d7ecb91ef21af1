"""What was asked of one journal over many lives of its process, and what must therefore be in it."""

import asyncio
import errno
import json
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from unittest import mock

from gateway import config
from gateway.callback import Callback
from gateway.errors import ConfigError, FatalError, JournalFull
from gateway.journal import Journal, open_readonly
from gateway.metrics import Metrics
from tests.models.disk import Disk
from tests.models.world import Clock, Died, World
from tests.test_journal import read_all, sample

KB = 1024
WRITTEN_S = 0.101
"""After this, what was only written is durable too."""
KILLED_S, CUT_S = 0.06, 1.1
"""What is confirmed for longer than this the next process knows, after a kill and after a power cut."""


@dataclass(frozen=True)
class Death:
    """How a life ends: at which call to the disk, and whether the machine goes down with the process."""

    at_call: int = 0
    """Counted from the start of that life, or from when it was told; 0: not by itself."""
    part: float = 0.0
    """How much of a write at which it happens is done."""
    cut: tuple[str, str] | None = None
    """What a power cut leaves of data and names; None: the process is killed, the page cache stays."""
    seed: int = 0


class History:
    """Drives a journal in the folder *base*, and knows what it owes. Segments have some KiB, to roll often."""

    def __init__(self, base, **limits):
        self.clock = Clock()
        self.disk = Disk(base)
        few = {"dir": base / "journal", "min_free_mb": 0, "max_mb": 16, "segment_mb": 2, "retain_mb": 3}
        self.limits = config.Journal(**{**few, **limits})
        self.world = self.journal = self.metrics = None
        self.lives = 0
        self.name = ""
        self.submitted = {}
        self.durable = {}
        """Callbacks by position: they have to be there until they are confirmed, whatever happens."""
        self.written = {}
        """Callback and time by position: written, and not synced yet."""
        self.lost = set()
        """Positions that a power cut has left out before later ones; nobody was told of them."""
        self.confirmed = 0
        self.confirms = []
        """Time and position of each confirm."""
        self.pending = []
        """Future, callback, whether it waits for the sync, and the head before."""
        self.deaths = []
        """To come, one after the other."""
        self.has_failed = False
        """A sync has failed in this life."""
        self.is_cursor_kept = False
        """Nothing has kept this life from writing its cursor."""
        self._always, self._life = ExitStack(), ExitStack()
        self._always.enter_context(self.disk.in_force())
        no_warning = mock.patch("gateway.journal.recovery.filesystem_warning", return_value=None)
        self._always.enter_context(no_warning)
        for module in ("room", "writer"):
            self._always.enter_context(mock.patch(f"gateway.journal.{module}.MB", KB))
        self._always.enter_context(mock.patch("gateway.journal.writer.LEAST_SEGMENTS", 4))

    # One life after the other

    def open(self, *deaths):
        """Start a process on the folder, as often as it takes, and compare. *deaths* ended the last ones."""
        while True:
            try:
                self.journal = self._start()
                self._compare(deaths)
                break
            except Died:
                deaths = (*deaths, self._bury())
        self.has_failed, self.is_cursor_kept = False, not self.disk.full

    def do(self, work):
        """Return what *work* returns; None when the process died of it, and the next one was started."""
        try:
            result = self.world.run(work)
        except Died:
            result = None
        self._settle()
        if self.disk.is_dead:
            self.restart()
            return None
        return result

    def restart(self):
        """Let the process die now, and start the next one."""
        self._settle()
        self.open(self._bury())

    def close(self):
        """Stop the process in order, and start the next one; it may die of that too."""
        self.do(self.journal.close())
        if self.journal._intake._is_closing:
            self.world.kill()
            self._life.close()
            self.disk.restart()
            self.open()

    def end(self):
        """Release everything, whatever state it is in."""
        if self.world is not None and not self.world.loop.is_closed():
            self._bury()
        self._always.close()

    def tell(self, deaths):
        """Make the process die as the first of *deaths* says, the next one as the second, and so on."""
        self.deaths = list(deaths)
        self._arm()

    def _arm(self):
        death = self.deaths[0] if self.deaths else Death()
        self.disk.die_in, self.disk.die_part = death.at_call, death.part

    def _start(self):
        self._arm()
        self.lives += 1
        self.world = world = World(self.clock, self.disk)
        self.disk.on_call = lambda: world.writer and world.writer.called()
        self._life.enter_context(world.in_force())
        self.metrics = Metrics()
        self.base = self._cursor_on_disk()
        try:
            return world.run(self._open())
        except ConfigError:
            # Without room there may be nothing to start with; to go on with what is stored needs none.
            assert self.disk.full
            assert not self.durable
            self.fill(0)
            raise Died from None

    async def _open(self):
        return Journal.open(self.limits, self.metrics, self.clock.now_ms)

    def _bury(self):
        """Clear the dead process away; return how it died."""
        death = self.deaths.pop(0) if self.deaths else Death()
        if self.has_failed and not death.cut:
            # The kernel holds the pages for clean, and may forget them at any time.
            death = Death(cut=("all", "all"))
        self.world.kill()
        self._life.close()
        self.pending.clear()
        if death.cut:
            self.disk.cut_power(Random(death.seed), *death.cut)
        else:
            self.disk.restart()
        return death

    def _cursor_on_disk(self):
        try:
            reader = open_readonly(self.limits.dir)
        except ConfigError:
            assert not self.durable
            return 0
        return reader.cursor or (reader.segments[0].first - 1 if reader.segments else 0)

    # What is asked

    def append(self, sizes, *, durable=True):
        """Hand one callback for each of *sizes* (bytes of padding) to the journal; does not wait."""
        for size in sizes:
            body = json.dumps({"pad": "x" * size}).encode()
            self.hand_over(
                Callback("14", "a=b", body, "192.0.2.1", self.next_number(), True, 1, 10), durable=durable
            )

    def next_number(self):
        """Return what the next callback has as its time of receipt, by which it is known."""
        return len(self.submitted) + 1

    def hand_over(self, callback, *, durable):
        """Hand *callback* to the journal; does not wait."""
        self.submitted[callback.received_ms] = callback
        try:
            future = self.journal.append(callback, durable=durable)
            self.pending.append((future, callback, durable, self.journal.head))
        except JournalFull:
            assert self.journal.is_full
        except FatalError:
            assert self.has_failed

    async def answers(self):
        """Return when everything that was handed over is answered."""
        if self.pending:
            await asyncio.wait([future for future, *_ in self.pending])

    def confirm(self, share=1.0):
        """Confirm *share* of what waits."""
        journal = self.journal
        journal.confirm(journal.cursor + round(share * (journal.head - journal.cursor)))
        self.note_confirm()

    def note_confirm(self):
        """Take in where the cursor is, after something was confirmed."""
        self.confirmed = max(self.confirmed, self.journal.cursor)
        self.confirms.append((self.clock.now_s, self.journal.cursor))

    def fill(self, code, *, for_all=False, part=0.0):
        """Leave no room on the disk (*code* is the errno), or make room again (0)."""
        self.disk.full, self.disk.full_for_all, self.disk.full_part = code, for_all, part
        self.is_cursor_kept = self.is_cursor_kept and not code

    def fail_sync(self, seed):
        """Make the next fdatasync of a segment fail."""
        self.disk.random, self.disk.fail_sync = Random(seed), errno.EIO
        self.disk.on_failed_sync = self._note_failure

    def _note_failure(self):
        self.has_failed, self.is_cursor_kept = True, False

    # What must hold

    def look(self):
        """Compare what can be read with what has to be there; return it by position."""
        journal = self.journal
        found = read_all(journal)
        read = {one.position: one.callback for one in found}
        numbers = [one.received_ms for one in read.values()]
        assert list(read) == sorted(read)
        assert len(read) == len(found)
        assert all(journal.cursor < position <= journal.head for position in read)
        assert len(set(numbers)) == len(numbers), "a callback stands at two positions"
        assert list(read.values()) == [self.submitted[number] for number in numbers]
        owed = {position: one for position, one in self.durable.items() if position > journal.cursor}
        assert owed == {position: one for position, one in read.items() if position in owed}
        assert journal.waiting == len(read)
        assert journal.holes == journal.head - journal.cursor - len(read)
        return read

    def _settle(self):
        """Take in the answers that have come."""
        left = []
        for future, callback, durable, head in self.pending:
            if not future.done():
                left.append((future, callback, durable, head))
            elif (error := future.exception()) is not None:
                assert isinstance(error, JournalFull) or self.has_failed, error
            else:
                position = future.result()
                assert position not in {**self.durable, **self.written}, "a position was given out twice"
                assert position > head
                assert position <= self.journal.head or not durable
                self.written[position] = (callback, self.clock.now_s)
        self.pending = left
        for position in [at for at in self.written if at <= self.journal.head]:
            self.durable[position], _ = self.written.pop(position)

    def _compare(self, deaths):
        """Compare a journal that was just opened with what it owes; *deaths* ended the processes before."""
        journal, cuts = self.journal, [death.cut for death in deaths if death.cut]
        for position, (callback, at_s) in self.written.items():
            if not cuts or (at_s + WRITTEN_S <= self.clock.now_s and not self.has_failed):
                self.durable[position] = callback
        self.written.clear()
        assert self.name in ("", journal.id), "the journal has another id"
        assert journal.head >= max(self.durable, default=0)
        assert not [at for at in self.durable if self.confirmed < at <= journal.cursor], "the cursor skips"
        since_s = self.clock.now_s - (CUT_S if cuts else KILLED_S if deaths else 0.0)
        known = [position for at_s, position in self.confirms if at_s <= since_s]
        assert not self.is_cursor_kept or journal.cursor >= max(known, default=0), "the cursor went back"
        self.confirmed = max(self.confirmed, journal.cursor)
        self.confirms = [(self.clock.now_s, journal.cursor)]
        read = self.look()
        gone = journal.head - self.base - len([at for at in read if at > self.base])
        assert sample(self.metrics, "journal_lost_records_total") == gone
        missing = set(range(journal.cursor + 1, journal.head + 1)) - set(read)
        may_be_torn = self.has_failed or {data for data, _ in cuts} & {"sectors", "some"}
        assert may_be_torn or missing <= self.lost, "positions are missing"
        self.lost |= missing
        # What can be read may be published, so it has to stay.
        self.durable |= read
        if self.durable:
            self.name = journal.id
