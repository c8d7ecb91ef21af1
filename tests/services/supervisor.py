"""Owns the processes and the folder of one test server, and ends both when its parent is gone.

Stands alone (``python -I -S supervisor.py PREFIX UID GID``): answers one JSON line on stdout for each
on stdin. End of stdin or of the parent ends it, so a test run killed with -9 leaves nothing behind.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 5.0  # for processes that ask for another end than SIGKILL
Request = dict[str, Any]


class Supervisor:
    def __init__(self, prefix: str, uid: int, gid: int) -> None:
        # Why: TMPDIR may be long, or closed to the user that the server runs as.
        self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            os.chown(self.folder, uid, gid)
            self.user = {"user": uid, "group": gid, "extra_groups": []}
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.end_signals: dict[int, int] = {}

    def answer(self, request: Request) -> Request:
        self.reap()
        match request["op"]:
            case "spawn":
                return {"pid": self.spawn(request)}
            case "poll":
                return {"returncode": self.processes[request["pid"]].poll()}
            case "signal":
                self.send_signal(request["pid"], request["signal"], whole_tree=request["whole_tree"])
        return {}

    def spawn(self, request: Request) -> int:
        with Path(request["output"]).open("ab") as output:
            process = subprocess.Popen(
                request["argv"],
                env=request["env"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **self.user,
            )
        self.processes[process.pid] = process
        self.end_signals[process.pid] = request["end_signal"]
        return process.pid

    def send_signal(self, pid: int, number: int, *, whole_tree: bool) -> None:
        if self.processes[pid].poll() is not None:
            return
        for target in [pid, *(descendants(pid) if whole_tree else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(target, number)

    def reap(self) -> None:
        """Collect every child that has exited, those adopted from servers that fork included."""
        with contextlib.suppress(ChildProcessError):
            while exited := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if exited.si_pid in self.processes:
                    self.processes[exited.si_pid].wait()
                else:
                    os.waitpid(exited.si_pid, 0)

    def end(self) -> None:
        for pid, number in self.end_signals.items():
            self.send_signal(pid, signal.SIGCONT, whole_tree=False)
            self.send_signal(pid, number, whole_tree=False)
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and any(p.poll() is None for p in self.processes.values()):
            time.sleep(0.01)
        while left := descendants(os.getpid()):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.reap()
            time.sleep(0.005)
        shutil.rmtree(self.folder, ignore_errors=True)


def descendants(root: int) -> list[int]:
    """Return the ids of all processes below *root*, zombies included."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = stat.read_text(errors="replace").rpartition(")")[2].split()[1]
            children[int(parent)].append(int(stat.parent.name))
    found = list(children[root])
    for pid in found:  # grows while it is read
        found += children[pid]
    return found


def requests(parent: int) -> Iterator[Request]:
    """Yield what the parent asks for, until it closes the pipe or is gone.

    Why both: a fork of the parent may hold the pipe open for longer than the parent lives.
    """
    pipe = sys.stdin.fileno()
    watched = [pipe]
    with contextlib.suppress(OSError):  # a kernel without it: the pipe has to do
        watched.append(os.pidfd_open(parent))
    pending = b""
    while ready := select.select(watched, [], [])[0]:
        if ready != [pipe] or not (chunk := os.read(pipe, 65536)):
            return
        *lines, pending = (pending + chunk).split(b"\n")
        yield from (json.loads(line) for line in lines)


def say(answer: Request) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main(prefix: str, uid: str, gid: str) -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    supervisor = Supervisor(prefix, int(uid), int(gid))
    try:
        say({"folder": str(supervisor.folder)})
        for request in requests(parent):
            try:
                say(supervisor.answer(request))
            except (OSError, subprocess.SubprocessError) as error:
                say({"error": str(error)})
    except BrokenPipeError:
        sys.stdout = None  # the parent is gone: nobody is left to tell
    finally:
        supervisor.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
