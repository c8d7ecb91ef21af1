"""PostgreSQL's errors in our words. Pure: what a SQLSTATE means for what happens next."""

from __future__ import annotations

import asyncpg

from gateway.errors import Poison, Unavailable

# By the longest prefix. Source: postgresql.org/docs/15/errcodes-appendix.html
_REASONS = {
    "08": ("unreachable", "the connection is lost"),
    "25006": ("read_only", "the server takes no writes; is it a standby?"),
    "28": ("no_rights", "the login is refused"),
    "3D000": ("no_database", "the database does not exist"),
    "3F000": ("no_table", "no schema to create tables in; set the role's search_path"),
    "40": ("locked", "another transaction was in the way"),
    "42501": ("no_rights", "the role lacks a right: SELECT and INSERT on the tables, CREATE to make them"),
    "42703": ("no_table", "a table is not ours: another one has its name"),
    "42P01": ("no_table", "a table is gone; if that was meant, drop the schema_version table as well"),
    "42P10": ("no_table", "a table lacks its primary key, or a unique index on just the columns of key"),
    "53": ("overloaded", "the server lacks resources"),
    "53100": ("disk_full", "the server's disk is full"),
    "55P03": ("locked", "another session holds a lock for too long"),
    "57": ("unreachable", "the server stops, starts or ended the session"),
    "57014": ("timeout", "the server cancelled the statement"),
}
_NAME_CHARS = 63  # of a name in PostgreSQL; what a trigger raises may be longer
# Data exceptions, violated constraints, program limits, what an operator's trigger raises; 21: two keys of a
# batch that are one to the server.
_CONTENT = ("21", "22", "23", "54", "P0001")


def is_content(error: asyncpg.PostgresError) -> bool:
    """Say whether the values caused *error*, so that it would come again whenever they do."""
    return str(error.sqlstate).startswith(_CONTENT)


def refused(error: asyncpg.PostgresError) -> Poison:
    """Return *error*, which is the content's, as Poison; its names of the schema are told, values are not."""
    said = f"SQLSTATE {error.sqlstate}, {type(error).__name__.removesuffix('Error')}"
    for kind in ("table", "column", "constraint"):
        if name := getattr(error, f"{kind}_name", None):
            said += f", {kind} {str(name)[:_NAME_CHARS]}"
    return Poison("refused_by_database", said)


def unavailable(error: Exception, where: str) -> Unavailable:
    """Return *error* as Unavailable with a sentence on *where*; values of events stay out of it."""
    if isinstance(error, asyncpg.PostgresError):
        state = str(error.sqlstate)
        # Why not str(error): it adds the server's detail line, which may quote the values.
        message = str(error.args[0] if error.args else "")[:200]
        known = max((key for key in _REASONS if state.startswith(key)), key=len, default="")
        reason, meaning = _REASONS.get(known, ("database_error", "the server reported an error"))
        return Unavailable(reason, f"PostgreSQL {where}: {meaning} ({state}: {message})")
    if isinstance(error, TimeoutError):
        return Unavailable("timeout", f"PostgreSQL {where} did not answer in time")
    return Unavailable("unreachable", f"PostgreSQL {where}: {type(error).__name__}: {error}")
