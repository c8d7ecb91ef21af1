"""MySQL's errors in our words. Pure: what a number means for what happens next."""

from __future__ import annotations

from collections.abc import Mapping

import pymysql

from gateway.errors import Poison, Unavailable

DUPLICATE = 1062
DEADLOCK = 1213
PACKET_TOO_LARGE = 1153
# Source: dev.mysql.com/doc/mysql-errors/8.4/en, mariadb.com/kb/en/mariadb-error-codes. 20xx are the driver's.
_MEANINGS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "no_rights": (
        "the login or a right is refused: the user needs SELECT, INSERT and UPDATE on the tables, CREATE"
        " to make them",
        (1044, 1045, 1130, 1142, 1143, 1227, 1251, 1370, 1698, 1820, 1862, 3118),
    ),
    "no_database": ("the database does not exist, or the DSN names none", (1046, 1049)),
    "no_table": ("a table or column is gone, or another one has its name", (1054, 1146, 1364, 1932)),
    "locked": ("another transaction was in the way", (1205, DEADLOCK, 1614, 3572)),
    "read_only": ("the server takes no writes; is it a replica?", (1036, 1209, 1290, 1792, 1836)),
    "disk_full": ("the server's disk is full", (1021, 1114)),
    "overloaded": ("the server lacks connections or memory", (1037, 1038, 1040, 1041, 1135, 1203, 1226)),
    "timeout": ("the server ended the statement", (1317, 1969, 3024)),
    "unreachable": (
        "the connection is lost, or the server stops or starts",
        (1043, 1047, 1053, 1077, 1079, 1080, 1129, 1152, *range(1158, 1162), 1184, 1927, *range(2000, 2100)),
    ),
}  # fmt: skip
_BY_NUMBER = {
    number: (reason, meaning) for reason, (meaning, numbers) in _MEANINGS.items() for number in numbers
}
_CONTENT_STATES = (
    "22",
    "23",
    "45",
)  # data exceptions, violated constraints, what an operator's trigger signals
# Of other states: row or packet too large, data truncated, no such text, value or row, a CHECK of MySQL's.
_CONTENT = frozenset({1118, PACKET_TOO_LARGE, 1265, 1300, 1366, 1411, 1416, 1525, 3819, 4025})

# Their text names a column or constraint and no value: NULL, out of range, too long, a CHECK.
_OF_THE_SCHEMA = frozenset({1048, 1264, 1406, 3819, 4025})


def is_content(error: BaseException) -> bool:
    """Say whether the values caused *error*, so that it would come again whenever they do."""
    if isinstance(error, UnicodeError):
        return True
    if not isinstance(error, pymysql.err.Error) or number_of(error) in _BY_NUMBER:
        return False
    return str(error.sqlstate)[:2] in _CONTENT_STATES or number_of(error) in _CONTENT


def number_of(error: BaseException) -> int:
    """Return the server's or the driver's number of *error*, 0 when it has none."""
    first = error.args[0] if error.args else 0
    return first if isinstance(first, int) else 0


def refused(error: BaseException) -> Poison:
    """Return *error*, which is the content's, as Poison; its names of the schema are told, values are not."""
    number = number_of(error)
    said = f": {str(error.args[1])[:200]}" if number in _OF_THE_SCHEMA and len(error.args) > 1 else ""
    return Poison("refused_by_database", f"error {number}{said}")


def unavailable(error: Exception, where: str) -> Unavailable:
    """Return *error* as Unavailable with a sentence on *where*; values of events stay out of it."""
    causes = (error, error.__context__, getattr(error, "original_exception", None))
    if any(isinstance(one, TimeoutError) for one in causes):
        return Unavailable("timeout", f"MySQL {where} did not answer in time")
    number = number_of(error)
    if not isinstance(error, pymysql.err.MySQLError) or not number:
        said = f"{type(error).__name__}: {error}"
        return Unavailable("unreachable", f"MySQL {where}: {said[:200]}")
    reason, meaning = _BY_NUMBER.get(number, ("database_error", "the server reported an error"))
    # Why no text for others: it may quote the values.
    said = str(error.args[1])[:200] if reason != "database_error" and len(error.args) > 1 else ""
    return Unavailable(reason, f"MySQL {where}: {meaning} ({number}{': ' if said else ''}{said})")
