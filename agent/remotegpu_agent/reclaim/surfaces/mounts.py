"""File systems that the user mounted, as FUSE lets users do."""

import ctypes
import os
from collections.abc import Iterator
from typing import Final

from remotegpu_agent.mount_table import read_table
from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings

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
        for mount in read_table():
            if mount.kind.partition(".")[0] in {"fuse", "fuseblk"}:
                for option in mount.options:
                    name, _, value = option.partition("=")
                    if name == "user_id" and value.isdecimal() and self.tenancy.owns(int(value)):
                        yield str(mount.point)
