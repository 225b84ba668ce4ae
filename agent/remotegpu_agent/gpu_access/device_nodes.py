"""The NVIDIA driver's device files, and what it says about them below /proc.

A card's number among device files is its minor, which is neither NVML's index nor lasting: it may
change with each boot, and when MIG is switched. It is read anew each time.
"""

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CARD: Final = re.compile(r"nvidia(\d{1,3})")
#: What whoever uses any GPU opens beside it. The first is there wherever there is a driver.
_COMMON: Final = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
_MAX_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class FileParameters:
    """How NVIDIA's own helpers make device files, and whether they change those that are there."""

    mode: int
    modify: bool


@dataclass(frozen=True, slots=True)
class Capability:
    """The device file of a GPU instance or a compute instance that MIG made."""

    path: Path
    modify: bool


class DeviceNodes:
    """Below `root`. Everything raises OSError where the driver cannot be asked."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._dev = root / "dev"
        self._proc = root / "proc" / "driver" / "nvidia"

    def parameters(self) -> FileParameters | None:
        """None while the driver is not loaded."""
        found = _fields(self._proc / "params")
        if not found:
            return None
        # Their own helper takes these where nothing is said.
        mode, modify = found.get("DeviceFileMode", "438"), found.get("ModifyDeviceFiles", "1")
        return FileParameters(_number(mode), _number(modify) == 1)

    def minors(self) -> dict[str, int]:
        """Of each card that the driver serves, by its UUID. The driver knows it once somebody has
        opened the card."""
        found = {}
        for directory in _listed(self._proc / "gpus"):
            fields = _fields(directory / "information")
            uuid, minor = fields.get("GPU UUID", ""), fields.get("Device Minor", "")
            if uuid.startswith("GPU-") and "?" not in uuid and minor.isdecimal():
                found[uuid] = int(minor)
        return found

    def cards(self) -> dict[int, Path]:
        """Device files of cards, by their minors, whoever made them."""
        found = {}
        for path in _listed(self._dev):
            match = _CARD.fullmatch(path.name)
            if match and _is_device(path):
                found[int(match[1])] = path
        return found

    def common(self) -> list[Path]:
        return [path for name in _COMMON if _is_device(path := self._dev / name)]

    def capabilities(self, minor: int) -> list[Capability]:
        """Of the instances that MIG made of a card."""
        mig = self._proc / "capabilities" / f"gpu{minor}" / "mig"
        found = []
        for path in sorted((*mig.glob("gi*/access"), *mig.glob("gi*/ci*/access"))):
            fields = _fields(path)
            number = fields.get("DeviceFileMinor", "")
            node = self._dev / "nvidia-caps" / f"nvidia-cap{number}"
            if number.isdecimal() and _is_device(node):
                found.append(Capability(node, _number(fields.get("DeviceFileModify", "1")) == 1))
        return found

    def everything(self) -> Iterator[Path]:
        """Each device file that an account may have been let to."""
        yield from self.cards().values()
        yield from self.common()
        for path in _listed(self._dev / "nvidia-caps"):
            if _is_device(path):
                yield path


def _fields(path: Path) -> dict[str, str]:
    """None of a file that is not there: cards and drivers come and go."""
    try:
        with path.open("rb") as file:
            lines = file.read(_MAX_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _is_device(path: Path) -> bool:
    try:
        return stat.S_ISCHR(path.lstat().st_mode)
    except FileNotFoundError:
        return False
