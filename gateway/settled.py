"""Files that change while the gateway runs: when they have, and stand still again."""

from __future__ import annotations

import os
from pathlib import Path

_Stamp = tuple[int, int, int] | None


class Settled:
    """Tells, look by look, whether files are others than those taken last; one that is not there counts too.

    A change is told from the second look on that finds the same. At the first, whoever writes may be half
    way: an empty token file, a certificate whose key still has to come.
    """

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._taken = self._seen = self._stamps()

    def look(self) -> bool:
        """Say whether the files have changed and stand still. Make looks a second apart, or more."""
        now = self._stamps()
        is_still, self._seen = now == self._seen, now
        return is_still and now != self._taken

    def take(self) -> None:
        """Note that the files, as the last look found them, are taken."""
        self._taken = self._seen

    def _stamps(self) -> tuple[_Stamp, ...]:
        return tuple(map(_stamp, self._paths))


def _stamp(path: Path) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    # Why st_ctime: unlike st_mtime nobody sets it back, and it moves when only the rights change.
    return found.st_ctime_ns, found.st_size, found.st_ino
