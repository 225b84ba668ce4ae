"""How full the file systems of a host are."""

import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

import psutil

#: Seconds between two looks at how full the file systems are.
_USAGE_INTERVAL: Final = 15.0

#: Seconds after which an old figure is no longer shown.
_USAGE_LIFETIME: Final = 120.0

_DEVICES: Final = Path("/sys/dev/block")
#: Of devices made of memory (Documentation/admin-guide/devices.txt of the kernel).
_RAM: Final = 1


class FileSystem(NamedTuple):
    """Its names are psutil's."""

    device: str
    mountpoint: str
    fstype: str


class Space(NamedTuple):
    """Bytes; its names are psutil's."""

    total: int
    used: int


def _mounted() -> list[FileSystem]:
    found = psutil.disk_partitions(all=False)
    return [FileSystem(one.device, one.mountpoint, one.fstype) for one in found]


def _space(mountpoint: str) -> Space:
    found = psutil.disk_usage(mountpoint)
    return Space(found.total, found.used)


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
        self._latest = sum_up(_mounted(), _space)
        self._taken_at = time.monotonic()


def sum_up(
    mounted: Iterable[FileSystem],
    space: Callable[[str], Space],
    devices: Path = _DEVICES,
) -> tuple[int, int] | None:
    """(used, total) of what is on devices of its own, each once; None where there is nothing."""
    used = total = 0
    pools: dict[str, int] = {}
    seen: set[object] = set()
    for one in mounted:
        # Bind mounts and subvolumes show one device several times, aliases of it under other names.
        number = _number(one.device)
        key = one.device if number is None else number
        if key in seen or (number is not None and _lies_elsewhere(devices, number)):
            continue
        try:
            found = space(one.mountpoint)
        except OSError:
            continue
        seen.add(key)
        used += found.used
        if one.fstype == "zfs":
            # Each file system of a pool has all that is free in the pool.
            pool = one.device.partition("/")[0]
            pools[pool] = max(pools.get(pool, 0), found.total - found.used)
            total += found.used
        else:
            total += found.total
    total += sum(pools.values())
    return (used, total) if total else None


def _number(device: str) -> int | None:
    try:
        found = Path(device).stat()
    except OSError:
        return None
    return found.st_rdev if stat.S_ISBLK(found.st_mode) else None


def _lies_elsewhere(devices: Path, number: int) -> bool:
    """Whether the device is made of a file, which lies on another file system, or of memory."""
    major = os.major(number)
    place = (devices / f"{major}:{os.minor(number)}").resolve()
    if (place / "partition").exists():
        place = place.parent
    return major == _RAM or (place / "loop").exists() or (place / "mm_stat").exists()
