"""How partitions are shared between workers: a fair share each, by nothing but how many workers there are."""

from __future__ import annotations

from collections.abc import Sequence


def fair_share(partitions: int, workers: int) -> int:
    """Return on how many *partitions* one of *workers* may be active."""
    return -(-partitions // max(workers, 1))


def surplus(active: Sequence[tuple[int, int]], partitions: int, workers: int) -> list[int]:
    """Return which partitions to hand over, those with the least in hand first.

    *active*: number of the partition, and how many events of it are in hand.
    """
    count = len(active) - fair_share(partitions, workers)
    by_load = sorted(active, key=lambda one: (one[1], one[0]))
    return [number for number, _ in by_load[: max(count, 0)]]
