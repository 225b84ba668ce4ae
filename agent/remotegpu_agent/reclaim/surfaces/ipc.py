"""Memory and queues that outlive the processes that made them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings, Obstacle
from remotegpu_agent.reclaim.tools import run_tool
from remotegpu_agent.reclaim.tree import Tree

#: Table (proc_sysvipc(5)), its column of ids, and ipcrm's option that removes one.
_TABLES: Final = (("shm", "shmid", "-m"), ("sem", "semid", "-s"), ("msg", "msqid", "-q"))
_SYSVIPC: Final = Path("/proc/sysvipc")
_MQUEUE: Final = Path("/dev/mqueue")


class SystemVIpc(BlockingStep):
    surface = "System V IPC"

    def absence(self) -> str | None:
        return None if _SYSVIPC.is_dir() else "This kernel has no System V IPC."

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for table, identifier, _option in self._objects():
            findings.add(f"{table} {identifier}")
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        for _table, identifier, option in list(self._objects()):
            # 1: it went away meanwhile, or the second look finds it.
            run_tool("ipcrm", option, identifier, deadline=deadline, accepted=(0, 1))

    def _objects(self) -> Iterator[tuple[str, str, str]]:
        """Those that it owns or has made: the owner can be changed by whoever made it."""
        for table, column, option in _TABLES:
            lines = (_SYSVIPC / table).read_text().splitlines()
            names = lines[0].split()
            for line in lines[1:]:
                row = dict(zip(names, line.split(), strict=True))
                if self.tenancy.owns(int(row["uid"])) or self.tenancy.owns(int(row["cuid"])):
                    yield table, row[column], option


class MessageQueues(BlockingStep):
    surface = "POSIX message queues"

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
