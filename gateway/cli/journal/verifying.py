"""``gateway journal verify``: reads every record and names what is damaged. Changes nothing."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Any

import typer

from gateway.cli.bar import bar
from gateway.cli.common import EXIT_FAULT, ConfigOption, exit_codes
from gateway.cli.journal import choosing
from gateway.cli.journal.choosing import opened
from gateway.cli.output import as_json, note
from gateway.journal import Damage, JournalReader


def verify(
    config: ConfigOption = None,
    process: choosing.Process = None,
    json_lines: Annotated[
        bool, typer.Option("--json", help="One JSON object for each damage, then one for the whole.")
    ] = False,
) -> None:
    """Check every record; exit code 1 when something is damaged.

    Bytes behind the last record are what a write under way, or cut short by a crash, leaves: they are told,
    and are no damage.
    """
    with exit_codes():
        reader = opened(choosing.load(config, process))
        damages, lost_inside, torn = _check(reader, json_lines=json_lines)
        found = {
            "id": reader.id,
            "first": reader.first,
            "head": reader.head,
            "segments": len(reader.segments),
            "bytes": reader.size,
            "good": max(0, reader.head - reader.first + 1 - lost_inside - reader.trimmed),
            "damages": damages,
            "lost": reader.lost,
            "trimmed": reader.trimmed,
            "torn_tail_bytes": torn.size if torn else 0,
        }
        typer.echo(as_json(found) if json_lines else _render(found))
        if damages:
            note(
                "Check the disk. What is lost behind the cursor reaches no sink; docs/operations.md says what"
                " else to do, under: the journal is damaged."
            )
            raise typer.Exit(EXIT_FAULT)


def _check(reader: JournalReader, *, json_lines: bool) -> tuple[int, int, Damage | None]:
    """Print each damage as it is met; return how many, positions lost inside the files, and the torn tail."""
    count, lost_inside, torn = 0, 0, None
    begin = reader.first - 1
    with bar(lambda: max(0, reader.position - begin), reader.head - begin) as shown:
        for damage in reader.verify():
            if reader.is_torn(damage):
                torn = damage
                continue
            count += 1
            lost_inside += damage.missing if damage.first_missing >= reader.first else 0
            with shown.aside() if shown else nullcontext():
                typer.echo(_json(damage) if json_lines else _line(damage))
    return count, lost_inside, torn


def _json(damage: Damage) -> str:
    return as_json(
        {
            "file": str(damage.path),
            "offset": damage.offset,
            "bytes": damage.size,
            "lost": damage.missing,
            "first_lost": damage.first_missing if damage.missing else None,
            "last_lost": damage.first_missing + damage.missing - 1 if damage.missing else None,
        }
    )


def _line(damage: Damage) -> str:
    last = damage.first_missing + damage.missing - 1
    lost = f"positions {damage.first_missing} to {last} are lost" if damage.missing else "no position is lost"
    return f"DAMAGED  {damage.path}: {damage.size:,} bytes at offset {damage.offset:,}; {lost}"


def _render(found: dict[str, Any]) -> str:
    lines = [
        f"{found['good']:,} good records in {found['segments']:,} segments, {found['bytes']:,} bytes"
        f" (positions {found['first']} to {found['head']})",
        f"{found['damages']:,} damaged places, {found['lost']:,} positions lost"
        if found["damages"]
        else "no damage",
    ]
    if found["torn_tail_bytes"]:
        lines.append(
            f"{found['torn_tail_bytes']:,} bytes behind the last record: a write under way, or cut short by a"
            " crash before anybody was answered; no damage"
        )
    if found["trimmed"]:
        lines.append(f"{found['trimmed']:,} records were removed by the gateway meanwhile: no longer kept")
    return "\n".join(lines)
