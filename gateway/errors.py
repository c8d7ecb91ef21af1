"""What can go wrong, named for what happens next: refuse the caller, park the event, wait and try again.

A *reason* is a fixed token such as ``bad_signature``. It labels metrics and stands in answers and headers,
so it never holds anything that came from outside.
"""

from __future__ import annotations


class GatewayError(Exception):
    """Base of the errors that the gateway raises on purpose; ``reason`` is a fixed token."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """Keep *reason* (token, for machines) and *detail* (a sentence, for the operator's log)."""
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Refused(GatewayError):
    """The caller gets a refusal and nothing is stored."""


class Poison(GatewayError):
    """This event can never be written as it is: park it, go on with the others."""


class Unavailable(GatewayError):
    """A part that is needed does not work at the moment: keep everything and try again later.

    ``wait_s`` says when, in seconds, where the part named a time; 0 leaves it to who tries, ``math.inf``
    means not before a restart.
    """

    def __init__(self, reason: str, detail: str = "", wait_s: float = 0.0) -> None:
        super().__init__(reason, detail)
        self.wait_s = wait_s


class JournalFull(Unavailable):
    """The journal has no room for the callback; nothing of it was stored."""


class ConfigError(Exception):
    """The configuration can't be used; the message has one line a fault, each with its full key path."""


class FolderInUse(ConfigError):
    """Another process has this folder at present."""


class FatalError(Exception):
    """Going on could lose what was acknowledged: the process has to end."""
