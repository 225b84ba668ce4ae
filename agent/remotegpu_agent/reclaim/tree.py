"""What a user who is not trusted left below a directory: found, and removed."""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from remotegpu_agent.mount_table import read_table
from remotegpu_agent.mounting import detach
from remotegpu_agent.reclaim.step import Deadline, Findings, Obstacle
from remotegpu_agent.reclaim.tenancy import FIRST_UID
from remotegpu_agent.reclaim.walk import Level, Walk, bare, identity_of

_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_ACCESS_LISTS: Final = ("system.posix_acl_access", "system.posix_acl_default")
#: Walks through what others change meanwhile: each may miss what they move past it.
_WALKS: Final = 5
#: Times that a directory on which something is mounted is tried to be removed.
_TRIES: Final = 20
#: Names that a note tells.
_MAX_NAMES: Final = 3

Owns = Callable[[int], bool]


class Tree:
    """What `owns` says yes to, below a directory; the directory itself stays. `all_in_it`: all that
    is below it, whoever owns it.

    Nothing that is mounted is entered or asked about. What other users have made is no obstacle: it
    is looked through as far as the time allows, and `skipped` counts what was not. A directory of
    the user's that holds something of others cannot go; it becomes theirs, and is in `handed_over`.
    """

    def __init__(self, root: Path, owns: Owns, deadline: Deadline, *, all_in_it: bool = False):
        self.skipped = 0
        self.handed_over: list[str] = []
        self._root = root
        self._owns = owns
        self._deadline = deadline
        self._all = all_in_it

    def look(self) -> Findings:
        with bare(self._root) as top:
            search = _Search(self._owns, self._all)
            for _ in range(_WALKS):
                if not self._walk(search, top) or search.findings:
                    break
                search = _Search(self._owns, self._all)
        return search.findings

    def remove(self) -> None:
        """Raises Obstacle: something is mounted on what has to go; all the rest is gone."""
        with bare(self._root) as top:
            removal = _Removal(self._owns, self._all, top)
            walks = 0
            unsteady = True
            while removal.lifted or (unsteady and walks < _WALKS):
                removal.lifted, removal.covered = False, None
                unsteady = self._walk(removal, top)
                walks += 1
        self.handed_over += removal.handed_over
        if removal.covered is not None:
            raise Obstacle(f"A file system is mounted at {removal.covered}: unmount it.")

    def _walk(self, visitor: "_Search | _Removal", top: int) -> bool:
        """Whether others changed what was walked through."""
        walk = Walk(self._root, visitor, self._deadline)
        walk.run(top)
        self.skipped = walk.skipped
        return walk.unsteady


class _Visitor:
    def __init__(self, owns: Owns, all_in_it: bool) -> None:
        self._owns = owns
        self._all = all_in_it

    def is_mine(self, found: os.stat_result) -> bool:
        return self._all or self._owns(found.st_uid)

    def is_others(self, found: os.stat_result) -> bool:
        return not self.is_mine(found) and found.st_uid >= FIRST_UID


class _Search(_Visitor):
    def __init__(self, owns: Owns, all_in_it: bool) -> None:
        super().__init__(owns, all_in_it)
        self.findings = Findings()

    def see(self, parent: int, name: str, found: os.stat_result, path: Walk) -> None:
        if self.is_mine(found):
            self.findings.add_lazily(lambda: path.path_of(name))

    def too_deep(self, parent: int, name: str, found: os.stat_result) -> None:
        """If it is the user's, it is found already."""

    def leave(self, parent: int, level: Level, path: Walk) -> None:
        """Everything was seen on the way down."""


class _Removal(_Visitor):
    """`lifted`: something was moved up, so that it takes another walk. `covered`: where something is
    mounted that keeps a directory from going."""

    def __init__(self, owns: Owns, all_in_it: bool, top: int) -> None:
        super().__init__(owns, all_in_it)
        self.lifted = False
        self.covered: str | None = None
        self.handed_over: list[str] = []
        self._top = top

    def see(self, parent: int, name: str, found: os.stat_result, path: Walk) -> None:
        if stat.S_ISDIR(found.st_mode) or not self.is_mine(found):
            return
        if self._owns(found.st_uid) and _may_stay_elsewhere(found):
            with suppress(OSError):
                self._disarm(parent, name)
        self._gone(lambda: os.unlink(name, dir_fd=parent), path, name)

    def too_deep(self, parent: int, name: str, found: os.stat_result) -> None:
        if self.is_mine(found):
            with suppress(FileNotFoundError):
                os.rename(name, f".{uuid4().hex}", src_dir_fd=parent, dst_dir_fd=self._top)
                self.lifted = True

    def leave(self, parent: int, level: Level, path: Walk) -> None:
        if not level.mine or not _is_still(parent, level):
            return
        if not self._gone(lambda: os.rmdir(level.name, dir_fd=parent), path, level.name):
            with suppress(FileNotFoundError, NotADirectoryError):
                self._hand_over(parent, level, path)

    def _gone(self, remove: Callable[[], None], path: Walk, name: str) -> bool:
        """False when there is something in it."""
        for _ in range(_TRIES):
            try:
                remove()
            except FileNotFoundError:
                return True
            except OSError as error:
                if error.errno == errno.ENOTEMPTY:
                    return False
                if error.errno != errno.EBUSY:
                    raise
                # Whoever renames what it lies in makes it miss, once or twice.
                _uncover(Path(path.path_of(name)))
            else:
                return True
        self.covered = path.path_of(name)
        return True

    def _hand_over(self, parent: int, level: Level, path: Walk) -> None:
        """Others have something in it, which stays theirs, and so the directory becomes theirs. They
        could put it there because its owner let them, so this lets them do nothing new."""
        if self._all:
            return
        descriptor = os.open(
            level.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent
        )
        try:
            found = os.fstat(descriptor)
            heir = self._heir(descriptor)
            if heir is None or not self._owns(found.st_uid):
                return
            for name in _ACCESS_LISTS:
                with suppress(OSError):
                    os.removexattr(descriptor, name)
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & ~_SET_ID)
            os.fchown(descriptor, heir, 0)
        finally:
            os.close(descriptor)
        if len(self.handed_over) < _MAX_NAMES:
            self.handed_over.append(path.path_of(level.name))

    def _heir(self, descriptor: int) -> int | None:
        """Who owns what is in it; None while something of it is the user's own."""
        heir = None
        with os.scandir(descriptor) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    owner = entry.stat(follow_symlinks=False).st_uid
                    if self._owns(owner):
                        return None
                    heir = owner if heir is None else heir
        return heir

    def _disarm(self, parent: int, name: str) -> None:
        """Whoever has the file open or has another name for it can neither run nor read it any
        more."""
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent
        )
        try:
            found = os.fstat(descriptor)
            if stat.S_ISREG(found.st_mode) and self._owns(found.st_uid):
                os.fchmod(descriptor, 0)
                os.fchown(descriptor, 0, 0)
                # Not through its name, which may be another file's by now.
                with suppress(OSError):
                    os.truncate(f"/proc/self/fd/{descriptor}", 0)
        finally:
            os.close(descriptor)


def _may_stay_elsewhere(found: os.stat_result) -> bool:
    """Whether a file does harm after its name is gone: it has other names, or who has it open can
    become its owner by running it."""
    return stat.S_ISREG(found.st_mode) and (found.st_nlink > 1 or bool(found.st_mode & _SET_ID))


def _is_still(parent: int, level: Level) -> bool:
    try:
        found = os.stat(level.name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return identity_of(found) == level.identity


def _uncover(place: Path) -> None:
    """Take away what other users have mounted there, and nothing else."""
    mounts = [one for one in read_table() if one.point == place]
    if all((one.user_id or 0) >= FIRST_UID for one in mounts):
        for _ in mounts:
            with suppress(OSError):
                detach(place)
