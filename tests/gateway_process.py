"""A real gateway process for system tests: as installed, its own folder, free ports, killed at the end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.services.processes import free_ports

GATEWAY = str(Path(sys.executable).with_name("gateway"))
SAMPLE = (Path(__file__).parent / "samples/callbacks/Group.CallbackAfterMemberExit.json").read_bytes()
DEADLINE_S = 30.0


def eventually(condition: Any, what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Return what *condition* returns once it is true; AssertionError naming *what* after the deadline."""
    ends_s = time.monotonic() + deadline_s
    while time.monotonic() < ends_s:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {deadline_s:g} s")


class Gateway:
    """One folder with a configuration, and the processes started on it."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.folder = folder
        self.port, self.admin_port, self.worker_port = free_ports(3)
        self.senders: list[Sender] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        config: dict[str, Any] = {
            "listen": {"port": self.port, "drain_s": 0.2, **sections.pop("listen", {})},
            "admin": {"port": self.admin_port, "worker_port": self.worker_port},
            "apps": sections.pop("apps", {"1400000000": {}}),
            "journal": {"min_free_mb": 0, **sections.pop("journal", {})},
            "sinks": {
                "audit": {"kind": "jsonl", "path": "var/events.jsonl"},
                "exits": {"kind": "sqlite", "path": "var/exits.db", "events": ["im.group.member.exited.#"]},
            },
            "log": {"format": "json"},
            **sections,
        }
        folder.mkdir(parents=True, exist_ok=True)
        self._config = config
        self._write()

    def change(self, keys: Sequence[str], value: Any) -> None:
        """Set one key of the configuration, for processes that start from now on."""
        section = self._config
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = value
        self._write()

    def _write(self) -> None:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self._config))

    def start(
        self, command: str = "run", *options: str, wait: bool = True, launcher: Sequence[str] = (GATEWAY,),
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        """Start ``gateway <command>``; with *wait*, return once it has printed that it is ready.

        *launcher* stands for the program ``gateway``.
        """
        out = (self.folder / f"{len(self.processes)}-{command}.out").open("wb")
        err = (self.folder / f"{len(self.processes)}-{command}.err").open("wb")
        with out, err:
            process = subprocess.Popen(
                [*launcher, command, *options], cwd=self.folder, stdout=out, stderr=err,
                env=_environment(),
            )  # fmt: skip
        self.processes.append(process)
        if wait:
            path = Path(out.name)
            eventually(lambda: b"is ready" in path.read_bytes() or process.poll() is not None, "ready")
            assert process.poll() is None, self.logs()
        return process

    def command(self, *words: str, expect: int = 0) -> str:
        """Run a command to its end; return what it printed on both streams."""
        done = subprocess.run(
            [GATEWAY, *words], cwd=self.folder, env=_environment(), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout + done.stderr

    def stop(self, process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
        """Signal *process* and return its exit code."""
        process.send_signal(number)
        return process.wait(DEADLINE_S)

    def sender(self) -> Sender:
        """Return a client of this gateway; it is closed with it."""
        self.senders.append(Sender(self.port))
        return self.senders[-1]

    def close(self) -> None:
        for sender in self.senders:
            sender.close()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(DEADLINE_S)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.err")))

    def lines(self) -> list[dict[str, Any]]:
        """Return the events in the jsonl sink, in order; a line that is being written is left out."""
        path = self.folder / "var/events.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]

    def metrics(self, port: int | None = None) -> dict[str, float]:
        """Return the samples of /metrics by name and labels: ``gateway_sink_written_total{sink=audit}``."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port or self.admin_port}/metrics", timeout=10
        ) as page:
            text = page.read().decode()
        return {
            one.name + (("{" + ",".join(f"{k}={v}" for k, v in one.labels.items()) + "}") if one.labels else ""):
            one.value
            for family in text_string_to_metric_families(text)
            for one in family.samples
        }  # fmt: skip

    def get(self, path: str, port: int | None = None) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port or self.admin_port}{path}", timeout=10
            ) as page:
                return page.status, page.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@contextmanager
def gateways(folder: Path) -> Iterator[Callable[..., Gateway]]:
    """Yield a function that makes a Gateway in a folder of its own below *folder*; all are closed at the end."""
    made: list[Gateway] = []

    def build(**sections: Any) -> Gateway:
        made.append(Gateway(folder / str(len(made)), **sections))
        return made[-1]

    yield build
    for gateway in made:
        gateway.close()


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("GATEWAY")}


class Sender:
    """A keep-alive client that posts numbered callbacks and remembers which were acknowledged."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self.acknowledged: list[int] = []
        self.refused: list[int] = []

    def post(self, number: int, **fields: Any) -> bool:
        """Post callback *number*; True when it was answered 200. A lost connection is a False."""
        body = json.dumps(body_of(number, **fields)).encode()
        query = "SdkAppid=1400000000&CallbackCommand=Group.CallbackAfterMemberExit&contenttype=json"
        head = f"POST /callback?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        try:
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=10)
            self._socket.sendall(head + body)
            answer = self._receive()
        except OSError:
            self.close()
            return False
        is_ok = answer.startswith(b"HTTP/1.1 200") and b'"ActionStatus":"OK"' in answer
        (self.acknowledged if is_ok else self.refused).append(number)
        if b"connection: close" in answer.lower():
            self.close()
        return is_ok

    def _receive(self) -> bytes:
        assert self._socket is not None
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
            received = self._socket.recv(65536)
            if not received:
                raise ConnectionError("closed before the answer")
            answer += received
        return answer

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def body_of(number: int, **fields: Any) -> dict[str, Any]:
    """Return a member exit that *number* tells apart from all others."""
    return {
        "CallbackCommand": "Group.CallbackAfterMemberExit",
        "GroupId": "@TGS#1",
        "Type": "Public",
        "ExitType": "Quit",
        "Operator_Account": f"u{number}",
        "ExitMemberList": [{"Member_Account": f"u{number}"}],
        "EventTime": 1_670_574_414_123 + number,
        **fields,
    }


def number_of(event: dict[str, Any]) -> int:
    return int(event["data"]["raw"]["Operator_Account"][1:])
