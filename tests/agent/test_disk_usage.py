"""Space of file systems, each counted once: real ones, and real devices that lie in files."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from remotegpu_agent.disk_usage import DiskUsage, FileSystem, Space, sum_up

GIB = 2**30


def test_file_systems_of_this_host_are_summed_up() -> None:
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


def spaces(**found: Space) -> dict[str, Space]:
    return {f"/{name}": space for name, space in found.items()}


def test_bind_mounts_and_pools_share_their_space() -> None:
    mounted = [
        FileSystem("/dev/none1", "/a", "ext4"),
        FileSystem("/dev/none1", "/b", "ext4"),
        FileSystem("tank/home", "/c", "zfs"),
        FileSystem("tank/data", "/d", "zfs"),
        FileSystem("other/data", "/e", "zfs"),
        FileSystem("/dev/dead", "/f", "xfs"),
    ]
    space = spaces(
        a=Space(100, 10), b=Space(100, 10), c=Space(60, 10), d=Space(70, 20), e=Space(5, 1)
    )

    def ask(mountpoint: str) -> Space:
        if mountpoint not in space:
            raise OSError
        return space[mountpoint]

    assert sum_up(mounted, ask) == (10 + 10 + 20 + 1, 100 + 10 + 20 + 50 + 5)
    assert sum_up([], ask) is None


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[str]:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 * 2**20)
    made = subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    )
    device = made.stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def test_an_image_counts_where_its_file_lies(loop_device: str, tmp_path: Path) -> None:
    alias = tmp_path / "another name"
    alias.symlink_to(loop_device)
    mounted = [FileSystem(str(alias), "/image", "ext4"), FileSystem("/dev/none1", "/a", "ext4")]
    assert sum_up(mounted, lambda _: Space(2 * GIB, GIB)) == (GIB, 2 * GIB)


def test_names_of_one_device_are_one(loop_device: str, tmp_path: Path) -> None:
    """A logical volume is /dev/mapper/vg-lv and /dev/dm-0."""
    number = Path(loop_device).stat().st_rdev
    sysfs = tmp_path / "block"
    (sysfs / f"{os.major(number)}:{os.minor(number)}").mkdir(parents=True)
    alias = tmp_path / "alias"
    alias.symlink_to(loop_device)
    mounted = [FileSystem(loop_device, "/a", "xfs"), FileSystem(str(alias), "/b", "xfs")]
    assert sum_up(mounted, lambda _: Space(2 * GIB, GIB), sysfs) == (GIB, 2 * GIB)
    # Memory that is made to look like a disk.
    (sysfs / f"{os.major(number)}:{os.minor(number)}" / "mm_stat").touch()
    assert sum_up(mounted, lambda _: Space(2 * GIB, GIB), sysfs) is None
