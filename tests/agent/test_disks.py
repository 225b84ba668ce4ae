"""Block devices as the kernel shows them, and real file systems."""

from pathlib import Path

from remotegpu_agent.disks import DiskUsage, host_disks
from remotegpu_protocol.inventory import Disk


def a_device(
    block: Path, name: str, *, sectors: str, model: bytes | None = None, rotational: str = "0"
) -> None:
    (block / name / "queue").mkdir(parents=True)
    (block / name / "device").mkdir()
    (block / name / "size").write_text(f"{sectors}\n")
    (block / name / "queue" / "rotational").write_text(f"{rotational}\n")
    if model is not None:
        (block / name / "device" / "model").write_bytes(model)


def test_devices_that_hold_data_are_listed(tmp_path: Path) -> None:
    a_device(tmp_path, "nvme0n1", sectors="7501476528", model=b"SAMSUNG \xff MZQL2 \n")
    a_device(tmp_path, "sda", sectors="2048", rotational="1")
    for name in ("loop0", "ram0", "zram0", "dm-0", "md127", "sr0"):
        a_device(tmp_path, name, sectors="2048")
    a_device(tmp_path, "sdb", sectors="0")
    assert host_disks(tmp_path) == [
        Disk("nvme0n1", 7501476528 * 512, "SAMSUNG \ufffd MZQL2", rotational=False),
        Disk("sda", 2048 * 512, None, rotational=True),
    ]


def test_without_sysfs_there_are_none(tmp_path: Path) -> None:
    assert host_disks(tmp_path / "missing") == []


def test_file_systems_are_summed_up() -> None:
    usage = DiskUsage()
    usage.refresh()
    used, total = usage.latest()
    # A container may have no local file system; then both are unknown.
    assert (used is None) == (total is None)
    assert used is None or total is None or 0 < used <= total


def test_nothing_is_shown_before_anything_is_known() -> None:
    class Hanging(DiskUsage):
        def refresh(self) -> None:
            """A device that never answers."""

    assert Hanging().latest() == (None, None)
