"""``python -m tests.crash``: every fault in its long form; a table at the end. Exit code 1: something did not hold."""

from __future__ import annotations

import argparse
import sys
import time

from tests.crash.fault import Fault, all_faults
from tests.crash.runner import run_bounded
from tests.crash.table import Row, render
from tests.services import Postgres, RabbitMQ


def main() -> int:
    options = _options()
    chosen = [
        one
        for one in all_faults()
        if options.only.lower() in one.name.lower() and not (one.is_alone and options.processes > 1)
    ]
    if options.list:
        print("\n".join(f"{one.rounds:>4}  {one.name}" for one in chosen))
        return 0
    rabbitmq, postgres = RabbitMQ(), Postgres()
    rows: list[Row] = []
    try:
        for fault in chosen:
            rounds = options.rounds or (fault.short if options.short else fault.rounds)
            if rounds:
                rows.append(_run(fault, rounds, rabbitmq, postgres, options))
    finally:
        rabbitmq.close()
        postgres.close()
    print("\n" + render(rows) + "\n")
    bad = [row for row in rows if not row.is_good]
    for row in bad:
        print(
            f"FAILED  {row.fault}: "
            + "; ".join(row.faults or ["something was lost, doubled, or nothing came"])
        )
    print(f"{len(rows) - len(bad)} passed, {len(bad)} failed")
    return 1 if bad or not rows else 0


def _run(
    fault: Fault, rounds: int, rabbitmq: RabbitMQ, postgres: Postgres, options: argparse.Namespace
) -> Row:
    started_s = time.monotonic()
    print(f"{fault.name} ({rounds}) ... ", end="", flush=True)
    row = run_bounded(
        fault, rounds, rabbitmq, postgres, is_timed=not options.short, processes=options.processes
    )
    took_s = time.monotonic() - started_s
    print(
        f"{'ok' if row.is_good else 'FAILED'}  {row.acknowledged:,} acknowledged, {row.lost} lost, {took_s:.0f} s"
    )
    for line in (*row.faults, *row.notes):
        print(f"    {line}")
    sys.stdout.flush()
    return row


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__)
    parser.add_argument("--short", action="store_true", help="the short form, as the tests run it")
    parser.add_argument("--only", default="", help="faults whose name has this text")
    parser.add_argument(
        "--rounds", type=int, default=0, help="rounds of each fault instead of its own number"
    )
    parser.add_argument(
        "--processes", type=int, default=1, help="listen.processes; leaves out what can be done to one only"
    )
    parser.add_argument("--list", action="store_true", help="print the faults and their rounds")
    return parser.parse_args()


sys.exit(main())
