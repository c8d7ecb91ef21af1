"""docs/python-sink.md, done as a reader does it: every file as it stands there, every command as it stands there."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway_process import eventually
from tests.services.processes import free_ports

PAGE = (Path(__file__).parent.parent / "docs/python-sink.md").read_text()
TUTORIAL = PAGE.split("\nThat is all.")[0]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", flags=re.M | re.S)
FILE = re.compile(r"`([\w.]+)`:\n\n\Z")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator["Shell"]:
    """A terminal in an empty folder, with the gateway installed and ports that are free."""
    shell = Shell(tmp_path)
    yield shell
    shell.close()


class Shell:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = zip(("LISTEN__PORT", "ADMIN__PORT"), free_ports(2), strict=True)
        programs = str(Path(sys.executable).parent)
        self._environ = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "GATEWAY__LISTEN__DRAIN_S": "0.1",
            "GATEWAY__JOURNAL__MIN_FREE_MB": "0",
            **{f"GATEWAY__{name}": str(port) for name, port in ports},
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def run(self, command: str) -> str:
        """Run *command* to its end; return what it printed."""
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.folder, env=self._environ, timeout=60,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def start(self, command: str) -> None:
        """Run *command* in a terminal of its own; return once it says that it is ready."""
        out = self.folder / "terminal.out"
        with out.open("wb") as file:
            process = subprocess.Popen(
                command.split(), cwd=self.folder, env=self._environ, stdout=file, stderr=subprocess.STDOUT
            )
        self._started.append(process)
        eventually(lambda: b"is ready" in out.read_bytes() or process.poll() is not None, "ready")
        assert process.poll() is None, out.read_text()

    def close(self) -> None:
        for process in self._started:
            process.terminate()
            process.wait(30)


def test_the_tutorial_works_as_it_is_written(shell: Shell) -> None:
    """Whoever types it in gets what the page shows."""
    command, shown, files = "", 0, set()
    for found in BLOCK.finditer(TUTORIAL):
        language, text = found[1], found[2]
        if language in ("python", "yaml"):
            [name] = FILE.findall(TUTORIAL[: found.start()])
            (shell.folder / name).write_text(text)
            files.add(name)
        elif language == "sh":
            command = text.strip()
            if command == "gateway run":
                shell.start(command)
            else:
                shell.run(command)
        else:
            assert language == "text"
            shown += 1
            # Why again and again: an event takes a moment to come to the table.
            eventually(lambda: text.strip() in shell.run(command), f"{text!r} of {command!r}")  # noqa: B023

    assert files == {"my_sinks.py", "config.yaml", "test_my_sinks.py"}
    assert shown == 3
    assert '"level": "error"' not in (shell.folder / "terminal.out").read_text()


def test_what_follows_the_tutorial_is_python() -> None:
    """The examples for looking things up can be read, too."""
    found = [text for language, text in BLOCK.findall(PAGE) if language == "python"]

    assert len(found) == 3
    assert all(compile(text, "example", "exec") for text in found)
