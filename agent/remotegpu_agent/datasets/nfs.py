"""An NFS export, mounted by the host's own mount.nfs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.datasets.records import MountRecord
from remotegpu_agent.datasets.source import Source, reach
from remotegpu_agent.reclaim.step import Deadline, Obstacle
from remotegpu_agent.reclaim.tools import find_tool, run_tool
from remotegpu_protocol.datasets import nfs_parts

#: File systems as which the kernel mounts an export.
KINDS: Final = frozenset({"nfs", "nfs4"})
_PORT: Final = 2049
#: Seconds that `mount` may take, and for how long mount.nfs tries: once.
_PATIENCE: Final = 60.0
_FILESYSTEMS: Final = Path("/proc/filesystems")
_MODULES: Final = Path("/lib/modules")


class Nfs(Source):
    """At or below one of `exports`, those that the host's owner gave for it: servers trust the
    host's address, whoever asked it to mount."""

    kinds = KINDS

    def __init__(
        self, record: MountRecord, exports: Sequence[str], filesystems: Path = _FILESYSTEMS
    ) -> None:
        super().__init__(record)
        self._exports = exports
        self._filesystems = filesystems

    async def check(self) -> None:
        location = self.record.location
        if not any(location == one or location.startswith(f"{one}/") for one in self._exports):
            raise CommandFailed(
                "SOURCE_NOT_ALLOWED",
                f"{location} is below none of the nfs_exports of this host's policy "
                f"({', '.join(self._exports) or 'none'}).",
            )
        if find_tool("mount.nfs") is None:
            raise CommandFailed(
                "NO_NFS_CLIENT", "mount.nfs is not on this host. Install nfs-common or nfs-utils."
            )
        if not self._kernel_knows():
            raise CommandFailed("NO_NFS", "The kernel of this host has no NFS.")
        host, _ = nfs_parts(location)
        await reach(host, _PORT)

    def attach(self) -> None:
        try:
            run_tool("mount", *self.arguments(), deadline=Deadline(_PATIENCE))
        except Obstacle as error:
            raise CommandFailed("MOUNT_FAILED", error.message) from None
        except TimeoutError:
            raise CommandFailed(
                "SOURCE_UNREACHABLE", f"{self.record.location}: no answer within {_PATIENCE:g} s."
            ) from None

    def arguments(self) -> list[str]:
        """Of mount(8)."""
        # Reading gives up on a server that is gone. Writing never does, or data would be lost.
        how = ("ro", "soft", "timeo=100", "retrans=3") if self.record.read_only else ("rw", "hard")
        options = ",".join((*how, "nosuid", "nodev", "retry=0"))
        return ["-t", "nfs", "-o", options, "--", self.record.location, str(self.record.place)]

    def _kernel_knows(self) -> bool:
        names = {line.split()[-1] for line in self._filesystems.read_text().splitlines() if line}
        if names & KINDS:
            return True
        # A module that the kernel loads when it is asked to mount.
        for table in ("modules.dep", "modules.builtin"):
            try:
                lines = (_MODULES / os.uname().release / table).read_text().splitlines()
            except OSError:
                continue
            if any("/nfs.ko" in line.partition(":")[0] for line in lines):
                return True
        return False
