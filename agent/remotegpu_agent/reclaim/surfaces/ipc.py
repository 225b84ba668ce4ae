"""Memory and queues that outlive the processes that made them."""

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from remotegpu_agent.lines import read_lines
from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings, Obstacle
from remotegpu_agent.reclaim.tree import Tree
from remotegpu_protocol.surfaces import Surface

#: Table (proc_sysvipc(5)), and its column of ids.
_TABLES: Final = (("shm", "shmid"), ("sem", "semid"), ("msg", "msqid"))
_IPC_RMID: Final = 0
_SYSVIPC: Final = Path("/proc/sysvipc")
_MQUEUE: Final = Path("/dev/mqueue")


class SystemVIpc(BlockingStep):
    surface = Surface.SYSTEM_V_IPC

    def absence(self) -> str | None:
        return None if _SYSVIPC.is_dir() else "This kernel has no System V IPC."

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for table, identifier in self._objects():
            findings.add(f"{table} {identifier}")
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        # Not by a program for each: a user may have made tens of thousands.
        for table, identifier in list(self._objects()):
            deadline.check()
            _remove(table, identifier)

    def _objects(self) -> Iterator[tuple[str, int]]:
        """Those that it owns or has made: the owner can be changed by whoever made it."""
        for table, column in _TABLES:
            lines = read_lines(_SYSVIPC / table)
            names = lines[0].split()
            for line in lines[1:]:
                row = dict(zip(names, line.split(), strict=True))
                if self.tenancy.owns(int(row["uid"])) or self.tenancy.owns(int(row["cuid"])):
                    yield table, int(row[column])


def _remove(table: str, identifier: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if table == "sem":
        failed = libc.semctl(identifier, 0, _IPC_RMID)
    else:
        failed = getattr(libc, f"{table}ctl")(identifier, _IPC_RMID, None)
    number = ctypes.get_errno()
    if failed and number not in {errno.EINVAL, errno.EIDRM}:
        raise OSError(number, f"{table} {identifier} cannot be removed: {os.strerror(number)}")


class MessageQueues(BlockingStep):
    surface = Surface.MESSAGE_QUEUES

    def absence(self) -> str | None:
        if "mqueue" in Path("/proc/filesystems").read_text().split():
            return None
        return "This kernel has no POSIX message queues."

    def look_now(self, deadline: Deadline) -> Findings:
        self._check_mounted()
        return Tree(_MQUEUE, self.tenancy.owns, deadline).look()

    def remove_now(self, deadline: Deadline) -> None:
        self._check_mounted()
        Tree(_MQUEUE, self.tenancy.owns, deadline).remove()

    def _check_mounted(self) -> None:
        if not _MQUEUE.is_mount():
            raise Obstacle(
                f"{_MQUEUE} is not mounted, so nobody can see the queues: mount -t mqueue mqueue "
                f"{_MQUEUE}"
            )
