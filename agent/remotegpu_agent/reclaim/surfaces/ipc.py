"""Memory and queues that outlive the processes that made them."""

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from remotegpu_agent.lines import read_lines
from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings, Obstacle
from remotegpu_agent.reclaim.tenancy import Tenancy
from remotegpu_agent.reclaim.tree import Tree
from remotegpu_protocol.surfaces import Surface

#: Table (proc_sysvipc(5)), and its column of ids.
_TABLES: Final = {"shm": "shmid", "sem": "semid", "msg": "msqid"}
_IPC_RMID: Final = 0
_IPC_SET: Final = 1
_IPC_STAT: Final = 2
#: Flag beside the mode of a segment that goes when the last process lets go of it (linux/shm.h).
_SHM_DEST: Final = 0o1000
#: Where `struct ipc_perm` has uid, gid and mode, each of four bytes (asm-generic/ipcbuf.h), in the
#: `struct shmid_ds` that begins with it and is smaller than this.
_UID, _GID, _MODE, _SIZE = 4, 8, 20, 512
_SYSVIPC: Final = Path("/proc/sysvipc")
_MQUEUE: Final = Path("/dev/mqueue")


class SystemVIpc(BlockingStep):
    surface = Surface.SYSTEM_V_IPC

    def __init__(self, tenancy: Tenancy) -> None:
        super().__init__(tenancy)
        self._held = 0

    def absence(self) -> str | None:
        return None if _SYSVIPC.is_dir() else "This kernel has no System V IPC."

    def note(self) -> str | None:
        if not self._held:
            return None
        return (
            f"{self._held} segments were removed while programs of other users had them attached: "
            "they are nobody's, and go with those programs."
        )

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        self._held = 0
        for table, row in self._objects():
            if _is_removed(row):
                self._held += 1
            else:
                findings.add(f"{table} {row[_TABLES[table]]}")
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        # Not by a program for each: a user may have made tens of thousands.
        for table, row in list(self._objects()):
            deadline.check()
            _remove(table, int(row[_TABLES[table]]))

    def _objects(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Those that it owns or has made: the owner can be changed by whoever made it."""
        for table in _TABLES:
            lines = read_lines(_SYSVIPC / table)
            names = lines[0].split()
            for line in lines[1:]:
                row = dict(zip(names, line.split(), strict=True))
                if self.tenancy.owns(int(row["uid"])) or self.tenancy.owns(int(row["cuid"])):
                    yield table, row


def _is_removed(row: dict[str, str]) -> bool:
    """Whether it is a segment that `_remove` has removed and another user still has attached."""
    mode = int(row["perms"], 8)
    return "shmid" in row and bool(mode & _SHM_DEST) and not mode & 0o777 and row["uid"] == "0"


def _remove(table: str, identifier: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if table == "shm":
        # While a process has it attached, it could be attached by more: not any longer.
        about = ctypes.create_string_buffer(_SIZE)
        if libc.shmctl(identifier, _IPC_STAT, about) == 0:
            for place in (_UID, _GID, _MODE):
                ctypes.memset(ctypes.addressof(about) + place, 0, 4)
            libc.shmctl(identifier, _IPC_SET, about)
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
