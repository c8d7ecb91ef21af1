"""Which processes a process has started, as the kernel knows them."""

from __future__ import annotations

from pathlib import Path


def children_of(pid: int) -> dict[int, list[str]]:
    """Return the processes that *pid* has started and that run, with the words of their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, *_ = path.read_text().rpartition(")")[2].split()
            words = path.with_name("cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found[int(path.parent.name)] = words
    return found


def processes_of(pid: int) -> dict[str, int]:
    """Return the processes of the gateway whose supervisor is *pid*, by name: ``receiver 1``, ``worker``."""
    return {
        words[-3]: child for child, words in children_of(pid).items() if "gateway.processes.child" in words
    }


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
