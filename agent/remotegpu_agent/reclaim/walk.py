"""Walking through trees of files whose owners are not trusted.

Any depth, with a bounded number of descriptors and names in memory. No symbolic link is followed. The
walk goes on while others rename, remove and add what it walks through.
"""

import errno
import heapq
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from remotegpu_agent.mounting import bare_copy
from remotegpu_agent.reclaim.step import Deadline, Obstacle

_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
#: Levels below the root whose descriptors stay open. From deeper ones the way back is `..`.
KEPT_LEVELS: Final = 64
#: Deeper than any path of a program; about 300 bytes of memory for each level.
MAX_LEVELS: Final = 100_000
#: Times that a directory which was renamed meanwhile is looked for under another name.
_TRIES: Final = 20
#: Names of directories that are kept in memory, over all levels, and at least for each of them.
#: A directory that has more of them is read several times.
_MAX_NAMES: Final = 200_000
_MIN_NAMES: Final = 256

Identity = tuple[int, int]


@dataclass(slots=True)
class Level:
    """A directory that the walk is in. `name` is its name in the directory above, `others` whether
    somebody else may change it at any time."""

    name: str
    identity: Identity
    mine: bool
    others: bool
    #: Directories in it that come next, the last one first, with their inodes.
    names: list[tuple[str, int]] = field(default_factory=list)
    #: The directory has names beyond this one that are not in `names`.
    more_after: str | None = None
    descriptor: int | None = None


class Visitor(Protocol):
    """What is done on the way. `parent` is a descriptor of the directory that holds `name`."""

    def is_mine(self, found: os.stat_result) -> bool: ...

    def is_others(self, found: os.stat_result) -> bool:
        """Whether it is a user's who is neither this one nor the system."""
        ...

    def see(self, parent: int, name: str, found: os.stat_result, path: "Walk") -> None:
        """An entry, once in each walk."""
        ...

    def too_deep(self, parent: int, name: str, found: os.stat_result) -> None:
        """A directory that is not entered, because the walk is MAX_LEVELS deep."""
        ...

    def leave(self, parent: int, level: Level, path: "Walk") -> None:
        """A directory of which everything has been seen."""
        ...


class Walk:
    """One walk. `skipped` counts directories of others that were not looked through: they were moved
    meanwhile, or the time for them was over. `unsteady`: others changed some that were, so that they
    may have moved an entry past the walk."""

    def __init__(self, root: Path, visitor: Visitor, deadline: Deadline) -> None:
        self.skipped = 0
        self.unsteady = False
        # The kernel's clock for files is a few milliseconds behind.
        self._begun = time.time_ns() - 20_000_000
        self._root = root
        self._visitor = visitor
        self._deadline = deadline
        # What others have made must not use up the time for what is this user's own.
        self._patience = Deadline(deadline.left / 2)
        self._levels: list[Level] = []
        self._names = 0
        #: Of the directory that the walk is in.
        self._current = -1

    def path_of(self, name: str) -> str:
        """Where an entry of the current directory is."""
        return "/".join([str(self._root), *(level.name for level in self._levels[1:]), name])

    def run(self, top: int) -> None:
        """From the directory of this descriptor, which the caller closes.

        Raises:
            OSError: something that is nobody else's cannot be read.
            TimeoutError: at the deadline.
        """
        self._current = os.open(".", _OPEN, dir_fd=top)
        try:
            self._enter("")
            while self._levels:
                self._deadline.check()
                self._go_on()
        finally:
            kept = {level.descriptor for level in self._levels if level.descriptor is not None}
            for descriptor in kept | {self._current}:
                os.close(descriptor)
            self._levels.clear()

    def _go_on(self) -> None:
        """One directory down or up."""
        level = self._levels[-1]
        following = self._next_name(level)
        if following is None:
            self._up()
            return
        opened_as = self._find(*following, level)
        if opened_as is None:
            return
        name, child = opened_as
        found = os.fstat(child)
        if self._visitor.is_others(found) and not self._patience.left:
            self.skipped += 1
            os.close(child)
        elif len(self._levels) >= MAX_LEVELS:
            os.close(child)
            self.skipped += not self._visitor.is_mine(found)
            self._visitor.too_deep(self._current, name, found)
        else:
            above, self._current = self._current, child
            if level.descriptor is None:
                os.close(above)
            self._enter(name)

    def _enter(self, name: str) -> None:
        found = os.fstat(self._current)
        visitor = self._visitor
        level = Level(name, identity_of(found), visitor.is_mine(found), visitor.is_others(found))
        if len(self._levels) < KEPT_LEVELS:
            level.descriptor = self._current
        self._levels.append(level)
        self._read(level, seen=None)

    def _read(self, level: Level, *, seen: str | None) -> None:
        """See what is in the directory, and note which directories come next. `seen`: entries have
        been seen, and so have directories up to this name."""
        room = max(_MAX_NAMES - self._names, _MIN_NAMES)
        names: list[tuple[str, int]] = []
        level.more_after = None
        with os.scandir(self._current) as entries:
            for entry in entries:
                self._deadline.check()
                if level.others and not self._patience.left:
                    self.skipped += 1
                    break
                found = _status(entry)
                if found is None:
                    continue
                if seen is None:
                    self._visitor.see(self._current, entry.name, found, self)
                if stat.S_ISDIR(found.st_mode) and (seen is None or entry.name > seen):
                    names.append((entry.name, found.st_ino))
                    if len(names) >= 2 * room:
                        names = heapq.nsmallest(room, names)
                        level.more_after = names[-1][0]
        if level.others and os.fstat(self._current).st_ctime_ns >= self._begun:
            self.unsteady = True
        names.sort(reverse=True)
        if len(names) > room or level.more_after is not None:
            names = names[-room:]
            level.more_after = names[0][0]
        level.names = names
        self._names += len(names)

    def _next_name(self, level: Level) -> tuple[str, int] | None:
        if not level.names and level.more_after is not None:
            self._read(level, seen=level.more_after)
        if not level.names:
            return None
        self._names -= 1
        return level.names.pop()

    def _find(self, name: str, inode: int, level: Level) -> tuple[str, int] | None:
        """The directory's name and descriptor, also where somebody renames it all the time; None when it
        is gone, or was moved elsewhere."""
        for _ in range(_TRIES):
            child = self._open(name, level)
            if child is not None and os.fstat(child).st_ino == inode:
                return name, child
            if child is not None:
                os.close(child)
            renamed = self._name_of(inode)
            if renamed is None:
                break
            if renamed == name and child is None and level.others:
                # It is there, and cannot be opened.
                return None
            name = renamed
        self.unsteady = True
        return None

    def _name_of(self, inode: int) -> str | None:
        # Not by `entry.inode`, which on some file systems is another number than stat(2) tells.
        with os.scandir(self._current) as entries:
            for entry in entries:
                found = _status(entry)
                if found is not None and found.st_ino == inode:
                    return entry.name
        return None

    def _open(self, name: str, level: Level) -> int | None:
        """None when it is gone, or something else by now."""
        try:
            return os.open(name, _OPEN, dir_fd=self._current)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            if level.others:
                self.skipped += 1
                return None
            raise

    def _up(self) -> None:
        left = self._levels.pop()
        if not self._levels:
            return
        above = self._levels[-1]
        parent = above.descriptor
        if parent is None:
            parent = _parent(self._current, above.identity)
        moved = parent is None
        while parent is None:
            # Somebody has moved a directory that the walk is in: back to where the way is known.
            self._names -= len(self._levels.pop().names)
            parent = self._levels[-1].descriptor
        os.close(self._current)
        self._current = parent
        if moved:
            self.skipped += 1
        else:
            self._visitor.leave(parent, left, self)


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


@contextmanager
def bare(path: Path) -> Iterator[int]:
    """A directory as it is without anything mounted in it: what users mount there may not answer,
    or answer root with an error, and what the agent mounts for them is not the user's.

    Raises:
        Obstacle: the agent may not look at it in this way.
        OSError: as `opened`.
    """
    with opened(path) as descriptor:
        try:
            copy = bare_copy(descriptor)
        except OSError as error:
            raise Obstacle(
                f"{path} cannot be seen without what is mounted in it: {error.strerror}. It takes "
                "Linux 5.2 and the rights that deploy/remotegpu-agent.service.d/cleaning.conf gives."
            ) from None
    try:
        yield copy
    finally:
        os.close(copy)


def identity_of(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


def _parent(current: int, expected: Identity) -> int | None:
    """The directory above, or None when it is not the expected one."""
    try:
        parent = os.open("..", _OPEN, dir_fd=current)
    except OSError:
        return None
    if identity_of(os.fstat(parent)) == expected:
        return parent
    os.close(parent)
    return None


def _status(entry: "os.DirEntry[str]") -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
