"""The loop's side of the writer thread: hands callbacks over, releases their futures, starts and ends it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty

from gateway import config
from gateway.callback import Callback
from gateway.errors import FatalError, JournalFull
from gateway.journal.posts import Item, Posts, Report, StoredCall
from gateway.journal.recovery import Opened
from gateway.journal.writer import GROUP_BYTES, GROUP_RECORDS, Writer
from gateway.metrics import Metrics
from gateway.record import HEADER_BYTES, pack


class Intake:
    """Takes callbacks while there is room; every method belongs to one loop."""

    def __init__(
        self,
        limits: config.Journal,
        opened: Opened,
        metrics: Metrics,
        now_ms: Callable[[], int],
        on_report: Callable[[Report], int],
    ) -> None:
        """``on_report`` is called on the loop before the futures of a group are released.

        It returns what ``hold`` takes.
        """
        self._metrics = metrics
        self._on_report = on_report
        posts = Posts(
            written=self._poster(self._on_written),
            committed=self._poster(self._on_committed),
            refused=self._poster(self._on_refused),
            changed=self._poster(self._on_changed),
            failed=self._poster(self._on_failed),
            closed=self._poster(self._on_closed),
        )
        self._writer = Writer(limits, opened, posts, now_ms)
        self._room = self._writer.room
        self.keeper = self._writer.cursor
        self._thread = threading.Thread(target=self._writer.run, name="journal", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending_bytes = 0
        self._coming: list[Item] = []
        self._coming_bytes = 0
        self._error: FatalError | None = None
        self._failed: asyncio.Future[None] | None = None
        self._is_closing = False
        self._closed = asyncio.Event()
        metrics.journal_capacity.set_function(lambda: self.capacity_bytes)
        self._on_changed(self._writer.report())
        # Why: opened before the loop runs, the thread starts with the first use.
        with suppress(RuntimeError):
            self.start()

    @property
    def is_full(self) -> bool:
        return self._room.is_full

    @property
    def capacity_bytes(self) -> int:
        return min(self._room.max_bytes, self._room.disk_bytes)

    def hold(self, held_bytes: int) -> None:
        """Note how many bytes of files hold callbacks that are not confirmed: these can't be given up."""
        self._room.held_bytes = held_bytes

    @property
    def failed(self) -> asyncio.Future[None]:
        """Gets FatalError when the disk failed."""
        self.start()
        if self._failed is None:
            self._failed = asyncio.get_running_loop().create_future()
            self._spread_failure()
        return self._failed

    def start(self) -> None:
        """Belong to the running loop and start the thread; nothing when that was done."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._thread.start()

    def append(self, callback: Callback, durable: bool) -> asyncio.Future[int]:
        """See ``Journal.append``."""
        self.start()
        assert self._loop is not None
        stored: asyncio.Future[int] = self._loop.create_future()

        def told(position: int, fault: Exception | None) -> None:
            if not stored.done() and fault is not None:
                stored.set_exception(fault)
            elif not stored.done():
                stored.set_result(position)

        self.store(callback, told, durable)
        return stored

    def store(self, callback: Callback, call: StoredCall, durable: bool) -> None:
        """See ``Journal.store``."""
        self.start()
        if self._error is not None:
            raise FatalError(str(self._error))
        if self._is_closing:
            raise JournalFull("journal_full", "the journal is being closed")
        payload = pack(callback)
        size = len(payload) + HEADER_BYTES
        pending = self._pending_bytes + size
        if self._room.is_full or self._room.held_bytes + pending > self._room.max_bytes:
            self._refuse()
        self._pending_bytes = pending
        if not self._coming:
            # Why not each by itself: waking the thread costs as much as all else that is done for a callback.
            assert self._loop is not None
            self._loop.call_soon(self._hand_over)
        elif len(self._coming) == GROUP_RECORDS or self._coming_bytes + size > GROUP_BYTES:
            self._hand_over()
        self._coming.append(Item(payload, call, durable))
        self._coming_bytes += size

    def _hand_over(self) -> None:
        """Give the thread what came in this turn of the loop."""
        if self._coming:
            self._writer.queue.put(self._coming)
            self._coming, self._coming_bytes = [], 0

    def wake(self) -> None:
        """Make the thread look at the cursor."""
        self._writer.queue.put(True)

    async def close(self) -> None:
        """Return when everything appended is durable and the files and the lock are given back."""
        self.start()
        if not self._is_closing:
            self._is_closing = True
            self._hand_over()
            self._writer.queue.put(None)
        # Why no deadline: it ends after one group, and before that there is nothing safe to do instead.
        await self._closed.wait()
        self._thread.join()

    def _refuse(self) -> None:
        if not self._room.is_full:
            self._room.is_full = True
            self._metrics.journal_full.set(1)
            self.wake()
        raise JournalFull(
            "journal_full",
            "journal.max_mb is reached, or less than journal.min_free_mb of disk space is left",
        )

    def _poster(self, handler: Callable[..., None]) -> Callable[..., None]:
        def post(*args: object) -> None:
            assert self._loop is not None
            try:
                self._loop.call_soon_threadsafe(handler, *args)
            except RuntimeError:
                # Why: the loop was closed before the journal; nobody is left to tell, so save all and end.
                self._writer.queue.put(None)

        return post

    def _on_changed(self, report: Report) -> None:
        self._room.held_bytes = self._on_report(report)
        self._metrics.journal_bytes.set(report.size)
        self._metrics.journal_full.set(self.is_full)

    def _on_written(self, items: list[Item], first: int) -> None:
        for position, item in enumerate(items, first):
            if not item.durable:
                item.tell(position)

    def _on_committed(self, report: Report, items: list[Item], first: int, took_s: float) -> None:
        self._on_changed(report)
        self._forget(items)
        for position, item in enumerate(items, first):
            item.tell(position)
        self._metrics.commit_seconds.observe(took_s)
        self._metrics.commit_records.observe(len(items))

    def _on_refused(self, items: list[Item]) -> None:
        self._metrics.journal_full.set(self.is_full)
        self._forget(items)
        for item in items:
            item.tell(0, JournalFull("journal_full", "there is no room left"))

    def _forget(self, items: list[Item]) -> None:
        self._pending_bytes -= sum([len(item.payload) for item in items]) + len(items) * HEADER_BYTES

    def _on_failed(self, error: FatalError, items: list[Item]) -> None:
        self._error = error
        self._hand_over()
        with suppress(Empty):
            while True:
                group = self._writer.queue.get_nowait()
                if isinstance(group, list):
                    items += group
        for item in items:
            item.tell(0, FatalError(str(error)))
        self._spread_failure()

    def _spread_failure(self) -> None:
        if self._error is not None and self._failed is not None and not self._failed.done():
            self._failed.set_exception(self._error)

    def _on_closed(self) -> None:
        self._closed.set()
