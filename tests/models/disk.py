"""A disk with a page cache: what was not synced is kept, torn or lost when the power goes.

Stands between the gateway and the files under one folder. The files themselves always hold what the page cache
would, so reading needs no help. Syncs are only noted, never done.
"""

import os
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from unittest import mock

from tests.models.world import Died

CALLS = ("open", "close", "pwrite", "ftruncate", "fdatasync", "fsync", "unlink", "rename", "mkdir")
REAL = {name: getattr(os, name) for name in CALLS}
PAGE = 512
SECTORS = (64, 512)
DATA = ("all", "none", "torn", "sectors", "some")
"""What a power cut leaves of writes that were not synced: everything, nothing, the first bytes of what was
written, any sectors, any of the calls."""
NAMES = ("all", "none", "some")


@dataclass(eq=False)
class Inode:
    """A file: what is on the disk for sure, and the writes since, each ``(offset, bytes)`` or a new size."""

    durable: bytes = b""
    changes: list = field(default_factory=list)

    def sync(self):
        self.durable, self.changes = _changed(self.durable, self.changes), []

    def after_a_cut(self, random, how):
        if how == "torn" and self.changes:
            whole = random.randrange(len(self.changes))
            return _changed(self.durable, [*self.changes[:whole], *_torn(self.changes[whole], random)])
        if how == "sectors":
            return _some_sectors(self.durable, _changed(self.durable, self.changes), random)
        if how == "some":
            return _changed(self.durable, [one for one in self.changes if random.random() < 0.5])
        return self.durable if how == "none" else _changed(self.durable, self.changes)


def _changed(content, changes):
    content = bytearray(content)
    for change in changes:
        if isinstance(change, int):
            del content[change:]
            content.extend(bytes(change - len(content)))
        else:
            at, data = change
            content.extend(bytes(max(0, at - len(content))))
            content[at : at + len(data)] = data
    return bytes(content)


def _torn(change, random):
    if isinstance(change, int):
        return []
    at, data = change
    return [(at, data[: random.randrange(len(data) + 1)])]


def _some_sectors(old, new, random):
    sector, size = random.choice(SECTORS), random.choice((len(old), len(new)))
    content = bytearray()
    for at in range(0, size, sector):
        chosen = new if random.random() < 0.5 else old
        content += chosen[at : at + sector].ljust(min(sector, size - at), b"\0")[: size - at]
    return bytes(content)


def _whole_pages(at, size, part):
    """Return how many bytes of a write at offset *at* the page cache has when its process is killed.

    A process that is killed leaves no page half written. Pages are small here, so that records lie on several.
    """
    pages = [0, *range(PAGE - at % PAGE, size, PAGE), size]
    return pages[min(int(part * len(pages)), len(pages) - 1)]


def _apply(names, kind, *of):
    if kind == "link":
        names[of[0]] = of[1]
    elif kind == "unlink":
        names.pop(of[0], None)
    elif of[0] in names:
        names[of[1]] = names.pop(of[0])


class Disk:
    """The part of the disk below the folder *base*. *image* is what stands there: a name's bytes, None a folder."""

    def __init__(self, base, image=None):
        self.base = base
        self.is_dead = False
        self.die_in = 0
        """Die at so many calls from now; 0: do not."""
        self.die_part = 0.0
        """How much of the write at which it dies is still done."""
        self.full = 0
        """errno of what needs room; 0 while there is some."""
        self.full_for_all = False
        """Overwriting needs room too, as where every write makes a copy."""
        self.full_part = 0.0
        """How much of the next write is done before it is short of room."""
        self.fail_sync = 0
        """errno of the next fdatasync of a segment."""
        self.random = None
        """Says what is left of the writes that a failed fdatasync was for."""
        self.on_call = self.on_failed_sync = lambda: None
        self._fds = {}
        self._set(image or {})

    @contextmanager
    def in_force(self):
        with ExitStack() as stack:
            for name in CALLS:
                stack.enter_context(mock.patch.object(os, name, getattr(self, name)))
            yield self

    def restart(self):
        """A process has ended: its files are closed, what it wrote stays in the page cache."""
        for fd in self._fds:
            REAL["close"](fd)
        self._fds.clear()
        self.is_dead = False
        self.die_in = self.fail_sync = 0

    def image_after_cut(self, random, data, names):
        """Return what may stand on the disk after a power cut, by name."""
        left = dict(self._durable)
        for change in self._pending:
            if names == "all" or (names == "some" and random.random() < 0.5):
                _apply(left, *change)
        kept = {}
        for name, inode in sorted(left.items()):
            if os.path.dirname(name) in ("", *kept):
                kept[name] = None if inode is None else inode.after_a_cut(random, data)
        return kept

    def cut_power(self, random, data, names):
        """Lose what a power cut may take; the next process finds the rest."""
        image = self.image_after_cut(random, data, names)
        self.restart()
        self._set(image)

    def _set(self, image):
        for entry in os.scandir(self.base):
            if entry.is_dir():
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        for name, content in sorted(image.items()):
            if content is None:
                (self.base / name).mkdir(0o700)
            else:
                (self.base / name).write_bytes(content)
        self._durable = {name: None if content is None else Inode(content) for name, content in image.items()}
        self._live = dict(self._durable)
        self._pending = []

    def _name(self, path):
        """Return the name of *path* below the base, "" for the base itself; None when it is elsewhere."""
        path, base = os.fspath(path), str(self.base)
        return path[len(base) + 1 :] if path == base or path.startswith(f"{base}/") else None

    def _call(self):
        """Note a call that changes something; raise Died when the process is dead, or dies of it."""
        self._note()
        if self.is_dead:
            raise Died

    def _note(self):
        if self.is_dead:
            raise Died
        self.on_call()
        if self.is_dead:  # the loop may have had a turn meanwhile, and the process its end
            raise Died
        if self.die_in:
            self.die_in -= 1
            self.is_dead = not self.die_in

    def _need_room(self):
        if self.full:
            raise OSError(self.full, os.strerror(self.full))

    def _change(self, *change):
        self._pending.append(change)
        _apply(self._live, *change)

    def open(self, path, flags, mode=0o777, **more):
        name = self._name(path)
        is_new = name is not None and flags & os.O_CREAT and name not in self._live
        if is_new:
            self._call()
            self._need_room()
        fd = REAL["open"](path, flags, mode, **more)
        if is_new:
            self._change("link", name, Inode())
        if name is not None:
            self._fds[fd] = (name, self._live.get(name))
        return fd

    def close(self, fd):
        self._fds.pop(fd, None)
        REAL["close"](fd)

    def pwrite(self, fd, data, at):
        if fd not in self._fds:
            return REAL["pwrite"](fd, data, at)
        self._note()
        data = bytes(data)
        if self.is_dead:
            data = data[: _whole_pages(at, len(data), self.die_part)]
        elif self.full and (self.full_for_all or at + len(data) > os.fstat(fd).st_size):
            data, self.full_part = data[: int(len(data) * self.full_part)], 0.0
            if not data:
                self._need_room()
        REAL["pwrite"](fd, data, at)
        self._fds[fd][1].changes.append((at, data))
        if self.is_dead:
            raise Died
        return len(data)

    def ftruncate(self, fd, size):
        if fd in self._fds:
            self._call()
            self._fds[fd][1].changes.append(size)
        REAL["ftruncate"](fd, size)

    def fdatasync(self, fd):
        if fd not in self._fds:
            return REAL["fdatasync"](fd)
        self._call()
        name, inode = self._fds[fd]
        if self.fail_sync and name.endswith(".seg"):
            code, self.fail_sync = self.fail_sync, 0
            inode.durable = inode.after_a_cut(self.random, self.random.choice(DATA))
            inode.changes = []
            self.on_failed_sync()
            raise OSError(code, os.strerror(code))
        return inode.sync()

    def fsync(self, fd):
        if fd not in self._fds:
            return REAL["fsync"](fd)
        self._call()
        folder, inode = self._fds[fd]
        if inode is not None:
            return inode.sync()
        here = [change for change in self._pending if os.path.dirname(change[1]) == folder]
        self._pending = [change for change in self._pending if change not in here]
        for change in here:
            _apply(self._durable, *change)
        return None

    def unlink(self, path, **more):
        name = self._name(path)
        if name in self._live:
            self._call()
            self._change("unlink", name)
        REAL["unlink"](path, **more)

    def rename(self, old, new, **more):
        if self._name(old) in self._live:
            self._call()
            self._change("rename", self._name(old), self._name(new))
        REAL["rename"](old, new, **more)

    def mkdir(self, path, mode=0o777, **more):
        name = self._name(path)
        if name is not None and name not in self._live:
            self._call()
            self._need_room()
            self._change("link", name, None)
        REAL["mkdir"](path, mode, **more)
