"""Which publishes wait for their confirm, by delivery tag: acknowledged, refused, returned, lost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.broker import Unconfirmed


@dataclass(slots=True)
class Batch:
    """Publishes written together; the future is done when none of their tags is pending."""

    future: asyncio.Future[None]
    pending: set[int]
    last_tag: int
    keys: Sequence[str] = ()
    """Routing keys, one a tag."""
    received: str = ""
    """When the gateway received the oldest of its events, RFC 3339; empty where that is not known."""
    failure: str = ""
    detail: str = ""
    failed: dict[int, str] = field(default_factory=dict)
    """Tag → why, of those that are known to have failed alone."""

    def error(self) -> Unconfirmed:
        first = self.last_tag - len(self.keys) + 1
        return Unconfirmed(self.failure, self.detail, {tag - first: why for tag, why in self.failed.items()})


@dataclass(slots=True)
class UnconfirmedBatches:
    """Batches that wait for confirms, oldest first. Bound: the forwarder's max_unconfirmed events."""

    batches: deque[Batch] = field(default_factory=deque)
    on_refused: Callable[[str], None] = lambda key: None
    """Called with the routing key of an event that some queue refused, or did not confirm in time."""

    def settle(self, tag: int, *, is_multiple: bool, failure: str = "") -> None:
        for batch in self.batches:
            settled = {one for one in batch.pending if one <= tag} if is_multiple else {tag} & batch.pending
            if settled:
                batch.pending -= settled
                batch.failure = batch.failure or failure
                if failure:
                    batch.failed |= dict.fromkeys(settled, failure)
                    batch.detail = batch.detail or "a queue refuses what is published to it"
                    self._note_refused(batch, min(settled))
            if batch.last_tag >= tag:
                break
        self._resolve()

    def mark(self, tag: int, failure: str, detail: str) -> None:
        """Note that *tag* came back; the acknowledgement that follows does not make it good."""
        for batch in self.batches:
            if tag in batch.pending:
                batch.failure = batch.failure or failure
                batch.failed[tag] = failure
                batch.detail = detail

    def fail_all(self, reason: str, detail: str) -> None:
        if reason == "deadline" and self.batches:
            self._note_refused(self.batches[0], min(self.batches[0].pending))
        for batch in self.batches:
            batch.pending.clear()
            batch.failed.clear()
            batch.failure = batch.failure or reason
            batch.detail = batch.detail or detail
        self._resolve()

    def _note_refused(self, batch: Batch, tag: int) -> None:
        if batch.keys:
            self.on_refused(batch.keys[tag - batch.last_tag - 1])

    def _resolve(self) -> None:
        for batch in self.batches:
            if not batch.pending and not batch.future.done():
                if batch.failure:
                    batch.future.set_exception(batch.error())
                    batch.future.exception()  # Why: read once, whether or not the owner still looks
                else:
                    batch.future.set_result(None)
        while self.batches and not self.batches[0].pending:
            self.batches.popleft()
