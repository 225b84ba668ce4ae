"""A limit on the processes and threads of a process, as a neighbour who uses them up has it meet."""

import contextlib
import time
import uuid
from pathlib import Path
from typing import Final

_V1: Final = Path("/sys/fs/cgroup/pids")
_V2: Final = Path("/sys/fs/cgroup")


class PidLimit:
    """A cgroup of its own. Needs root."""

    def __init__(self) -> None:
        root = _V1 if _V1.is_dir() else _V2
        self._folder = root / f"remotegpu-test-{uuid.uuid4().hex[:12]}"

    def make(self) -> None:
        if self._folder.parent == _V2:
            (_V2 / "cgroup.subtree_control").write_text("+pids")
        self._folder.mkdir()

    def take_in(self, pid: int) -> None:
        """A process, with what it starts from now on."""
        (self._folder / "cgroup.procs").write_text(str(pid))

    def use_up(self) -> None:
        """Let there be no further process or thread."""
        (self._folder / "pids.max").write_text((self._folder / "pids.current").read_text())

    def lift(self) -> None:
        (self._folder / "pids.max").write_text("max")

    def remove(self) -> None:
        """Once all its processes have ended."""
        for _ in range(100):
            with contextlib.suppress(OSError):
                self._folder.rmdir()
                return
            time.sleep(0.02)
