"""Installs the servers that the tests need and that are missing, with apt-get.

The packages' own services are kept from starting: a test machine needs the programs only.
"""

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.services import MariaDB, Postgres, Prometheus, RabbitMQ, Redis
from tests.services.programs import PROGRAMS

APT = ["apt-get", "-qq", "-y", "-o", "DPkg::Lock::Timeout=300"]
LOCK = Path("/run/lock/im-gateway-tests-install")
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_BEFORE = Path("/usr/sbin/policy-rc.d.before-im-gateway-tests")
POLICY_MARK = "# im-gateway-tests: no service starts while packages are installed"
CLUSTERS = Path("/etc/postgresql-common/createcluster.d")
CLUSTERS_OFF = CLUSTERS / "im-gateway-tests.conf"


def missing_packages() -> list[str]:
    wanted = (RabbitMQ, Postgres, MariaDB, Redis, Prometheus, *PROGRAMS)
    return list(dict.fromkeys(one.package for one in wanted if not one.is_installed()))


def install() -> int:
    """Return 0 once nothing is missing, else 1 after saying what an administrator has to do."""
    if not (missing := missing_packages()):
        return 0
    if os.geteuid() != 0 and _can_sudo():
        return subprocess.call(["sudo", "-n", sys.executable, "-B", "-m", "tests.services", "install"])
    command = [*APT, "install", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(f"Missing for the tests: {', '.join(missing)}.", file=sys.stderr)
        print(f"An administrator installs it with:  {_manual_command(missing)}", file=sys.stderr)
        return 1
    print(f"Installing {', '.join(missing)} for the tests (first time only) ...", flush=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("stopped"))
    with services_held():
        return int(not (_apt([*APT, "update"]) and _apt(command))) or _verify()


def _manual_command(missing: list[str]) -> str:
    return f"sudo apt-get update && sudo apt-get install --no-install-recommends {shlex.join(missing)}"


def _verify() -> int:
    if missing := missing_packages():
        print(f"Installed, but its programs were not found: {', '.join(missing)}.", file=sys.stderr)
    return int(bool(missing))


def _can_sudo() -> bool:
    return (
        bool(shutil.which("sudo"))
        and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0
    )


def _apt(command: list[str]) -> bool:
    """Run quietly; on failure show what it said."""
    result = subprocess.run(
        command,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if result.returncode != 0:
        print(f"{shlex.join(command)} failed:\n{result.stdout}", file=sys.stderr)
    return result.returncode == 0


@contextlib.contextmanager
def services_held() -> Iterator[None]:
    """Keep services from starting and database clusters from being made, then restore what was.

    One installation at a time; what one killed with -9 left behind is put right by the next.
    """
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        had_clusters_folder = CLUSTERS.is_dir()
        _restore(remove_clusters_folder=False)
        try:
            _hold()
            yield
        finally:
            _restore(remove_clusters_folder=not had_clusters_folder)


def _hold() -> None:
    if POLICY.exists() or POLICY.is_symlink():
        POLICY.rename(POLICY_BEFORE)
    POLICY.write_text(f"#!/bin/sh\n{POLICY_MARK}\nexit 101\n")
    POLICY.chmod(0o755)
    CLUSTERS.mkdir(parents=True, exist_ok=True)
    CLUSTERS_OFF.write_text("create_main_cluster = false\n")


def _restore(*, remove_clusters_folder: bool) -> None:
    if POLICY.is_file() and POLICY_MARK in POLICY.read_text(errors="replace"):
        POLICY.unlink()
    if POLICY_BEFORE.exists() or POLICY_BEFORE.is_symlink():
        POLICY_BEFORE.rename(POLICY)
    CLUSTERS_OFF.unlink(missing_ok=True)
    if remove_clusters_folder:
        with contextlib.suppress(OSError):  # not empty: a package has put something there
            CLUSTERS.rmdir()
