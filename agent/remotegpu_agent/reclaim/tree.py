"""Trees of files of somebody who is not trusted, walked by descriptors.

No symbolic link is followed, and nothing entered or asked about that is mounted: another file system,
or other directories of the same one. Users mount what does not answer, or answers root with an error.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

from remotegpu_agent.mount_table import read_table
from remotegpu_agent.reclaim.step import Deadline, Findings, Obstacle

#: A descriptor is open for each level, of about a thousand that a process has.
MAX_DEPTH: Final = 200

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

Owns = Callable[[int], bool]


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A directory, reached without following any symbolic link.

    Raises:
        OSError: it is not there, or a part of its path is no directory.
    """
    descriptor = os.open("/", _OPEN)
    try:
        for part in path.parts[1:]:
            deeper = os.open(part, _OPEN, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
        yield descriptor
    finally:
        os.close(descriptor)


class Tree:
    """What `owns` says yes to, below a directory; the directory itself stays."""

    def __init__(self, root: Path, owns: Owns, deadline: Deadline, *, all_in_it: bool = False):
        self._root = root
        self._owns = owns
        self._deadline = deadline
        self._all = all_in_it
        self._mounts: frozenset[str] = frozenset()

    def look(self) -> Findings:
        findings = Findings()
        self._see_mounts()
        with opened(self._root) as descriptor:
            self._walk(descriptor, str(self._root), 0, os.fstat(descriptor).st_dev, findings)
        return findings

    def remove(self) -> None:
        with opened(self._root) as descriptor:
            device = os.fstat(descriptor).st_dev
            lifted = True
            while lifted:
                self._see_mounts()
                lifted = self._clear(descriptor, descriptor, str(self._root), 0, device)

    def _walk(self, parent: int, path: str, depth: int, device: int, findings: Findings) -> None:
        with os.scandir(parent) as entries:
            for entry in entries:
                self._deadline.check()
                name = f"{path}/{entry.name}"
                found = None if self._is_mount(name) else _status(entry)
                if found is None:
                    continue
                if self._mine(found):
                    findings.add(name)
                if not stat.S_ISDIR(found.st_mode) or self._elsewhere(found, device, name):
                    continue
                if depth >= MAX_DEPTH:
                    # What is ours is found already; what is not would hide what is.
                    if not self._mine(found):
                        raise Obstacle(f"Below {self._root} are more than {MAX_DEPTH} levels.")
                    continue
                with _child(parent, entry.name, device) as child:
                    if child is not None:
                        self._walk(child, name, depth + 1, device, findings)

    def _clear(self, top: int, parent: int, path: str, depth: int, device: int) -> bool:
        """Whether something was moved up, so that it takes another pass."""
        lifted = False
        with os.scandir(parent) as entries:
            for entry in entries:
                self._deadline.check()
                name = f"{path}/{entry.name}"
                found = None if self._is_mount(name) else _status(entry)
                if found is None:
                    continue
                if not stat.S_ISDIR(found.st_mode):
                    if self._mine(found):
                        _missing_is_fine(os.unlink, entry.name, parent)
                    continue
                if self._elsewhere(found, device, name):
                    continue
                if depth >= MAX_DEPTH:
                    if self._mine(found):
                        os.rename(entry.name, f".{uuid4().hex}", src_dir_fd=parent, dst_dir_fd=top)
                        lifted = True
                    continue
                with _child(parent, entry.name, device) as child:
                    if child is not None:
                        lifted = self._clear(top, child, name, depth + 1, device) or lifted
                if self._mine(found):
                    _missing_is_fine(os.rmdir, entry.name, parent)
        return lifted

    def _see_mounts(self) -> None:
        self._mounts = frozenset(str(mount.point) for mount in read_table())

    def _is_mount(self, path: str) -> bool:
        if path not in self._mounts:
            return False
        if self._all:
            raise _mount(path)
        return True

    def _mine(self, found: os.stat_result) -> bool:
        return self._all or self._owns(found.st_uid)

    def _elsewhere(self, found: os.stat_result, device: int, name: str) -> bool:
        if found.st_dev == device:
            return False
        if self._all:
            raise _mount(name)
        return True


def _mount(path: str) -> Obstacle:
    return Obstacle(f"A file system is mounted at {path}: unmount it.")


def _status(entry: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


@contextmanager
def _child(parent: int, name: str, device: int) -> Iterator[int | None]:
    """None when it is gone, or something else by now."""
    try:
        descriptor = os.open(name, _OPEN, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        yield None
        return
    try:
        yield descriptor if os.fstat(descriptor).st_dev == device else None
    finally:
        os.close(descriptor)


def _missing_is_fine(remove: Callable[..., None], name: str, parent: int) -> None:
    try:
        remove(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        # Of somebody else is in it; the second look tells.
        if error.errno not in {errno.ENOTEMPTY, errno.EBUSY}:
            raise
