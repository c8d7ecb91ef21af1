"""Runs the gateway's command line, and kills it with -9 at one named point: ``die_at.py POINT NTH serve``.

What dies is the installed gateway; only the moment is chosen here, by wrapping one function.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def _wrap(owner: type, name: str, nth: int, *, after: bool) -> None:
    """Die at the *nth* call of ``owner.name``, before it or after it."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and not after:
            _die()
        result = real(*args, **kwargs)
        if calls == nth and after:
            _die()
        return result

    setattr(owner, name, wrapped)


def arm(point: str, nth: int) -> None:
    from gateway.broker.rabbitmq.confirms import UnconfirmedBatches
    from gateway.journal import Journal
    from gateway.journal.segments import Segments

    if point == "before-commit":  # written to the file, not synced, not answered
        _wrap(Segments, "sync", nth, after=False)
    elif point == "after-commit":  # durable, not answered
        _wrap(Segments, "sync", nth, after=True)
    elif point == "before-confirm":  # the broker has it and has said so, nobody has read it
        _wrap(UnconfirmedBatches, "settle", nth, after=False)
    elif point == "before-cursor":  # confirmed, the cursor not moved
        _wrap(Journal, "confirm", nth, after=False)
    elif point == "while-trimming":  # one segment gone, the folder not synced
        from gateway.journal import segments

        real = segments.sync_dir
        calls = 0

        def sync_dir(folder: Any) -> None:
            nonlocal calls
            dropping = sys._getframe(1).f_code.co_name == "drop"
            calls += dropping
            if dropping and calls == nth:
                _die()
            real(folder)

        segments.sync_dir = sync_dir
    else:
        sys.exit(f"no such point: {point}")


if __name__ == "__main__":
    point, nth, *words = sys.argv[1:]
    arm(point, int(nth))
    sys.argv = ["gateway", *words]
    from gateway.__main__ import main

    main()
