"""File systems that the user mounted, as FUSE lets users do."""

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

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
        for mount in mount_table():
            if mount.kind.partition(".")[0] in {"fuse", "fuseblk"}:
                for option in mount.options.split(","):
                    name, _, value = option.partition("=")
                    if name == "user_id" and value.isdecimal() and self.tenancy.owns(int(value)):
                        yield mount.point


class Mount(NamedTuple):
    """A line of proc_pid_mountinfo(5). `device` is MAJOR:MINOR, `options` the file system's own."""

    point: str
    device: str
    kind: str
    options: str


def mount_table() -> Iterator[Mount]:
    """What is mounted, in the order of mounting."""
    for line in os.fsdecode(_TABLE.read_bytes()).splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        fields = before.split(" ")
        yield Mount(_unescaped(fields[4]), fields[2], kind, options)


def _unescaped(path: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), path)
