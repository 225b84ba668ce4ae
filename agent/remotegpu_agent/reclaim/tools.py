"""Programs of the host, by absolute path and never through a shell."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.step import Deadline, Obstacle
from remotegpu_protocol.grammar import clean_text

_DIRECTORIES: Final = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin")
_ENVIRONMENT: Final = {"PATH": ":".join(_DIRECTORIES), "LC_ALL": "C", "HOME": "/nonexistent"}
_MAX_OUTPUT: Final = 1024 * 1024


def find_tool(name: str) -> Path | None:
    """Where a program is, in the directories that only root can write to."""
    for directory in _DIRECTORIES:
        path = Path(directory) / name
        if os.access(path, os.X_OK):
            return path
    return None


def run_tool(
    name: str, *arguments: str, deadline: Deadline, accepted: tuple[int, ...] = (0,)
) -> str:
    """What the program prints.

    Raises:
        Obstacle: it is not installed, or ends with another code than the accepted ones.
        TimeoutError: it was killed at the deadline.
    """
    path = find_tool(name)
    if path is None:
        raise Obstacle(f"{name} is not installed on this host.")
    return _run([str(path), *arguments], name, deadline, accepted)


def run_python(program: str, *arguments: str, deadline: Deadline) -> str:
    """What a program of this interpreter's prints, for what must not be done in this process; it
    sees nobody's modules. Raises like `run_tool`."""
    command = [sys.executable, "-I", "-S", "-c", program, *arguments]
    return _run(command, "python", deadline, (0,))


def _run(command: list[str], name: str, deadline: Deadline, accepted: tuple[int, ...]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - an absolute path, and arguments that were checked
            command,
            env=_ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(deadline.left, 0.1),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    if done.returncode not in accepted:
        said = clean_text(done.stderr[:2000] or done.stdout[:2000], 500)
        raise Obstacle(f"{name} ended with code {done.returncode}: {said}")
    return done.stdout[:_MAX_OUTPUT].decode(errors="replace")
