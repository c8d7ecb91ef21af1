"""The tables of the mysql sink, and how an older database gets them. Several workers may come at once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pymysql

from gateway.errors import Unavailable
from gateway.sinks.mysql_link import Link

# What migrating may wait for: another worker that migrates.
_LOCK_TIMEOUT_S = 10
_log = logging.getLogger(__name__)
# Each step takes the database from version n to n + 1; "{p}" is the prefix, "{c}" the collation. Steps only
# add: rows stay. Making a table commits at once: a step that was broken off has to pass again.
_STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE IF NOT EXISTS {p}events (
            seq bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY,
            source varchar(255) NOT NULL, id varchar(255) NOT NULL,
            type varchar(256) NOT NULL, subject varchar(256),
            time datetime(3), recordedtime datetime(3),
            app_id varchar(256) NOT NULL, partitionkey varchar(256), position varchar(256),
            event longtext NOT NULL,
            inserted_at datetime(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
            UNIQUE KEY source_id (source, id), KEY type_time (type, time)
        ) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE={c}""",
        """CREATE TABLE IF NOT EXISTS {p}member_exits (
            seq bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY,
            source varchar(255) NOT NULL, event_id varchar(255) NOT NULL, member_no integer NOT NULL,
            app_id varchar(256) NOT NULL, group_id varchar(256) NOT NULL, group_type varchar(256),
            member varchar(256) NOT NULL, operator varchar(256), exit_type varchar(256),
            time datetime(3) NOT NULL,
            UNIQUE KEY source_event_member (source, event_id, member_no),
            KEY by_time (time), KEY by_group (group_id, time), KEY by_member (member, time),
            KEY by_operator (operator, time)
        ) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE={c}""",
    ),
)
SCHEMA_VERSION = len(_STEPS)
# Exact, blanks at the end too: with others two ids could be one. MySQL's, MariaDB's, the best of MySQL 5.7.
_COLLATIONS = ("utf8mb4_0900_bin", "utf8mb4_nopad_bin")
_NEXT_BEST = "utf8mb4_bin"


def prepare(link: Link, prefix: str) -> None:
    """Bring the tables to ``SCHEMA_VERSION``; where they are, no right but to read the version is needed.

    Raises Unavailable ("newer_schema" | "locked") or what the driver raises.
    """
    if _version(link, prefix) != SCHEMA_VERSION:
        with alone(link, prefix):
            _migrate(link, prefix)


def check_server(link: Link) -> None:
    """Warn of a server that may lose commits."""
    if link.rows("SELECT @@innodb_flush_log_at_trx_commit")[0][0] != 1:
        _log.warning(
            "The server has innodb_flush_log_at_trx_commit other than 1:"
            " acked events are lost when it crashes."
        )


@contextmanager
def alone(link: Link, name: str) -> Iterator[None]:
    """Hold a lock that no other worker has for *name* at the same time. Raises Unavailable("locked")."""
    lock = f"im-callback-gateway {hashlib.sha256(name.encode()).hexdigest()[:32]}"  # of at most 64 characters
    if link.rows("SELECT GET_LOCK(%s, %s)", (lock, _LOCK_TIMEOUT_S))[0][0] != 1:
        raise Unavailable(
            "locked", "Another worker has been making the tables for long; this one comes again."
        )
    try:
        yield
    finally:
        # Why suppressed: on a connection that is lost it goes anyway, and what was lost is being raised.
        with suppress(pymysql.err.Error):
            link.rows("SELECT RELEASE_LOCK(%s)", (lock,))


def _migrate(link: Link, prefix: str) -> None:
    link.run(
        f"""CREATE TABLE IF NOT EXISTS {prefix}schema_version (
            version integer NOT NULL PRIMARY KEY, applied_at datetime(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
        ) ENGINE=InnoDB"""
    )
    version, collation = _version(link, prefix), exact_collation(link)
    for number, step in enumerate(_STEPS[version:], version + 1):
        for statement in step:
            link.run(statement.format(p=prefix, c=collation))
        link.run(f"INSERT INTO {prefix}schema_version (version) VALUES (%s)", (number,))  # noqa: S608 - checked
        link.commit()


def _version(link: Link, prefix: str) -> int:
    link.commit()  # Why: what another worker has committed meanwhile is to be seen
    if not has_table(link, f"{prefix}schema_version"):
        return 0
    version = int(link.rows(f"SELECT max(version) FROM {prefix}schema_version")[0][0] or 0)  # noqa: S608 - checked
    if version > SCHEMA_VERSION:
        raise Unavailable(
            "newer_schema",
            f"{prefix}schema_version is {version}, this gateway knows {SCHEMA_VERSION}: a newer gateway made"
            " the tables. Upgrade this one, or choose another table_prefix",
        )
    return version


def has_table(link: Link, table: str) -> bool:
    """Say whether the database has *table*, as far as the user may see it."""
    sql = "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s"
    return bool(link.rows(sql, (table,)))


def exact_collation(link: Link) -> str:
    """Return the server's collation that tells all texts apart."""
    found = {name for (name,) in link.rows("SELECT collation_name FROM information_schema.collations")}
    return next((name for name in _COLLATIONS if name in found), _NEXT_BEST)
