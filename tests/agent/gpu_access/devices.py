"""A host's device files of GPUs and what its driver says of them, below a directory of a test.

The files are harmless: they have the numbers of /dev/null. Whoever may open one may open that.
"""

import os
import stat
import subprocess
from pathlib import Path

_NULL = os.makedev(1, 3)


def uuid_of(card: int) -> str:
    """As the stub of NVIDIA's library has them."""
    return f"GPU-00000000-0000-4000-8000-{card:012d}"


class Devices:
    """Card N has the minor N + 3: a minor is not an index."""

    def __init__(self, root: Path, cards: int = 2, *, mode: int = 0o660, modify: int = 1) -> None:
        assert os.geteuid() == 0, "device files are made by root: run this test as root"
        self.root = root
        self.mode = mode
        self.modify = modify
        self._cards = cards
        (root / "dev" / "nvidia-caps").mkdir(parents=True)
        for directory in (root, root / "dev", root / "dev" / "nvidia-caps"):
            directory.chmod(0o755)
        self.tell(mode=mode, modify=modify)
        for card in range(cards):
            self.place(card, minor=card + 3)
        for name in self.names():
            self.make(name)

    def names(self) -> list[str]:
        return [*(f"nvidia{card + 3}" for card in range(self._cards)), "nvidiactl", "nvidia-uvm"]

    def tell(self, *, mode: int, modify: int) -> None:
        """What the module was loaded with."""
        self.mode, self.modify = mode, modify
        self._write(
            "params",
            f"ResmanDebugLevel: 4294967295\nModifyDeviceFiles: {modify}\nDeviceFileUID: 0\n"
            f"DeviceFileGID: 0\nDeviceFileMode: {mode}\n",
        )

    def place(self, card: int, *, minor: int) -> None:
        self._write(
            f"gpus/0000:{16 + card:02x}:00.0/information",
            f"Model: \t\t NVIDIA Stub\nGPU UUID: \t {uuid_of(card)}\nDevice Minor: \t {minor}\n"
            "GPU Excluded:\t No\n",
        )

    def lose(self, card: int) -> None:
        """It fell off its bus."""
        self._proc(f"gpus/0000:{16 + card:02x}:00.0/information").unlink()

    def divide(self, minor: int, capability: str, number: int, *, modify: int) -> None:
        """MIG made an instance of the card."""
        self._write(
            f"capabilities/gpu{minor}/mig/{capability}/access",
            f"DeviceFileMinor: {number}\nDeviceFileMode: 292\nDeviceFileModify: {modify}\n",
        )
        self.make(f"nvidia-caps/nvidia-cap{number}", mode=0o444)

    def make(self, name: str, *, mode: int | None = None) -> None:
        """Make a device file anew, as a boot, udev or the driver's helper does."""
        path = self.path(name)
        path.unlink(missing_ok=True)
        os.mknod(path, stat.S_IFCHR, _NULL)
        # nvidia-modprobe asks nobody about the file of unified memory.
        path.chmod(0o666 if name == "nvidia-uvm" else self.mode if mode is None else mode)

    def probe(self) -> None:
        """What nvidia-modprobe does, with root's rights, whenever any user's program begins."""
        for name in self.names():
            wanted = 0o666 if name == "nvidia-uvm" else self.mode
            path = self.path(name)
            if self.modify and stat.S_IMODE(path.stat().st_mode) != wanted:
                path.chmod(wanted)

    def path(self, name: str) -> Path:
        return self.root / "dev" / name

    def opened(self, uid: int, *, reading: bool = False) -> set[str]:
        """Device files that a process of this user can open as CUDA does, by trying.

        `reading`: at least for reading.
        """
        found = {str(path.relative_to(self.root / "dev")) for path in self._devices()}
        return {name for name in found if self._opens(uid, name, reading)}

    def _devices(self) -> list[Path]:
        return [path for path in (self.root / "dev").rglob("*") if path.is_char_device()]

    def _opens(self, uid: int, name: str, reading: bool) -> bool:
        way = "<" if reading or name.startswith("nvidia-caps") else "<>"
        done = subprocess.run(
            ["/bin/sh", "-c", f': {way} "$1"', "sh", str(self.path(name))],
            user=uid,
            group=uid,
            extra_groups=[],
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=20,
        )
        return done.returncode == 0

    def _write(self, name: str, content: str) -> None:
        path = self._proc(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def _proc(self, name: str) -> Path:
        return self.root / "proc" / "driver" / "nvidia" / name
