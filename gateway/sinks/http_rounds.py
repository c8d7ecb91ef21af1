"""Brings the events of one write to a service, request by request: in order, and never stuck.

It knows requests only as a function that says what became of one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

from gateway.errors import Poison, Unavailable
from gateway.sinks.http_answers import Doubtful

Send = Callable[[Sequence[int]], Awaitable[Poison | Unavailable | None]]
"""Sends the events at these places in one request; returns what became of them, None when they are taken."""
_PATIENCE = 5
# So many requests in a row that fail, while nothing tells that it is their events, end a write: a service
# that is away need not be asked for each event. More of events that have failed often, to look behind them.
_MOST_NEW, _MOST_OLD = 3, 20
_REMEMBERED = 10_000
_SOON_S = 0.1


class Failed(NamedTuple):
    """How often an event has failed, the last time included."""

    times: int
    proven: int
    """Times when others had got through since the time before."""
    is_proven: bool
    """The last time was one of these."""


class Memory:
    """What a worker's lanes know together: which events have failed, and whether others get through.

    Bound: the last 10,000.
    """

    def __init__(self) -> None:
        self._failed: dict[Hashable, tuple[int, int, int]] = {}
        """Times, times that were proven, and what ``_taken`` was the last time."""
        self._taken = 0
        """Events taken since the start."""

    def took(self, name: Hashable) -> None:
        """Note that the service has taken an event."""
        self._taken += 1
        self._failed.pop(name, None)

    def fail(self, name: Hashable) -> Failed:
        """Note that the service has not taken an event, for reasons that may be its own."""
        count, proven, taken_before = self._failed.pop(name, (0, 0, self._taken))
        is_proven = self._taken > taken_before
        self._failed[name] = (count + 1, proven + is_proven, self._taken)
        if len(self._failed) > _REMEMBERED:
            del self._failed[next(iter(self._failed))]
        return Failed(count + 1, proven + is_proven, is_proven)

    def has_failed(self, name: Hashable) -> bool:
        """Say whether the event has failed and was not taken since."""
        return name in self._failed

    def others_got_through(self, name: Hashable) -> bool:
        """Say whether other events were taken since this one failed last."""
        return name in self._failed and self._taken > self._failed[name][2]


class Round:
    """One write. What becomes of a request that is not taken:

    - Poison: refused for what it is. Of several events, halves are sent until it stands alone.
    - Unavailable: the service's state. Nothing more is sent; all that is left comes again.
    - Doubtful, the first times: those behind it with its key wait, so that order is kept, the others go on;
      what is left comes again after the worker's pause.
    - Doubtful for the fifth time, and others got through between all of them: it is the event, not the
      service. It comes again later by itself, and those behind it go on. While nothing gets through, it stays
      the service, and no event passes another of its key.
    """

    def __init__(
        self, names: Sequence[Hashable], keys: Sequence[Hashable], send: Send, memory: Memory
    ) -> None:
        """Take what names each event, and the key whose events keep their order."""
        self._names = names
        self._keys = keys
        self._send = send
        self._memory = memory
        self._failures: dict[int, Poison | Unavailable] = {}
        self._aside: dict[int, Doubtful] = {}
        self._held: set[Hashable] = set()
        self._left: list[int] = []
        self._fault: Unavailable | None = None
        self._is_over = False
        self._unproven = 0

    async def run(self, requests: Sequence[Sequence[int]]) -> Mapping[int, Poison | Unavailable]:
        """Send *requests*; return the failures, of which those with a ``wait_s`` are the service's.

        Raises Unavailable when nothing was settled.
        """
        failed = {self._keys[at] for at, name in enumerate(self._names) if self._memory.has_failed(name)}
        # Why the others first: they tell whether it is the service that fails.
        waiting = deque(sorted(requests, key=lambda places: self._keys[places[0]] in failed))
        while waiting:
            places = waiting.popleft()
            if self._is_over or self._keys[places[0]] in self._held:
                self._left += places
            elif (verdict := await self._send(places)) is None:
                self._taken(places)
            elif isinstance(verdict, Unavailable):
                self._not_taken(places, verdict, waiting)
            elif len(places) == 1:
                self._failures[places[0]] = verdict
            else:
                _halve(places, waiting)
        return self._result()

    def _taken(self, places: Sequence[int]) -> None:
        self._unproven = 0
        for at in places:
            self._memory.took(self._names[at])

    def _not_taken(self, places: Sequence[int], fault: Unavailable, waiting: deque[Sequence[int]]) -> None:
        if not isinstance(fault, Doubtful):
            self._hold(places, fault)
            self._is_over, self._fault = True, fault
            return
        failed = [self._memory.fail(self._names[at]) for at in places]
        is_old = max(one.times for one in failed) >= _PATIENCE
        if is_old and len(places) > 1:
            _halve(places, waiting)
            return
        if failed[0].proven >= _PATIENCE - 1 and len(places) == 1:
            self._failures[places[0]] = fault
        elif is_old and len(set(self._keys)) == 1:
            # Why: with one key no other can tell, so the events behind this one have to.
            self._aside[places[0]] = fault
        else:
            self._hold(places, fault)
        self._unproven += not all(one.is_proven for one in failed)
        if self._unproven >= (_MOST_OLD if is_old else _MOST_NEW):
            self._is_over, self._fault = True, self._fault or fault

    def _hold(self, places: Sequence[int], fault: Unavailable) -> None:
        self._left += places
        self._held.add(self._keys[places[0]])
        self._fault = self._fault or fault

    def _result(self) -> Mapping[int, Poison | Unavailable]:
        for at, doubt in self._aside.items():
            if self._memory.others_got_through(self._names[at]):
                self._failures[at] = doubt
            else:
                self._left.append(at)
                self._fault = self._fault or doubt
        fault = self._fault
        if fault is None:
            return self._failures
        if len(self._left) == len(self._names):
            raise fault
        # Why a wait: it says that the worker is to pause and bring these again, in order, and not each alone.
        again = Unavailable(fault.reason, fault.detail, max(fault.wait_s, _SOON_S))
        return {**self._failures, **dict.fromkeys(self._left, again)}


def _halve(places: Sequence[int], waiting: deque[Sequence[int]]) -> None:
    half = len(places) // 2
    waiting.extendleft((places[half:], places[:half]))
