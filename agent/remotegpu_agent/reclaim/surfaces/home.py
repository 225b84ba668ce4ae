"""The home directory, with all that is in it, whoever owns it."""

import os
import stat
from pathlib import Path

from remotegpu_agent.mount_table import read_table
from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings, Obstacle
from remotegpu_agent.reclaim.tree import Tree
from remotegpu_agent.reclaim.walk import opened
from remotegpu_protocol.surfaces import Surface


class Home(BlockingStep):
    surface = Surface.HOME
    timeout = 1800.0

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        if os.path.lexists(self._path):
            findings.add(str(self._path))
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        # Also one of the same disk, which its number would not tell: a data set lies behind it.
        for mount in read_table():
            if mount.point == self._path or self._path in mount.point.parents:
                raise Obstacle(f"A file system is mounted at {mount.point}: unmount it.")
        with opened(self._path.parent) as parent:
            name = self._path.name
            try:
                found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return
            if not stat.S_ISDIR(found.st_mode):
                os.unlink(name, dir_fd=parent)
                return
            if found.st_uid != self.tenancy.uid and found.st_uid != 0:
                raise Obstacle(
                    f"{self._path} belongs to user {found.st_uid}, not to "
                    f"{self.tenancy.account.name} (user {self.tenancy.uid})."
                )
            Tree(self._path, self.tenancy.owns, deadline, all_in_it=True).remove()
            os.rmdir(name, dir_fd=parent)

    @property
    def _path(self) -> Path:
        return self.tenancy.home
