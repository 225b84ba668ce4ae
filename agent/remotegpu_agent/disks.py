"""The block devices of a host, and how full its file systems are."""

import threading
import time
from pathlib import Path
from typing import Final

import psutil

from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import Disk
from remotegpu_protocol.limits import MAX_DISKS

#: In memory, made of files, or layers over the devices that are listed anyway (LVM, RAID).
_NOT_DISKS: Final = ("loop", "ram", "zram", "dm-", "md", "fd", "sr", "nbd")

#: Bytes; /sys/block/*/size counts in these, whatever the device's own sectors are.
_SECTOR: Final = 512

#: Seconds between two looks at how full the file systems are.
_USAGE_INTERVAL: Final = 15.0

#: Seconds after which an old figure is no longer shown.
_USAGE_LIFETIME: Final = 120.0


def host_disks(block: Path = Path("/sys/block")) -> list[Disk]:
    """Block devices that hold data, in the order of their names."""
    try:
        names = sorted(entry.name for entry in block.iterdir())
    except OSError:
        return []
    disks = []
    for name in names:
        if name.startswith(_NOT_DISKS):
            continue
        sectors = _read(block / name / "size")
        size = int(sectors) * _SECTOR if sectors is not None and sectors.isdigit() else None
        if not size:
            # An empty card reader.
            continue
        rotational = _read(block / name / "queue" / "rotational")
        disks.append(
            Disk(
                name=clean_text(name),
                size=size,
                model=clean_text(_read(block / name / "device" / "model") or "") or None,
                rotational=None if rotational is None else rotational == "1",
            )
        )
    return disks[:MAX_DISKS]


class DiskUsage:
    """Bytes used and in all of the local file systems.

    Asking a file system whose device has died can hang for ever, so a thread asks, and whoever
    samples takes what it last found.
    """

    def __init__(self) -> None:
        self._latest: tuple[int, int] | None = None
        self._taken_at = 0.0
        self._asked_at = float("-inf")
        self._thread: threading.Thread | None = None

    def latest(self) -> tuple[int | None, int | None]:
        """(used, total) as last seen; None while nothing recent is known."""
        now = time.monotonic()
        asking = self._thread is not None and self._thread.is_alive()
        if not asking and now - self._asked_at >= _USAGE_INTERVAL:
            self._asked_at = now
            # A daemon: one that hangs must not keep the agent from ending.
            self._thread = threading.Thread(target=self.refresh, name="disk-usage", daemon=True)
            self._thread.start()
        latest = self._latest
        if latest is None or now - self._taken_at > _USAGE_LIFETIME:
            return None, None
        return latest

    def refresh(self) -> None:
        """Look now; may take long."""
        used = total = 0
        devices = set()
        for partition in psutil.disk_partitions(all=False):
            # Bind mounts and subvolumes show one device several times.
            if partition.device in devices or partition.fstype == "squashfs":
                continue
            devices.add(partition.device)
            try:
                usage = psutil.disk_usage(partition.mountpoint)
            except OSError:
                continue
            used += usage.used
            total += usage.total
        self._latest = (used, total) if total else None
        self._taken_at = time.monotonic()


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None
