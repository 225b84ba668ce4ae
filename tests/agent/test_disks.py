"""Block devices as the kernel shows them."""

from pathlib import Path

from remotegpu_agent.disks import host_disks
from remotegpu_protocol.inventory import Disk


class Block:
    """A /sys/block; `hardware`: whether there is a device behind the block device."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self,
        name: str,
        *,
        sectors: str = "2048",
        model: bytes | None = None,
        hardware: bool = True,
        **files: str,
    ) -> None:
        place = self.root / name
        (place / "queue").mkdir(parents=True)
        (place / "holders").mkdir()
        (place / "size").write_text(f"{sectors}\n")
        (place / "queue" / "rotational").write_text("0\n")
        if hardware:
            (place / "device").mkdir()
        if model is not None:
            (place / "device" / "model").write_bytes(model)
        for file, content in files.items():
            target = place / file.replace("_", "/")
            target.parent.mkdir(exist_ok=True)
            target.write_text(f"{content}\n")

    def lay(self, name: str, uuid: str, *lower: str) -> None:
        """A device mapper's device over others."""
        self.add(name, hardware=False, dm_uuid=uuid)
        for one in lower:
            (self.root / one / "holders" / name).symlink_to(self.root / name)

    def names(self) -> list[str]:
        return [disk.name for disk in host_disks(self.root)]


def test_devices_that_hold_data_are_listed(tmp_path: Path) -> None:
    block = Block(tmp_path)
    block.add("nvme0n1", sectors="7501476528", model=b"SAMSUNG \xff MZQL2 \n", removable="0")
    block.add("sda", queue_rotational="1")
    block.add("sdb", sectors="0")
    assert host_disks(tmp_path) == [
        Disk("nvme0n1", 7501476528 * 512, "SAMSUNG \ufffd MZQL2", rotational=False),
        Disk("sda", 2048 * 512, None, rotational=True),
    ]


def test_what_a_device_is_called_says_nothing(tmp_path: Path) -> None:
    block = Block(tmp_path)
    for name in ("loop0", "md127", "sdz", "fast-cache", "zd0"):
        block.add(name, hardware=False)
    for name in ("mdev0", "fdisk", "srv-data", "ramsan0"):
        block.add(name)
    # A stick, a virtual CD of a management controller.
    block.add("sdc", removable="1")
    assert block.names() == ["fdisk", "mdev0", "ramsan0", "srv-data"]


def test_paths_to_one_disk_are_one_disk(tmp_path: Path) -> None:
    block = Block(tmp_path)
    # NVMe's own multipathing, device mapper's, and none that somebody has set up.
    block.add("nvme0n1", wwid="eui.0025385a11b12345")
    block.add("nvme0c0n1", hidden="1", wwid="eui.0025385a11b12345")
    block.add("nvme0c1n1", hidden="1", wwid="eui.0025385a11b12345")
    block.add("sda")
    block.add("sdb")
    block.lay("dm-0", "mpath-360000000000000000e00000000010001", "sda", "sdb")
    block.lay("dm-1", "LVM-abc", "dm-0")
    block.add("sdc", device_wwid="naa.5002538e40123456")
    block.add("sdd", device_wwid="naa.5002538e40123456")
    # The serial number that every cheap adapter has is nobody's, and neither is a logical volume.
    for name in ("sde", "sdf"):
        block.add(name, device_wwid="t10.Generic 0000000000001")
    block.lay("dm-2", "LVM-def", "sde", "sdf")
    assert block.names() == ["nvme0n1", "sda", "sdc", "sde", "sdf"]


def test_without_sysfs_there_are_none(tmp_path: Path) -> None:
    assert host_disks(tmp_path / "missing") == []
