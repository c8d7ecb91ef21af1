"""What the statements of the mysql sink carry: one for the events of a part, one for their exits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pymysql

from gateway.sinks.batches import Keyed
from gateway.sinks.mysql_errors import DUPLICATE, number_of
from gateway.sinks.mysql_link import Link
from gateway.sinks.rows import EXIT_COLUMNS, EventRow, moment

_EVENT_COLUMNS = "source, id, type, subject, time, recordedtime, app_id, partitionkey, position, event"
_ROW = f"({', '.join(['%s'] * 10)})"


def write_new(link: Link, prefix: str, rows: Sequence[Keyed[EventRow]]) -> None:
    """Write those of *rows* that are not there yet, with their exits, and commit.

    Raises the driver's errors; then the caller has to roll back.
    """
    try:
        _insert(link, prefix, [keyed.row for keyed in rows])
        link.commit()
    except pymysql.err.IntegrityError as error:
        # Why no IGNORE and no ON DUPLICATE KEY: they would hide that a row breaks another rule of the table.
        if number_of(error) != DUPLICATE:
            raise
        link.rollback()
        there = _there(link, prefix, rows)
        new = [keyed for keyed in rows if (keyed.row.source, keyed.row.id) not in there]
        if len(new) == len(rows):
            raise  # Why: what is there is no event of these, but something that an operator made unique
        if new:
            write_new(link, prefix, new)


def _insert(link: Link, prefix: str, rows: Sequence[EventRow]) -> None:
    link.run(
        f"INSERT INTO {prefix}events ({_EVENT_COLUMNS}) VALUES {', '.join([_ROW] * len(rows))}",  # noqa: S608 - checked
        [
            value
            for row in rows
            for value in (
                *(row.source, row.id, row.type, row.subject, moment(row.time_ms), moment(row.recorded_ms)),
                *(row.app_id, row.partition_key, row.position, row.body),
            )
        ],
    )
    exits = [one for row in rows for one in row.exits]
    if exits:
        # Why this end: exits whose event an operator deleted are no obstacle when that event comes again.
        link.run(
            f"INSERT INTO {prefix}member_exits ({EXIT_COLUMNS}) VALUES {', '.join([_ROW] * len(exits))}"  # noqa: S608 - checked
            " ON DUPLICATE KEY UPDATE member_no = member_no",
            [
                value
                for one in exits
                for value in (
                    *(one.source, one.event_id, one.member_no, one.app_id, one.group_id, one.group_type),
                    *(one.member, one.operator, one.exit_type, moment(one.time_ms)),
                )
            ],
        )


def _there(link: Link, prefix: str, rows: Sequence[Keyed[EventRow]]) -> set[tuple[str, str]]:
    by_source: dict[str, list[str]] = defaultdict(list)
    for keyed in rows:
        by_source[keyed.row.source].append(keyed.row.id)
    return {
        (source, found)
        for source, ids in by_source.items()
        for (found,) in link.rows(
            f"SELECT id FROM {prefix}events WHERE source = %s AND id IN ({', '.join(['%s'] * len(ids))})",  # noqa: S608 - checked
            (source, *ids),
        )
    }
