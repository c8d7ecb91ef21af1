"""What a service manager (systemd, ``Type=notify``) says in the environment. No key of the file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """Where it listens, and how often it wants to hear that the process is alive."""

    socket: str = ""
    """A path, or ``@name`` for an abstract one; "" where there is none."""
    watchdog_s: float = 0.0
    """Silence for so long means that the process hangs; 0: never."""

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> ServiceManager:
        """Return what *environ* says. Source: sd_notify(3), sd_watchdog_enabled(3)."""
        microseconds = environ.get("WATCHDOG_USEC", "")
        is_meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_s = int(microseconds) / 1e6 if is_meant and microseconds.isdecimal() else 0.0
        return cls(environ.get("NOTIFY_SOCKET", ""), watchdog_s)
