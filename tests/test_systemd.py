"""The units in deploy/systemd, by systemd's own tools: they are valid, hardened, and alike where they should be."""

import subprocess
from pathlib import Path

import pytest

from tests.gateway_process import GATEWAY
from tests.services.programs import SYSTEMD_ANALYZE

FOLDER = Path(__file__).parent.parent / "deploy/systemd"
UNITS = sorted(path.name for path in FOLDER.glob("*.service"))
EXPOSURE = 13  # tenths; the score that docs/deploy.md names, rounded up


def settings(name):
    """Return the lines of [Service] that are no comments."""
    text = (FOLDER / name).read_text().partition("\n[Service]\n")[2].partition("[Install]")[0]
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_valid(name, tmp_path):
    """systemd-analyze verify says nothing of any line."""
    unit = tmp_path / name.replace("@.", "@crm.")
    unit.write_text((FOLDER / name).read_text().replace("/opt/im-gateway/.venv/bin/gateway", GATEWAY))
    done = subprocess.run([SYSTEMD_ANALYZE.path(), "verify", unit], capture_output=True, text=True)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_hardened(name):
    """`systemd-analyze security` finds no more exposure than the documentation says."""
    command = [SYSTEMD_ANALYZE.path(), "security", "--offline=true", f"--threshold={EXPOSURE}", FOLDER / name]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout[-200:]


def test_all_roles_are_confined_alike():
    """Units differ in the command and in the time they may take to stop, in nothing else."""
    own = ("ExecStart=", "TimeoutStopSec=")
    common = [[line for line in settings(name) if not line.startswith(own)] for name in UNITS]

    assert len(UNITS) == 4
    assert all(one == common[0] for one in common)
