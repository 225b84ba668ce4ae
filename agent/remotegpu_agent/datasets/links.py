"""The links by which users find what is mounted for them."""

import os
from pathlib import Path

from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.datasets.parents import opened_parent


def check_free(path: Path, target: Path) -> None:
    """Raises CommandFailed: something else than the link to `target` is at `path`, or the way there
    is not safe."""
    try:
        with opened_parent(path) as parent:
            found = _target(path.name, parent)
    except FileNotFoundError:
        return
    if found != str(target):
        raise _taken(path)


def place(path: Path, target: Path) -> None:
    """Raises CommandFailed: as `check_free`."""
    with opened_parent(path, make=True) as parent:
        try:
            os.symlink(target, path.name, dir_fd=parent)
        except FileExistsError:
            if _target(path.name, parent) != str(target):
                raise _taken(path) from None


def leads(path: Path, target: Path) -> bool:
    """Whether `path` is the link to `target`."""
    try:
        with opened_parent(path, trusted=False) as parent:
            return _target(path.name, parent) == str(target)
    except (FileNotFoundError, CommandFailed):
        return False


def remove(path: Path, target: Path) -> None:
    """Remove the link, unless it has become something else."""
    try:
        # Also where others may write by now: what was once placed must be able to go.
        with opened_parent(path, trusted=False) as parent:
            if _target(path.name, parent) == str(target):
                os.unlink(path.name, dir_fd=parent)
    except FileNotFoundError:
        return


def _target(name: str, parent: int) -> str | None:
    """None for what is no link.

    Raises:
        FileNotFoundError: nothing is there.
    """
    try:
        return os.readlink(name, dir_fd=parent)
    except FileNotFoundError:
        raise
    except OSError:
        return None


def _taken(path: Path) -> CommandFailed:
    return CommandFailed("PATH_TAKEN", f"{path} is there already. Choose another path.")
