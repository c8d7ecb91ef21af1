"""Names the file systems on which "on disk" does not mean what the journal promises."""

from __future__ import annotations

import re
from pathlib import Path

_VOLATILE = {"tmpfs", "ramfs"}
_LAYER = {"overlay", "aufs"}
_REMOTE = {
    "fuse",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
    "gfs2",
    "ocfs2",
    "virtiofs",
}
_OCTAL = re.compile(r"\\([0-7]{3})")


def filesystem_of(path: Path, mountinfo: str) -> str:
    """Return the type of the file system that holds the absolute *path*; "" when *mountinfo* has none.

    The longest mount point that *path* lies under counts, the last one of equals (it covers the others).
    Source: proc_pid_mountinfo(5); blanks in names stand as octal escapes.
    """
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        if len(point) >= best and path.is_relative_to(point):
            best, kind = len(point), right.split(" ")[0]
    return kind


def filesystem_warning(folder: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Say in one line why the file system of *folder* is a risk; None when it is not, or not known."""
    try:
        kind = filesystem_of(folder.resolve(), mountinfo.read_text("utf-8", "replace"))
    except OSError:
        return None
    where = f"journal.dir {folder} is on {kind}"
    if kind in _VOLATILE:
        return f"{where}: a restart of the machine loses every callback that waits; name a folder on a disk"
    if kind in _LAYER:
        return f"{where}: callbacks that wait go with the container; mount a volume there"
    if kind in _REMOTE or kind.startswith(("nfs", "fuse.")):
        return f"{where}: fdatasync and locks may not hold there; name a folder on a local disk"
    return None
