"""Redis' errors in our words. Pure: what an answer means for what happens next."""

from __future__ import annotations

import re
from typing import Final

from redis import exceptions as theirs

from gateway.errors import Unavailable

# By the code that an answer begins with, or its first words where it has none.
# Source: redis.io/docs/latest/develop/reference/protocol-spec, "Simple errors", and server.c of Redis 7.
_REASONS: Final = {
    "ASK": ("moved", "another node of the cluster is about to take the stream"),
    "BUSY": ("busy", "it is busy with a script of somebody else's"),
    "CLUSTERDOWN": ("cluster_down", "its cluster does not serve all slots"),
    "DB index": ("no_database", "it has no database of that number"),
    "invalid password": ("no_rights", "the login is refused: user and password of the url"),
    "LOADING": ("loading", "it has started and still reads its data"),
    "MASTERDOWN": ("read_only", "it is a replica that has lost its master"),
    "max number of clients": ("overloaded", "it has as many clients as it may (maxclients)"),
    "MISCONF": ("disk_fault", "it can't write to its disk, so it takes nothing; its own log says why"),
    "MOVED": ("moved", "another node of the cluster has the stream"),
    "NOAUTH": ("no_rights", "it asks for a password, and the url has none"),
    "NOPERM": ("no_rights", "the user lacks a right; docs/sinks.md has all that are needed"),
    "NOREPLICAS": ("no_replicas", "it has fewer replicas than min-replicas-to-write"),
    "OOM": ("out_of_memory", "its memory is full (maxmemory); raise it, or lower max_len or window_s"),
    "READONLY": ("read_only", "it is a replica and takes no writes; the url should name the master"),
    "TRYAGAIN": ("cluster_down", "the stream is moving to another node of the cluster"),
    "unknown command": ("too_old", "it lacks a command; streams and scripts need Redis 5 or newer"),
    "WRONGPASS": ("no_rights", "the login is refused: user and password of the url"),
    "WRONGTYPE": ("wrong_type", "a key of that name holds something else; name another stream"),
}
# Why: the driver cuts the code off where it has a class for it.
_CODES: Final[dict[type[Exception], str]] = {
    theirs.AskError: "ASK",
    theirs.AuthenticationError: "WRONGPASS",
    theirs.AuthenticationWrongNumberOfArgsError: "WRONGPASS",
    theirs.BusyLoadingError: "LOADING",
    theirs.ClusterDownError: "CLUSTERDOWN",
    theirs.MasterDownError: "MASTERDOWN",
    theirs.MovedError: "MOVED",
    theirs.NoPermissionError: "NOPERM",
    theirs.OutOfMemoryError: "OOM",
    theirs.ReadOnlyError: "READONLY",
    theirs.TryAgainError: "TRYAGAIN",
}
# Before Redis 7 what a script ran into stands inside: "Error running script (…): @user_script: 7: -OOM …".
_INSIDE = re.compile(r"@user_script: ?\d+: -?([A-Z]+ )")


def unavailable(error: Exception, where: str) -> Unavailable:
    """Return *error* as Unavailable with a sentence on *where*; what a command carried stays out of it."""
    text = _text(error)
    known = next((key for key in _REASONS if text.startswith(key)), None)
    if known is not None:
        reason, meaning = _REASONS[known]
        return Unavailable(reason, f"Redis {where}: {meaning}")
    if isinstance(error, (theirs.TimeoutError, TimeoutError)):
        return Unavailable("timeout", f"Redis {where} did not answer in time")
    if isinstance(error, theirs.ResponseError):
        # Why only the code: a message may quote the arguments.
        code = re.match(r"[A-Z]{2,20}\b", text)
        said = f" ({code[0]})" if code else ""
        return Unavailable("redis_error", f"Redis {where} reported an error{said}")
    cause = error.__cause__ or error.__context__ or error
    said = f"{type(cause).__name__}: {error}"
    if isinstance(
        error, (theirs.InvalidResponse, ValueError)
    ):  # Why no text: it repeats what came, whoever sent it
        said = "it does not answer as a Redis does; is TLS (rediss://) missing, or the port another one's?"
    elif "SSL" in f"{type(cause).__name__} {error}":
        said += "; is its certificate valid for that name, and its CA that of tls_ca?"
    return Unavailable("unreachable", f"Redis {where}: {said}")


def _text(error: Exception) -> str:
    """Return the answer with its code in front where it has one, ERR aside."""
    text = str(error)
    if "no password is set" in text or "without any password configured" in text:
        return "invalid password"
    if isinstance(error, theirs.AuthenticationError) and "required" in text:
        return "NOAUTH"
    for kind in type(error).__mro__:
        if kind in _CODES:
            return _CODES[kind]
    inside = _INSIDE.search(text)
    return inside[1] if inside else text.removeprefix("ERR ")
