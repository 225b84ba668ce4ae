"""Trees of files of somebody who is not trusted, walked by descriptors.

No symbolic link is followed and no other file system entered, whatever is moved meanwhile.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

from remotegpu_agent.reclaim.step import Deadline, Findings, Obstacle

#: A descriptor is open for each level, of about a thousand that a process has.
MAX_DEPTH: Final = 200
#: Times that what lies deeper is moved up.
_MAX_LIFTS: Final = 1000

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

    def look(self) -> Findings:
        findings = Findings()
        with opened(self._root) as descriptor:
            self._walk(descriptor, str(self._root), 0, os.fstat(descriptor).st_dev, findings)
        return findings

    def remove(self) -> None:
        with opened(self._root) as descriptor:
            device = os.fstat(descriptor).st_dev
            for _ in range(_MAX_LIFTS):
                if not self._clear(descriptor, descriptor, 0, device):
                    return
        raise Obstacle(f"{self._root} holds directories within directories without end.")

    def _walk(self, parent: int, path: str, depth: int, device: int, findings: Findings) -> None:
        with os.scandir(parent) as entries:
            for entry in entries:
                self._deadline.check()
                found = _status(entry)
                if found is None:
                    continue
                name = f"{path}/{entry.name}"
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

    def _clear(self, top: int, parent: int, depth: int, device: int) -> bool:
        """Whether something was moved up, so that it takes another pass."""
        lifted = False
        with os.scandir(parent) as entries:
            for entry in entries:
                self._deadline.check()
                found = _status(entry)
                if found is None:
                    continue
                if not stat.S_ISDIR(found.st_mode):
                    if self._mine(found):
                        _missing_is_fine(os.unlink, entry.name, parent)
                    continue
                if self._elsewhere(found, device, entry.name):
                    continue
                if depth >= MAX_DEPTH:
                    if self._mine(found):
                        os.rename(entry.name, f".{uuid4().hex}", src_dir_fd=parent, dst_dir_fd=top)
                        lifted = True
                    continue
                with _child(parent, entry.name, device) as child:
                    if child is not None:
                        lifted = self._clear(top, child, depth + 1, device) or lifted
                if self._mine(found):
                    _missing_is_fine(os.rmdir, entry.name, parent)
        return lifted

    def _mine(self, found: os.stat_result) -> bool:
        return self._all or self._owns(found.st_uid)

    def _elsewhere(self, found: os.stat_result, device: int, name: str) -> bool:
        if found.st_dev == device:
            return False
        if self._all:
            raise Obstacle(f"A file system is mounted at {name}: unmount it.")
        return True


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
