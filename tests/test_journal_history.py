"""Arbitrary histories of a journal (appends, confirms, crashes, damage) and what must hold in all of them."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway import config
from gateway.callback import Callback
from gateway.journal import Journal
from gateway.journal.files import HEADER_BYTES
from gateway.metrics import Metrics

SEGMENT_BYTES = 1500
NEVER_S = 1e9


class History(RuleBasedStateMachine):
    """Keeps book of what was acknowledged and published, and compares after each step."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp(prefix="journal-history-"))
        self.lives = 0
        self.synced: dict[str, int] = {}
        self.patches = [
            mock.patch("gateway.journal.writer.WRITTEN_SYNC_S", NEVER_S),
            mock.patch("gateway.journal.writer.TRIM_S", NEVER_S),
            mock.patch("gateway.journal.cursor.SYNC_S", NEVER_S),
            mock.patch("gateway.journal.cursor.WRITE_S", 0.0),
            mock.patch("os.fdatasync", self.fdatasync),
        ]
        for patch in self.patches:
            patch.start()
        self.serial = 0
        self.durable: dict[int, bytes] = {}  # acknowledged as durable, and not known to be damaged
        self.written: dict[int, bytes] = {}  # acknowledged as written: a power cut may take these
        self.published: dict[int, bytes] = {}  # came out of read once: the position is taken for ever
        self.damaged = 0
        self.lost_before = 0.0
        self.read_to = 0
        self.journal: Journal | None = None
        self.open(self.root / "0")

    def fdatasync(self, fd: int) -> None:
        self.synced[os.readlink(f"/proc/self/fd/{fd}")] = os.fstat(fd).st_size

    def open(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = Metrics()
        limits = config.Journal(dir=folder, min_free_mb=0, retain_mb=0)

        async def start() -> Journal:
            return Journal.open(limits, self.metrics)

        self.journal = self.loop.run_until_complete(start())
        self.journal._intake._writer._segment_bytes = SEGMENT_BYTES
        self.read_to = self.journal.cursor

    @property
    def live(self) -> Journal:
        assert self.journal is not None
        return self.journal

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    def settle(self) -> None:
        """Let the thread write the cursor, so that a history runs the same way each time."""
        while self.live._intake.keeper.is_stale:
            self.run(asyncio.sleep(0))

    @rule(sizes=st.lists(st.integers(0, 700), min_size=1, max_size=6), durable=st.booleans())
    def append(self, sizes: list[int], durable: bool) -> None:
        bodies = []
        for size in sizes:
            self.serial += 1
            bodies.append(b"%d:" % self.serial + b"x" * size)

        async def append() -> list[int]:
            futures = [
                self.live.append(Callback("1", "", body, "", self.serial, True, 1, 10), durable=durable)
                for body in bodies
            ]
            return await asyncio.gather(*futures)

        given = dict(zip(self.run(append()), bodies, strict=True))
        assert not set(given) & set(self.durable)
        assert not set(given) & set(self.published)
        for position in given:
            self.written.pop(position, None)
        if durable:
            self.durable |= self.written | given
            self.written.clear()
        else:
            self.written |= given
            self.durable |= {at: body for at, body in self.written.items() if at <= self.live.head}

    @rule(count=st.integers(1, 8))
    def read(self, count: int) -> None:
        for stored in self.live.read(self.read_to, count, 10_000):
            assert stored.position > self.read_to
            assert self.published.setdefault(stored.position, stored.callback.body) == stored.callback.body
            self.read_to = stored.position

    @rule(back=st.integers(0, 5))
    def confirm(self, back: int) -> None:
        """Confirm only what was read, as the forwarder does."""
        self.live.confirm(max(0, self.read_to - back))
        self.settle()

    @rule()
    def read_again_from_the_cursor(self) -> None:
        self.read_to = self.live.cursor

    @rule()
    def reopen(self) -> None:
        self.run(self.live.close())
        self.durable |= self.written
        self.written.clear()
        self.open(self.folder)

    @rule(is_power_cut=st.booleans(), kept=st.floats(0, 1), old_cursor=st.booleans())
    def crash(self, is_power_cut: bool, kept: float, old_cursor: bool) -> None:
        """Go on with a copy of the folder as a kill or a power cut leaves it."""
        self.lives += 1
        copy = self.root / str(self.lives)
        shutil.copytree(self.folder, copy)
        if is_power_cut:
            for path in sorted(copy.glob("*.seg")):
                safe = self.synced.get(str(self.folder / path.name), 0)
                size = path.stat().st_size
                os.truncate(path, min(size, safe + int((size - safe) * kept)))
            if old_cursor:
                # The slot that was written since the last sync is torn.
                target = self.live._intake.keeper._file._target
                raw = bytearray((copy / "cursor").read_bytes())
                raw[target * 4096 + 20] ^= 0xFF
                (copy / "cursor").write_bytes(raw)
        else:
            self.durable |= self.written
        self.written.clear()
        head = self.live.head
        self.run(self.live.close())
        self.synced = {str(path): path.stat().st_size for path in copy.iterdir() if path.is_file()}
        shutil.rmtree(self.folder)
        self.open(copy)
        note(f"crashed at head {head}, went on at {self.live.head}")

    @precondition(lambda self: self.damaged < 3)
    @rule(where=st.floats(0, 1), bit=st.integers(0, 7))
    def damage(self, where: float, bit: int) -> None:
        """Flip one bit behind the segment headers while the journal is closed."""
        self.reopen()
        self.run(self.live.close())
        places = [
            (path, at)
            for path in sorted(self.folder.glob("*.seg"))
            for at in (HEADER_BYTES + int(where * (path.stat().st_size - HEADER_BYTES - 1)),)
            if path.stat().st_size > HEADER_BYTES
        ]
        if places:
            path, at = places[int(where * (len(places) - 1))]
            raw = bytearray(path.read_bytes())
            raw[at] ^= 1 << bit
            path.write_bytes(raw)
            self.damaged += 1
        self.open(self.folder)

    @invariant()
    def nothing_acknowledged_is_lost(self) -> None:
        if getattr(self, "journal", None) is None:
            return
        journal = self.live
        found: dict[int, bytes] = {}
        after = journal.cursor
        while batch := journal.read(after, 5, 3000):
            found |= {one.position: one.callback.body for one in batch}
            after = batch[-1].position
        waiting = {at: body for at, body in self.durable.items() if at > journal.cursor}
        missing = {at for at in waiting if at not in found}

        assert all(found[at] == body for at, body in waiting.items() if at in found)
        assert all(found[at] == body for at, body in self.published.items() if at in found)
        assert len(missing) <= self.damaged
        assert journal.waiting == len(found)
        assert journal.head >= max(self.durable, default=0)
        assert journal.head - journal.cursor == len(found) + journal.holes
        assert missing <= set(range(journal.cursor + 1, journal.head + 1))
        self.published |= found
        self.settle()

    def teardown(self) -> None:
        if getattr(self, "journal", None) is not None:
            self.run(self.live.close())
            for patch in self.patches:
                patch.stop()
            self.loop.close()
            shutil.rmtree(self.root)


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
