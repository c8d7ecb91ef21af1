"""A private Prometheus server on a free port of 127.0.0.1."""

import contextlib
import json
import shutil
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from tests.services.processes import HOST, Processes, ServerFailed, ServerMissing, free_ports, wait_until

START_TIMEOUT_S = 30.0
PROGRAMS = ("prometheus", "promtool")


class Prometheus:
    """A server that scrapes *jobs* (name → ports of 127.0.0.1) every second, until ``close()``."""

    package: ClassVar[str] = "prometheus"

    def __init__(self, jobs: dict[str, list[int]], rules: Sequence[Path]) -> None:
        if not self.is_installed():
            raise ServerMissing(self.package)
        self._processes = Processes("prometheus-", user="nobody")
        try:
            self._start(jobs, rules)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def is_installed() -> bool:
        return all(shutil.which(program) for program in PROGRAMS)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the result vector now; raises ServerFailed for an expression that is none."""
        found = self.api("query", query=expression)["result"]
        return found if isinstance(found, list) else [found]

    def api(self, path: str, **params: str) -> dict[str, Any]:
        """Return ``data`` of the answer; raises ServerFailed with what the server says."""
        url = f"http://{HOST}:{self.port}/api/v1/{path}?{urllib.parse.urlencode(params)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                data: dict[str, Any] = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ServerFailed(f"{params}: {error.read().decode(errors='replace')}") from None
        return data

    def close(self) -> None:
        """End the server and remove its folder."""
        self._processes.close()

    def _start(self, jobs: dict[str, list[int]], rules: Sequence[Path]) -> None:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(self._processes.write(path.name, path.read_text())) for path in rules],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [f"{HOST}:{port}" for port in ports]}]}
                for job, ports in jobs.items()
            ],
        }
        (self.port,) = free_ports(1)
        folder = self._processes.folder
        pid = self._processes.spawn(
            *(
                "prometheus",
                f"--config.file={self._processes.write('prometheus.yml', yaml.safe_dump(config))}",
            ),
            *(f"--storage.tsdb.path={folder}/data", f"--web.listen-address={HOST}:{self.port}"),
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(folder)},
            output=folder / "log",
        )
        wait_until(lambda: self._has_started(pid), START_TIMEOUT_S, "Prometheus to start")

    def _has_started(self, pid: int) -> bool:
        if self._processes.returncode(pid) is not None:
            log = (self._processes.folder / "log").read_text(errors="replace")
            raise ServerFailed(f"Prometheus did not start:\n{log[-4000:]}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://{HOST}:{self.port}/-/ready", timeout=5).close()
            return True
        return False
