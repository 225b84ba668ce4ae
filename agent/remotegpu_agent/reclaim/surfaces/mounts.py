"""File systems that the user mounted, as FUSE lets users do."""

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings

_TABLE: Final = Path("/proc/self/mountinfo")
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
#: umount2(2): detach now and let go later; do not follow a link in the last part.
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8


class Mounts(BlockingStep):
    """By the user id that FUSE writes into the options, which no user can choose."""

    surface = "mounts"
    action = "unmounted"

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for point in self._points():
            findings.add(point)
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        for point in reversed(list(self._points())):
            if libc.umount2(os.fsencode(point), _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
                raise OSError(ctypes.get_errno(), f"{point} cannot be unmounted")

    def _points(self) -> Iterator[str]:
        for point, kind, options in mounted():
            if kind.partition(".")[0] in {"fuse", "fuseblk"}:
                for option in options.split(","):
                    name, _, value = option.partition("=")
                    if name == "user_id" and value.isdecimal() and self.tenancy.owns(int(value)):
                        yield point


def mounted() -> Iterator[tuple[str, str, str]]:
    """Where what is mounted, of which kind, and with which options of its own
    (proc_pid_mountinfo(5)), in the order of mounting."""
    for line in os.fsdecode(_TABLE.read_bytes()).splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        yield _unescaped(before.split(" ")[4]), kind, options


def _unescaped(path: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), path)
