"""``python -m tests.image``: the steps of deploy/docker/Dockerfile in a bare Debian root, then the gateway in it.

For machines without a container engine. Needs root and debootstrap. What stands between this and an engine: namespaces
other than of mounts, cgroups, the image's format, the schedule of the health check.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.gateway_process import SAMPLE, eventually
from tests.services.processes import free_ports

ROOT = Path(__file__).parent.parent
MIRROR = "http://deb.debian.org/debian"
QUERY = "SdkAppid=1400000000&CallbackCommand=Group.CallbackAfterMemberExit&contenttype=json"


@dataclass
class Stage:
    """One stage of the Dockerfile: its root, and what its instructions have set."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    folder: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def run(self, *words: str, mounts: Sequence[str] = (), env: dict[str, str] | None = None) -> None:
        """Run *words* as root in it, with *mounts* of the host to read."""
        binds = "".join(f'mkdir -p "$0{path}" && mount --bind {path} "$0{path}" && ' for path in mounts)
        script = f'{binds}mount -t proc proc "$0/proc" && cd "$0{self.folder}" && exec chroot "$0" "$@"'
        inside = ["sh", "-c", f'cd {self.folder} && exec "$@"', "sh", *words]
        command = ["unshare", "--mount", "sh", "-c", script, str(self.root), *inside]
        subprocess.run(command, check=True, env={**self.env, **(env or {})})


def instructions() -> Iterator[tuple[str, str]]:
    text = (ROOT / "deploy/docker/Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line:
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


def build(base: Path, work: Path, mounts: Sequence[str]) -> Stage:
    """Run every instruction; return the last stage."""
    stages: dict[str, Stage] = {}
    passed = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    for name, rest in instructions():
        print(name, rest[:100], flush=True)
        if name == "FROM":
            key = rest.partition(" AS ")[2] or "last"
            stage = stages[key] = Stage(work / key)
            subprocess.run(["cp", "-a", str(base), str(stage.root)], check=True)
        elif name == "RUN":
            stage.run("sh", "-c", rest, mounts=mounts, env={**passed, "DEBIAN_FRONTEND": "noninteractive"})
        elif name == "COPY":
            _copy(stage, rest.split(), stages)
        elif name == "ENV":
            for one in rest.split():
                key, _, value = one.partition("=")
                stage.env[key] = value.replace("$PATH", stage.env["PATH"])
        elif name == "WORKDIR":
            stage.folder = rest
            (stage.root / rest[1:]).mkdir(parents=True, exist_ok=True)
        elif name == "USER":
            stage.user = rest
        elif name == "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        elif name == "HEALTHCHECK":
            stage.health = json.loads(rest[rest.index("[") :])
    return stages["last"]


def _copy(stage: Stage, words: list[str], stages: dict[str, Stage]) -> None:
    source = ROOT
    if words[0].startswith("--from="):
        source = stages[words.pop(0).removeprefix("--from=")].root
    *names, target = words
    for name in names:
        to = stage.root / (target[1:] if target.startswith("/") else f"{stage.folder[1:]}/{target}")
        found = source / name.removeprefix("/")
        if found.is_dir():
            shutil.copytree(found, to, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(found, to)


def confined(stage: Stage, config: Path) -> list[str]:
    """Return a command line for a shell in the image: root read-only, its own data, no capabilities, the image's user."""
    uid, _, gid = stage.user.partition(":")
    script = (
        'mount --bind "$0" "$0" && mkdir -p "$0/etc/im-gateway" && mount -o remount,ro,bind "$0"'
        f' && mount -t tmpfs -o uid={uid},gid={gid},mode=750 data "$0{stage.folder}"'
        ' && mount -t tmpfs -o mode=1777 tmp "$0/tmp" && mount -t tmpfs conf "$0/etc/im-gateway"'
        f' && cp {config} "$0/etc/im-gateway/config.yaml" && mount -t proc proc "$0/proc"'
        f' && exec chroot "$0" setpriv --bounding-set=-all --no-new-privs --reuid={uid} --regid={gid} --clear-groups'
        f' sh -c \'cd {stage.folder} && exec "$@"\' sh "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", script, str(stage.root)]


def try_out(stage: Stage, work: Path) -> None:
    """Start the gateway in the image; a callback, its row, the health check, what is read-only, the stop."""
    port, admin_port = free_ports(2)
    config = work / "config.yaml"
    document = {
        "listen": {"port": port, "drain_s": 0.5},
        "admin": {"port": admin_port},
        "apps": {"1400000000": {}},
        "sinks": {"exits": {"kind": "sqlite", "path": "var/exits.db"}},
    }
    config.write_text(yaml.safe_dump(document))
    options = ["--config", "/etc/im-gateway/config.yaml"]
    env = {**stage.env, "HEALTH_URL": stage.env["HEALTH_URL"].replace("8081", str(admin_port))}
    process = subprocess.Popen([*confined(stage, config), *stage.entrypoint, "run", *options], env=env)
    try:
        enter = ["nsenter", f"--mount=/proc/{process.pid}/ns/mnt", "chroot", str(stage.root)]
        inside = [*enter, "setpriv", *_reuid(stage), "sh", "-c", f'cd {stage.folder} && exec "$@"', "sh"]
        eventually(
            lambda: (
                subprocess.run([*inside, *stage.health], env=env, stderr=subprocess.DEVNULL).returncode == 0
            ),
            "healthy",
        )
        url = f"http://127.0.0.1:{port}/callback?{QUERY}"
        with urllib.request.urlopen(url, SAMPLE, timeout=10) as answer:
            assert json.load(answer)["ActionStatus"] == "OK"
        exits = [*inside, *stage.entrypoint, "exits", *options, "--json"]
        eventually(lambda: b"jared" in subprocess.run(exits, env=env, capture_output=True).stdout, "the row")
        for path in ("/x", "/opt/im-gateway/x"):
            assert subprocess.run([*inside, "touch", path], env=env, capture_output=True).returncode != 0, (
                path
            )
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE), "capabilities"
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
        assert f"Uid:\t{stage.user.partition(':')[0]}\t" in status
        assert subprocess.run([*inside, "python3", "-m", "pip"], env=env, capture_output=True).returncode != 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def _reuid(stage: Stage) -> list[str]:
    uid, _, gid = stage.user.partition(":")
    return [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mirror", default=MIRROR, help=f"of Debian; {MIRROR}")
    parser.add_argument("--base", type=Path, help="a root that debootstrap made before; none: make one")
    parser.add_argument(
        "--bind", action="append", default=[], help="a folder that steps may read (certificates, say)"
    )
    given = parser.parse_args()
    if os.geteuid() != 0 or not (given.base or shutil.which("debootstrap")):
        sys.exit("Needs root and debootstrap: apt-get install debootstrap")
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="im-gateway-image-") as temporary:
        work = Path(temporary)
        work.chmod(0o755)
        base = given.base or work / "base"
        if not given.base:
            subprocess.run(["debootstrap", "--variant=minbase", "bookworm", base, given.mirror], check=True)
        stage = build(base, work, given.bind)
        size = subprocess.run(["du", "-sm", stage.root], capture_output=True, text=True, check=True)
        try_out(stage, work)
    print(f"The image works: {size.stdout.split()[0]} MB, {time.monotonic() - began_s:.0f} s")


if __name__ == "__main__":
    main()
