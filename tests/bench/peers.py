"""Who is measured: the gateway and its peers, each as a process that answers callbacks on a port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import yaml

HERE = Path(__file__).parent / "peers"
TOKEN = "a-token-for-the-benchmark"
NODE_PACKAGES = ("fastify@5", "amqplib@0.10")
MQ_BRIDGE = "mq-bridge-basic==1.2.0"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Peers:
    """Installs what is missing into *folder*; what can't be installed is left out, with a word."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.absent: dict[str, str] = {}
        self._processes, self._admin_port = 1, 0

    @property
    def names(self) -> list[str]:
        found = ["aiohttp, only answers", "aiohttp + aio-pika, confirm"]
        if self._has_node():
            found.append("Fastify + amqplib, confirm")
        if self._has_mq_bridge():
            found.append("mq-bridge, confirm")
        return [*found, "gateway, one process", "gateway, two processes", "gateway, broker away"]

    @contextmanager
    def running(self, name: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
        """Run the peer; yields its port and process once it listens."""
        port = free_port()
        process = subprocess.Popen(
            self._command(name, port), cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "NODE_PATH": str(self.folder / "node_modules")},
        )  # fmt: skip
        try:
            _wait_for(port, process, name)
            if name.startswith("gateway"):
                self._wait_for_processes()
            yield port, process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _command(self, name: str, port: int) -> list[str]:
        if name.startswith("gateway"):
            return [
                str(Path(sys.executable).with_name("gateway")),
                "serve",
                "--config",
                self._config(name, port),
            ]
        if name.startswith("Fastify"):
            return ["node", str(HERE / "fastify_confirm.cjs"), str(port), self.url]
        if name.startswith("mq-bridge"):
            return [
                str(self.folder / "mq-bridge/bin/python"),
                str(HERE / "bridge.py"),
                str(port),
                self.url,
            ]
        script = "floor.py" if "only" in name else "aio_pika_confirm.py"
        return [sys.executable, str(HERE / script), str(port), self.url]

    def _config(self, name: str, port: int) -> str:
        self._processes, self._admin_port = 2 if "two" in name else 1, free_port()
        journal = self.folder / "journal"
        shutil.rmtree(journal, ignore_errors=True)
        url = self.url if "away" not in name else f"amqp://127.0.0.1:{free_port()}"
        config = {
            "listen": {"port": port, "processes": self._processes},
            "admin": {"port": self._admin_port},
            "apps": {"1400000000": {"path": "/callback", "tokens": [TOKEN]}},
            "journal": {"dir": str(journal), "min_free_mb": 0},
            "broker": {"url": url},
            "sinks": {"bench": {"kind": "jsonl", "path": str(self.folder / "unused.jsonl")}},
        }
        path = self.folder / "gateway.yaml"
        path.write_text(yaml.safe_dump(config))
        return str(path)

    def _wait_for_processes(self) -> None:
        """Return once each process takes callbacks: the port is open before that."""
        wanted = f"gateway_processes_up {self._processes}.0".encode()
        ends_s = time.monotonic() + 30
        while time.monotonic() < ends_s:
            with (
                suppress(OSError),
                urlopen(f"http://127.0.0.1:{self._admin_port}/metrics", timeout=10) as page,
            ):
                if wanted in page.read():
                    return
            time.sleep(0.1)
        raise RuntimeError(f"not all of {self._processes} processes take callbacks")

    def _has_node(self) -> bool:
        if (self.folder / "node_modules/fastify").exists():
            return True
        if shutil.which("npm") is None:
            self.absent["Fastify + amqplib, confirm"] = "npm is not installed"
            return False
        done = subprocess.run(
            ["npm", "install", "--silent", "--no-save", "--prefix", str(self.folder), *NODE_PACKAGES],
            capture_output=True,
        )
        if done.returncode:
            self.absent["Fastify + amqplib, confirm"] = "npm could not install it"
        return not done.returncode

    def _has_mq_bridge(self) -> bool:
        home = self.folder / "mq-bridge"
        if not home.exists():
            venv.create(home, with_pip=True)
        done = subprocess.run([home / "bin/pip", "install", "--quiet", MQ_BRIDGE], capture_output=True)
        if done.returncode:
            self.absent["mq-bridge, confirm"] = "pip could not install it"
        return not done.returncode


def _wait_for(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    ends_s = time.monotonic() + 30
    while time.monotonic() < ends_s and process.poll() is None:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{name} does not listen")
