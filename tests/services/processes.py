"""What every test server needs: its supervised processes, ports, and waiting for it."""

import json
import os
import pwd
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
RETRY_S = 0.02
# Why: a port of the ephemeral range could be taken by any outgoing connection while its server is
#      stopped; on loopback a client that retries can even connect to itself there.
PORTS = range(15000, 32000)


class ServerMissing(Exception):
    """The server's program is not installed; says which package brings it."""


class ServerFailed(Exception):
    """A server, or a program that came with it, did not do what it was started for."""


class Processes:
    """The processes and the folder of one server, held by a supervisor process.

    ``folder`` belongs to *user* where we are root, else to us; the processes run as its owner.
    Safe to use from several threads.
    """

    def __init__(self, prefix: str, user: str) -> None:
        self.uid, self.gid = os.geteuid(), os.getegid()
        if self.uid == 0:
            _, _, self.uid, self.gid, *_ = pwd.getpwnam(user)
        self._lock = threading.Lock()
        self._supervisor = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", str(Path(__file__).with_name("supervisor.py"))),
                *(prefix, str(self.uid), str(self.gid)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Why: Ctrl-C is for the test run, which then closes us in order
        )
        self.folder = Path(self._answer()["folder"])

    def spawn(
        self, *argv: str | Path, env: Mapping[str, str], output: Path, end_signal: int = signal.SIGKILL
    ) -> int:
        """Return the process id of *argv*, started in a session of its own."""
        pid: int = self._ask(
            op="spawn",
            argv=[str(word) for word in argv],
            env=dict(env),
            output=str(output),
            end_signal=int(end_signal),
        )["pid"]
        return pid

    def run(self, *argv: str | Path, env: Mapping[str, str], timeout_s: float = 60) -> str:
        """Return what *argv* printed; raise ServerFailed with it unless it exits with 0."""
        output = self.folder / f"output-{random.getrandbits(64):x}"
        pid = self.spawn(*argv, env=env, output=output)
        try:
            ending = f"exited with {self.wait(pid, timeout_s)}"
        except TimeoutError:
            self.signal(pid, signal.SIGKILL, whole_tree=True)
            ending = f"did not end within {timeout_s} s"
        printed = output.read_text(errors="replace")
        output.unlink()
        if ending != "exited with 0":
            raise ServerFailed(f"{argv[0]} {ending}: {printed.strip()}")
        return printed

    def returncode(self, pid: int) -> int | None:
        code: int | None = self._ask(op="poll", pid=pid)["returncode"]
        return code

    def wait(self, pid: int, timeout_s: float) -> int:
        wait_until(lambda: self.returncode(pid) is not None, timeout_s, f"the end of process {pid}")
        return self.returncode(pid) or 0

    def signal(self, pid: int, number: int, *, whole_tree: bool = False) -> None:
        self._ask(op="signal", pid=pid, signal=int(number), whole_tree=whole_tree)

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """Return the path of a new file in the folder, readable for the server."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text)
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid)
        return path

    def close(self) -> None:
        """Kill all processes and remove the folder; returns once that is done."""
        with self._lock:
            self._supervisor.communicate()

    def _ask(self, **request: Any) -> dict[str, Any]:
        with self._lock:
            assert self._supervisor.stdin
            self._supervisor.stdin.write(json.dumps(request).encode() + b"\n")
            self._supervisor.stdin.flush()
            answer = self._answer()
        if "error" in answer:
            raise ServerFailed(answer["error"])
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._supervisor.stdout
        answer: dict[str, Any] = json.loads(self._supervisor.stdout.readline())
        return answer


def wait_until(is_done: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for {what}")
        time.sleep(RETRY_S)


def free_ports(count: int) -> list[int]:
    """Return *count* ports of 127.0.0.1 on which nothing listens."""
    return [port for port in random.sample(PORTS, len(PORTS) // 10) if _is_free(port)][:count]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
