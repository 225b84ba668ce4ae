"""Directories that lead to a place, walked by descriptors: none a link, none for others to change."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from remotegpu_agent.commands.handler import CommandFailed

_OPEN: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE: Final = 0o022


@contextmanager
def opened_parent(
    path: Path, *, make: bool = False, mode: int = 0o755, trusted: bool = True
) -> Iterator[int]:
    """The directory in which `path` is. `make`: also those that are missing, as root's own;
    `trusted`: only if nobody else can change what lies there.

    Raises:
        CommandFailed: one is a link or no directory, not root's, or others can write to it.
        FileNotFoundError: one is missing, and none is made.
    """
    descriptor = os.open("/", _OPEN)
    try:
        so_far = Path("/")
        for name in path.parent.parts[1:]:
            so_far /= name
            deeper = _step(descriptor, name, so_far, mode if make else None)
            os.close(descriptor)
            descriptor = deeper
            if trusted:
                _check(descriptor, so_far)
        yield descriptor
    finally:
        os.close(descriptor)


def missing_parents(path: Path) -> list[str]:
    """Those of `path` that `opened_parent` would have to make, the outermost first.

    Raises:
        CommandFailed: as `opened_parent`.
    """
    for number, parent in enumerate(reversed(path.parents)):
        try:
            with opened_parent(parent / "any"):
                continue
        except FileNotFoundError:
            return [str(one) for one in list(reversed(path.parents))[number:]]
    return []


def _step(descriptor: int, name: str, path: Path, mode: int | None) -> int:
    while True:
        try:
            return os.open(name, _OPEN, dir_fd=descriptor)
        except FileNotFoundError:
            if mode is None:
                raise
        except NotADirectoryError:
            raise CommandFailed(
                "UNSAFE_PATH",
                f"{path} is a link or no directory. Choose a path that leads through directories.",
            ) from None
        try:
            os.mkdir(name, mode, dir_fd=descriptor)
        except FileExistsError:
            continue
        # Whatever the umask took away.
        os.chmod(name, mode, dir_fd=descriptor)


def _check(descriptor: int, path: Path) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != 0 or found.st_mode & _OTHERS_WRITE:
        raise CommandFailed(
            "UNSAFE_PATH",
            f"{path} belongs to user {found.st_uid} and has mode {stat.S_IMODE(found.st_mode):o}: "
            "others than root could change what lies there. Choose a path elsewhere.",
        )
