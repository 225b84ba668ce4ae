"""Scratch disks: erased after who had the whole host; after others, what is theirs is removed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from remotegpu_agent.reclaim.scratch_disk import HOW, ScratchDisk
from remotegpu_agent.reclaim.step import BlockingStep, Deadline, Findings, Step
from remotegpu_agent.reclaim.surfaces.files import Files
from remotegpu_agent.reclaim.tenancy import Tenancy
from remotegpu_protocol.surfaces import Surface

#: Made by mkfs.ext4, for fsck.
_OWN: Final = frozenset({"lost+found"})
_NONE: Final = "The policy file names no scratch disks."


def scratch_step(tenancy: Tenancy, disks: Sequence[ScratchDisk]) -> Step:
    """What this allocation calls for."""
    return (ScratchDisks if tenancy.whole_machine else ScratchFiles)(tenancy, disks)


class ScratchDisks(BlockingStep):
    """Nobody else had anything on them, so nothing of them is spared."""

    surface = Surface.SCRATCH_DISKS
    action = "erased"
    tools = ("blkid", "blkdiscard", "mount")
    #: A terabyte that has to be overwritten takes an hour on a slow disk.
    timeout = 6 * 3600.0

    def __init__(self, tenancy: Tenancy, disks: Sequence[ScratchDisk]) -> None:
        super().__init__(tenancy)
        self._disks = disks
        self._how: dict[str, str] = {}

    def absence(self) -> str | None:
        return None if self._disks else _NONE

    def note(self) -> str | None:
        return "; ".join(f"{device}: {how}" for device, how in self._how.items())

    def look_now(self, deadline: Deadline) -> Findings:
        findings = Findings()
        for disk in self._disks:
            label = disk.label(self.tenancy.allocation_id, deadline)
            if label is None:
                findings.add(f"{disk.device} (not erased)")
            elif not disk.mounts():
                findings.add(f"{disk.device} (erased, not mounted)")
            else:
                for name in _users(disk):
                    findings.add(f"{disk.mount}/{name}")
                self._how[disk.device] = HOW.get(label, label)
        return findings

    def remove_now(self, deadline: Deadline) -> None:
        allocation_id = self.tenancy.allocation_id
        for disk in self._disks:
            is_erased = disk.label(allocation_id, deadline) is not None
            if is_erased and not (disk.mounts() and _users(disk)):
                disk.mount_again(deadline)
            else:
                disk.renew(allocation_id, deadline)


class ScratchFiles(Files):
    """On a shared host others keep theirs."""

    surface = Surface.SCRATCH_DISKS

    def __init__(self, tenancy: Tenancy, disks: Sequence[ScratchDisk]) -> None:
        super().__init__(tenancy)
        self._disks = disks

    def absence(self) -> str | None:
        return None if self._disks else _NONE

    def roots(self) -> list[Path]:
        return [Path(disk.mount) for disk in self._disks if Path(disk.mount).is_dir()]

    def note(self) -> str | None:
        shared = "The host was shared: files were removed, and no disk was erased."
        return f"{shared} {super().note() or ''}".rstrip()


def _users(disk: ScratchDisk) -> list[str]:
    return sorted({path.name for path in Path(disk.mount).iterdir()} - _OWN)
