"""A folder with a configuration and a real journal, and the commands of ``gateway journal`` run on it."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from gateway.callback import Callback
from gateway.cli import app
from gateway.config import Config
from gateway.journal import Journal
from gateway.metrics import Metrics

APP = "1400000000"
EXIT = "Group.CallbackAfterMemberExit"
NOW_MS = 1_700_000_000_000  # 2023-11-14T22:13:20Z


def callback(
    number: int, command: str = EXIT, *, app_id: str = APP, body: bytes | None = None, **changes: Any
) -> Callback:
    """Return a callback that *number* tells apart: one a second from NOW_MS on."""
    if body is None:
        body = json.dumps(
            {
                "CallbackCommand": command,
                "GroupId": "@TGS#1",
                "Type": "Public",
                "ExitType": "Quit",
                "Operator_Account": f"u{number}",
                "ExitMemberList": [{"Member_Account": f"u{number}"}],
                "EventTime": 1_670_574_414_123 + number,
            }
        ).encode()
    fields: dict[str, Any] = {
        "app_id": app_id,
        "query": f"SdkAppid={app_id}&CallbackCommand={command}&contenttype=json&ClientIP=192.0.2.9&OptPlatform=Web",
        "body": body,
        "peer": "192.0.2.1",
        "received_ms": NOW_MS + number * 1000,
        "verified": True,
        "id_recipe": 1,
        "id_window_s": 10,
    }
    return Callback(**{**fields, **changes})


class JournalFolder:
    """Commands run inside the test's process; each gets the configuration by its path."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.folder = folder
        self.path = folder / "config.yaml"
        self.sections: dict[str, Any] = {
            "apps": {APP: {}},
            "sinks": {
                "all": {"kind": "sqlite", "path": str(folder / "all.db")},
                "exits": {
                    "kind": "sqlite",
                    "path": str(folder / "exits.db"),
                    "events": ["im.group.member.exited.#"],
                },
            },
            "broker": {"url": f"embedded:{folder}/broker.db"},
            **sections,
            "journal": {"dir": str(folder / "journal"), "min_free_mb": 0, **sections.get("journal", {})},
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.write()

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def config(self) -> Config:
        return Config(**self.sections)

    def write(self) -> None:
        self.path.write_text(yaml.safe_dump(self.sections))

    def store(self, callbacks: Sequence[Callback], confirm: int = 0) -> str:
        """Append *callbacks*, move the cursor to *confirm*, close; return the journal's id."""
        return asyncio.run(self._store(callbacks, confirm))

    async def _store(self, callbacks: Sequence[Callback], confirm: int) -> str:
        journal = Journal.open(self.config.journal, Metrics())
        try:
            # Why one after the other: a group is never split, so only so do small segments roll in small steps.
            for one in callbacks:
                await journal.append(one)
            journal.confirm(confirm)
            return journal.id
        finally:
            await journal.close()

    def run(self, *words: str, expect: int = 0) -> Result:
        done = CliRunner().invoke(app, ["journal", *words, "--config", str(self.path)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        assert done.exit_code == expect, done.output
        return done

    def lines(self, *words: str) -> list[Any]:
        """Return the JSON lines that a command printed."""
        return [json.loads(line) for line in self.run(*words, "--json").stdout.splitlines()]

    def positions(self, *words: str) -> list[int]:
        return [one["position"] for one in self.lines("list", *words)]

    def segments(self) -> list[Path]:
        return sorted(self.journal.glob("*.seg"))

    def flip(self, at: int, segment: int = 0) -> None:
        """Change one bit of the segment file number *segment*, at the offset *at* (negative: from the end)."""
        path = self.segments()[segment]
        data = bytearray(path.read_bytes())
        data[at] ^= 0x10
        path.write_bytes(data)

    def state(self) -> dict[str, tuple[int, bytes]]:
        """Return every file of the journal with its time of change and contents."""
        files = sorted(path for path in self.journal.rglob("*") if path.is_file())
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
