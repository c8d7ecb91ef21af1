"""The journal on a disk that loses what was not synced, against what it owes: a crash at every single step."""

import asyncio
import errno
import itertools
import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.errors import FatalError
from tests.models.disk import DATA, NAMES
from tests.models.effort import FAST, HOW, PATIENCE, SCALE
from tests.models.history import Death, History

pytestmark = PATIENCE


async def busy(history):
    """A day in the life of a journal: groups, segments rolled, trimmed, given up, a full disk."""
    for round_ in range(3):
        history.append([50, 600, 10])
        await history.answers()
        history.append([300], durable=False)
        await history.answers()
        history.append([1000, 20])
        history.append([900], durable=round_ == 1)
        await history.answers()
        history.confirm(0.7)
        await asyncio.sleep(0.2)
    history.fill(errno.ENOSPC, part=0.5)
    history.append([100, 100])
    await history.answers()
    history.fill(0)
    await asyncio.sleep(1)
    history.confirm(1.0)
    history.append([700])
    await history.answers()
    await asyncio.sleep(6)
    history.look()


def outcomes(step):
    """Return the ways to die at call number *step*: a kill, and power cuts of every kind."""
    random = Random(step)
    kinds = list(itertools.product(DATA, NAMES))
    chosen = kinds if SCALE > 1 else random.sample(kinds, 2)
    part = random.random()
    return [Death(step, part), *(Death(step, part, kind, random.randrange(10**6)) for kind in chosen)]


def lives(history):
    """Let a busy life, then a second one, die as told; then compare what a third finds and can do."""
    history.open()
    for _ in range(2):
        history.do(busy(history))
        history.close()
    history.fill(0)
    history.do(asyncio.sleep(1))
    history.append([10])
    history.do(history.answers())
    history.confirm()
    history.do(asyncio.sleep(2))
    history.close()
    assert history.journal.waiting == 0


@pytest.mark.parametrize("part", range(8))
def test_a_crash_at_every_call_to_the_disk_loses_nothing(tmp_path, part):
    """Kill or power cut at each write, sync, new, renamed or removed name, opening and closing included."""
    for step in itertools.count(1 + part, 8):
        for number, death in enumerate(outcomes(step)):
            base = tmp_path / f"{step}-{number}"
            base.mkdir()
            history = History(base)
            history.tell([death])
            try:
                lives(history)
                is_over = bool(history.deaths)
            finally:
                history.end()
        if is_over:
            break
    assert step > 50


SHARES = st.integers(0, 8).map(lambda eighths: eighths / 8)
CUTS = st.none() | st.tuples(st.sampled_from(DATA), st.sampled_from(NAMES))


def deaths(first_call):
    return st.builds(Death, st.integers(first_call, 30), SHARES, CUTS, st.integers(0, 999))


class Lives(RuleBasedStateMachine):
    """Any history at all. After each step everything that is owed can be read, and nothing else."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=FAST)
        self.history = None

    @initialize(max_mb=st.integers(4, 12), retain_mb=st.integers(0, 2), retain_h=st.sampled_from([0, 1, 168]))
    def start(self, max_mb, retain_mb, retain_h):
        self.history = History(Path(self.folder.name), max_mb=max_mb, retain_mb=retain_mb, retain_h=retain_h)
        self.history.open()

    def do(self, work):
        return self.history.do(work)

    @rule(
        sizes=st.lists(st.integers(0, 900), min_size=1, max_size=5),
        durable=st.booleans(),
        waits=st.booleans(),
        pause_in=st.integers(0, 6),
    )
    def append(self, sizes, durable, waits, pause_in):
        """Some callbacks come in; the loop goes on in the midst of the writer's work, or waits for it."""

        async def work():
            self.history.append(sizes, durable=durable)
            self.history.world.writer.pause_in = pause_in
            await (self.history.answers() if waits else asyncio.sleep(0))

        self.do(work())

    @rule(share=SHARES)
    def confirm(self, share):
        """The broker has confirmed a part of what waits."""

        async def work():
            self.history.confirm(share)

        self.do(work())

    @rule(delay_s=st.sampled_from([0.001, 0.03, 0.06, 0.11, 0.3, 1.2, 6.0, 70.0, 4000.0]))
    def wait(self, delay_s):
        """Time passes: cursors are kept, segments age."""
        self.do(asyncio.sleep(delay_s))

    @rule(code=st.sampled_from([0, errno.ENOSPC, errno.EDQUOT]), for_all=st.booleans(), part=SHARES)
    def fill(self, code, for_all, part):
        """The disk gets full, or has room again."""
        self.history.fill(code, for_all=for_all, part=part)

    @rule(seed=st.integers(0, 999), pending=st.integers(1, 3))
    def fail_a_sync(self, seed, pending):
        """The disk cannot sync: nothing more is acknowledged, and the process has to end."""

        async def work():
            journal = self.history.journal
            self.history.append([10] * pending)
            self.history.fail_sync(seed)
            await self.history.answers()
            if self.history.has_failed:
                with pytest.raises(FatalError):
                    journal.append(next(iter(self.history.submitted.values())))
                with pytest.raises(FatalError):
                    await journal.failed
            self.history.disk.fail_sync = 0

        self.do(work())
        if self.history.has_failed:
            self.history.restart()

    @rule(told=st.lists(deaths(1), min_size=1, max_size=3))
    def is_to_die(self, told):
        """Somewhere in what follows the process dies, perhaps the next one too while it starts."""
        self.history.tell(told)

    @rule(death=deaths(0), more=st.lists(deaths(1), max_size=2))
    def die(self, death, more):
        """The process dies now, whatever it was doing."""
        self.history.tell([death, *more])
        self.history.restart()

    @rule()
    def close(self):
        """A stop in order, and a start."""
        self.history.close()

    @invariant()
    def holds(self):
        async def work():
            self.history.look()

        if self.history is not None:
            self.do(work())

    def teardown(self):
        if self.history is None:
            return
        try:
            self.ends_well()
        finally:
            self.history.end()
            self.folder.cleanup()

    def ends_well(self):
        """With room and a broker, the journal takes callbacks again and empties."""
        history = self.history
        history.tell([])
        history.fill(0)

        async def work():
            await history.answers()
            history.confirm()
            await asyncio.sleep(6)
            assert not history.journal.is_full
            history.append([10])
            future, *_ = history.pending[-1]
            assert await future == history.journal.head

        history.do(work())
        history.look()
        history.restart()
        history.close()
        history.confirm()
        assert history.journal.waiting == 0


Lives.TestCase.settings = settings(HOW, stateful_step_count=30)
test_any_history_keeps_what_it_owes = Lives.TestCase
