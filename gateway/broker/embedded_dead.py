"""A sink's dead queue in the embedded file, in the hands of one command; its worker goes on beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from gateway.broker import Delivery
from gateway.broker.embedded_channels import StoreThread
from gateway.broker.embedded_store import Store


class EmbeddedDead:
    """Satisfies ``gateway.broker.DeadQueue``; a delivery's tag is its place in the file."""

    def __init__(self, thread: StoreThread, store: Store, sink: str, wake: Callable[[], None]) -> None:
        """Take *wake*, called when there is something new for the sink's consumer."""
        self._thread = thread
        self._store = store
        self._sink = sink
        self._wake = wake
        self._after = self._last = self.todo = 0

    async def page(self, max_events: int) -> list[Delivery]:
        """Return the next events, at most about 32 MiB of bodies."""
        read = partial(self._store.read_dead, self._sink, self._after, self._last, max_events)
        found = await self._thread.run(read)
        self._after = found[-1].tag if found else self._last
        self.todo = max(0, self.todo - len(found)) if found else 0
        return found

    async def rewind(self) -> None:
        """Begin with the first; also called at the opening."""
        self._after = 0
        self.todo, self._last = await self._thread.run(partial(self._store.count_dead, self._sink))

    async def replay(self, deliveries: Sequence[Delivery]) -> None:
        """Move *deliveries* in one transaction: none of them is ever there twice."""
        await self._thread.run(partial(self._store.replay, self._sink, tuple(deliveries)))
        self._wake()

    async def remove(self, deliveries: Sequence[Delivery]) -> None:
        """Remove *deliveries* in one transaction."""
        await self._thread.run(partial(self._store.ack, [delivery.tag for delivery in deliveries]))
