"""What this host is: facts that hardly change while it runs."""

import os
import platform
import socket
from functools import cache
from pathlib import Path

import psutil

from remotegpu_agent.addresses import host_addresses
from remotegpu_agent.disks import host_disks
from remotegpu_protocol.grammar import clean_text, hardware_uuid
from remotegpu_protocol.inventory import HostInventory


def read_host(*, dialled_from: str | None = None) -> HostInventory:
    """The host as it is now, without what only a driver knows."""
    disks = host_disks()
    return HostInventory(
        hostname=host_name(),
        hardware_uuid=smbios_uuid(),
        cpu_model=cpu_model(),
        cpu_count=os.cpu_count(),
        architecture=clean_text(platform.machine()) or None,
        memory_total=psutil.virtual_memory().total,
        disk_total=sum(disk.size or 0 for disk in disks) or None,
        disks=disks,
        operating_system=operating_system(),
        kernel=clean_text(platform.release()) or None,
        addresses=host_addresses(dialled_from),
    )


def host_name() -> str:
    return clean_text(socket.gethostname()) or "unnamed"


@cache
def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """`model name` on x86; ARM kernels give none, so there it is the device tree's model."""
    for line in (_read(cpuinfo) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return clean_text(value) or None
    return clean_text((_read(Path("/proc/device-tree/model")) or "").rstrip("\0")) or None


@cache
def operating_system() -> str | None:
    """PRETTY_NAME of os-release(5)."""
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return None
    return clean_text(name) or None


@cache
def smbios_uuid(path: Path = Path("/sys/class/dmi/id/product_uuid")) -> str | None:
    """The board's UUID; None where root alone may read it, or it identifies nothing."""
    return hardware_uuid(_read(path))


@cache
def boot_id(path: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """The kernel's random name for this run of it."""
    return clean_text(_read(path) or "") or "unknown"


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return None
