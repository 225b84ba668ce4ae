"""A disk that whoever has the whole host may fill: what is on it, and how it becomes blank."""

import fcntl
import mmap
import os
import random
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from remotegpu_agent.mount_table import Mounted, read_table
from remotegpu_agent.mounting import unmount
from remotegpu_agent.reclaim.step import Deadline, Obstacle
from remotegpu_agent.reclaim.tools import run_tool

#: Paths that no shell and no program can misread.
_PATH: Final = r"^(?:/[A-Za-z0-9_][A-Za-z0-9._:+-]{0,254}){1,8}\Z"
#: Where the system or its people live: nothing of it is a scratch disk's place.
_TAKEN: Final = frozenset(
    [
        "bin",
        "boot",
        "dev",
        "etc",
        "home",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "proc",
        "root",
        "run",
        "sbin",
        "sys",
        "tmp",
        "usr",
        "var",
    ]
)

#: The name of its file system says how the disk became blank: ext4 takes 16 letters, XFS 12.
DISCARDED: Final = "rg-discarded"
ZEROED: Final = "rg-zeroed"
HOW: Final = {
    DISCARDED: "erased by the drive itself (secure discard)",
    ZEROED: "overwritten with zeros, which the drive's spare cells do not see",
}

_NAMESPACE: Final = uuid.UUID("5d0f6f0e-6a0c-4a5e-9a43-9a2f3c1f8f57")
#: ioctl: write what is cached, and forget it (linux/fs.h).
_BLKFLSBUF: Final = 0x1261
_CHUNK: Final = 1024 * 1024
#: Chunks that are read to see whether a disk is blank; all of those of a disk with no more.
_SAMPLES: Final = 512


class ScratchDisk(Struct, frozen=True, forbid_unknown_fields=True):
    """As the policy file names it. `device`: a whole disk or a partition, best by its id."""

    device: Annotated[str, Meta(max_length=255, pattern=r"^/dev" + _PATH[1:])]
    mount: Annotated[str, Meta(max_length=255, pattern=_PATH)]
    filesystem: Literal["ext4", "xfs"] = "ext4"

    def __post_init__(self) -> None:
        if self.mount.split("/")[1] in _TAKEN:
            raise ValueError(f"a scratch disk cannot be mounted at {self.mount}")

    def number(self) -> str:
        """The device's number as mountinfo has it, when nothing but the scratch mount uses it.

        Raises:
            Obstacle: it is no disk, or is used for something else: then nothing may touch it.
            OSError: it is not there.
        """
        found = Path(self.device).stat()
        if not stat.S_ISBLK(found.st_mode):
            raise Obstacle(f"{self.device} is no block device.")
        number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        about = Path("/sys/dev/block") / number
        if any((part / "partition").exists() for part in about.iterdir() if part.is_dir()):
            raise Obstacle(f"{self.device} has partitions. Name one of them, or remove them.")
        if holders := sorted(holder.name for holder in (about / "holders").iterdir()):
            raise Obstacle(f"{self.device} is part of {', '.join(holders)}.")
        for line in Path("/proc/swaps").read_text().splitlines()[1:]:
            swap = Path(line.split()[0])
            if swap.exists() and swap.stat().st_rdev == found.st_rdev:
                raise Obstacle(f"{self.device} is swapped to.")
        for mount in read_table():
            if mount.device == number and str(mount.point) != self.mount:
                raise Obstacle(f"{self.device} is mounted at {mount.point} too.")
        return number

    def mounts(self) -> list[Mounted]:
        number = self.number()
        return [mount for mount in read_table() if mount.device == number]

    def label(self, allocation_id: str, deadline: Deadline) -> str | None:
        """The name of its file system when that was made after this allocation, else None."""
        said = run_tool(
            *("blkid", "-p", "-o", "export", self.device), deadline=deadline, accepted=(0, 2)
        )
        self.number()
        values = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        made = values.get("UUID") == str(_filesystem_id(allocation_id))
        return values.get("LABEL") if made else None

    def renew(self, allocation_id: str, deadline: Deadline) -> None:
        """Erase it, make a file system on it and mount that, open to everybody.

        Raises:
            Obstacle, OSError, TimeoutError: it is in use, or is not blank after all.
        """
        self._unmount()
        label = self._erase(deadline)
        identity = str(_filesystem_id(allocation_id))
        made = {
            "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0", "-U", identity),
            "xfs": ("mkfs.xfs", "-q", "-f", "-m", f"uuid={identity}"),
        }[self.filesystem]
        run_tool(*made, "-L", label, self.device, deadline=deadline)
        self.mount_again(deadline)

    def mount_again(self, deadline: Deadline) -> None:
        """Mount it where it belongs; nothing where it is already."""
        if self.mounts():
            return
        place = Path(self.mount)
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
        options = ("-t", self.filesystem, "-o", "nosuid,nodev")
        run_tool("mount", *options, "--", self.device, self.mount, deadline=deadline)
        place.chmod(0o1777)

    def _unmount(self) -> None:
        for mount in self.mounts():
            try:
                unmount(mount.point)
            except OSError as error:
                raise Obstacle(
                    f"{mount.point} cannot be unmounted: {error.strerror}. What still uses it?"
                ) from None

    def _erase(self, deadline: Deadline) -> str:
        """How it became blank. blkdiscard opens the device for itself alone, so one that is mounted
        anywhere, in a container for instance, is left as it is."""
        ways = ((DISCARDED, "--secure"), (ZEROED, "--zeroout"))
        for label, way in ways:
            try:
                run_tool("blkdiscard", "--force", way, self.device, deadline=deadline)
            except Obstacle:
                # Most drives know no secure discard.
                if (label, way) == ways[-1]:
                    raise
                continue
            if self._is_blank(deadline):
                return label
        raise Obstacle(
            f"{self.device} was overwritten with zeros, and other things are read from it."
        )

    def _is_blank(self, deadline: Deadline) -> bool:
        descriptor = os.open(self.device, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        try:
            fcntl.ioctl(descriptor, _BLKFLSBUF)
            size = os.lseek(descriptor, 0, os.SEEK_END)
            # Direct reads want memory that begins with a page.
            with mmap.mmap(-1, _CHUNK) as memory:
                for start in _places(size):
                    deadline.check()
                    length = os.preadv(descriptor, [memory], start)
                    if memory[:length].count(0) != length:
                        return False
        finally:
            os.close(descriptor)
        return True


def _places(size: int) -> Iterator[int]:
    """Where chunks begin: the first, the last, and enough between that nobody can guess."""
    chunks = -(-size // _CHUNK)
    if chunks <= _SAMPLES:
        chosen: Iterator[int] | range = range(chunks)
    else:
        chosen = iter({0, chunks - 1, *random.SystemRandom().sample(range(chunks), _SAMPLES)})
    return (chunk * _CHUNK for chunk in chosen)


def _filesystem_id(allocation_id: str) -> uuid.UUID:
    """By it a later look knows that the disk was renewed after this allocation and no other."""
    return uuid.uuid5(_NAMESPACE, allocation_id)
