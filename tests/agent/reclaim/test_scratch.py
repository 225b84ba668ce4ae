"""Scratch disks, on loop devices: erased, or only what is one's own removed, or left alone."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from remotegpu_agent.commands.policy import PolicyFile
from remotegpu_agent.reclaim.scratch_disk import HOW, ZEROED, ScratchDisk
from remotegpu_agent.reclaim.step import Deadline, Findings, Obstacle, Step
from remotegpu_agent.reclaim.surfaces.scratch import ScratchDisks, scratch_step
from remotegpu_agent.reclaim.tenancy import Account, Tenancy
from tests.agent.reclaim.isolation import is_isolated
from tests.agent.reclaim.tenant import tool

CANARY = b"canary of the one before " * 1000
PLACE = Path("/srv/scratch")
ADA, BOB = 30001, 30002


def tenancy(allocation_id: str = "a1", *, whole_machine: bool = True) -> Tenancy:
    account = Account("rg-ada", ADA, "/home/rg-ada")
    return Tenancy(allocation_id, account, [], whole_machine=whole_machine)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[ScratchDisk]:
    if not is_isolated():
        # The outer test only starts the inner one.
        yield ScratchDisk("/dev/null", str(PLACE))
        return
    tool("mount", "-t", "tmpfs", "tmpfs", str(PLACE.parent))
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(24 * 2**20)
    device = tool("losetup", "--find", "--partscan", "--show", str(image)).strip()
    try:
        tool("mkfs.ext4", "-q", device)
        made = ScratchDisk(device, str(PLACE))
        made.mount_again(Deadline(20))
        yield made
    finally:
        subprocess.run(["umount", PLACE], check=False, capture_output=True)
        tool("losetup", "--detach", device)


def leave(name: str, uid: int) -> Path:
    path = PLACE / name
    path.write_bytes(CANARY)
    os.chown(path, uid, uid)
    os.sync()
    return path


def raw(disk: ScratchDisk) -> bytes:
    tool("blockdev", "--flushbufs", disk.device)
    return Path(disk.device).read_bytes()


def look(step: Any) -> Findings:
    found = step.look_now(Deadline(20))
    assert isinstance(found, Findings)
    return found


@pytest.mark.isolated
def test_a_disk_is_erased_after_who_had_the_host(disk: ScratchDisk) -> None:
    leave("canary", ADA)
    (PLACE / "canary").rename(PLACE / "moved")
    leave("deleted", ADA).unlink()
    step = scratch_step(tenancy(), [disk])
    assert isinstance(step, ScratchDisks)
    assert CANARY[:500] in raw(disk)
    assert look(step).count == 1
    step.remove_now(Deadline(60))
    assert not look(step)
    assert CANARY[:24] not in raw(disk)
    assert step.note() == f"{disk.device}: {HOW[ZEROED]}"
    assert PLACE.stat().st_mode & 0o7777 == 0o1777
    [mount] = disk.mounts()
    assert "nosuid" in Path("/proc/mounts").read_text().split(str(PLACE))[1].split("\n")[0]
    assert mount.point == PLACE
    # Once more changes nothing, also where an agent was killed before it mounted the disk.
    tool("umount", str(PLACE))
    assert look(step)
    step.remove_now(Deadline(60))
    assert not look(step)
    # What comes afterwards is found, and the next allocation's proof is not this one's.
    leave("late", ADA)
    assert look(step).names == [f"{PLACE}/late"]
    step.remove_now(Deadline(60))
    assert not look(step)
    assert look(scratch_step(tenancy("a2"), [disk]))


@pytest.mark.isolated
def test_half_erased_is_not_erased(disk: ScratchDisk) -> None:
    tool("umount", str(PLACE))
    tool("blkdiscard", "--force", "--zeroout", disk.device)
    step: Any = scratch_step(tenancy(), [disk])
    assert look(step)
    step.remove_now(Deadline(60))
    assert not look(step)


@pytest.mark.isolated
def test_on_a_shared_host_only_ones_own_is_removed(disk: ScratchDisk) -> None:
    ours, others = leave("ours", ADA), leave("others", BOB)
    step: Any = scratch_step(tenancy(whole_machine=False), [disk])
    assert look(step).names == [str(ours)]
    step.remove_now(Deadline(20))
    assert not look(step)
    assert others.read_bytes() == CANARY
    assert "no disk was erased" in step.note()


@pytest.mark.isolated
def test_a_disk_in_use_is_left_as_it_is(disk: ScratchDisk) -> None:
    path = leave("canary", BOB)
    step: Any = scratch_step(tenancy(), [disk])
    with path.open("rb"), pytest.raises(Obstacle, match="cannot be unmounted"):
        step.remove_now(Deadline(20))
    second = Path("/home/second")
    second.mkdir()
    tool("mount", disk.device, str(second))
    try:
        with pytest.raises(Obstacle, match="mounted at /home/second too"):
            step.remove_now(Deadline(20))
        with pytest.raises(Obstacle, match="mounted at /home/second too"):
            look(step)
    finally:
        tool("umount", str(second))
    with pytest.raises(Obstacle, match="no block device"):
        look(scratch_step(tenancy(), [ScratchDisk("/dev/null", str(PLACE))]))
    assert path.read_bytes() == CANARY


@pytest.mark.isolated
def test_a_disk_with_partitions_or_swap_is_left_alone(disk: ScratchDisk) -> None:
    tool("umount", str(PLACE))
    tool("mkswap", "--force", disk.device)
    tool("swapon", disk.device)
    try:
        with pytest.raises(Obstacle, match="swapped to"):
            disk.renew("a1", Deadline(20))
    finally:
        tool("swapoff", disk.device)
    # By hand: not every kernel reads tables of partitions.
    tool("addpart", disk.device, "1", "2048", "8192")
    with pytest.raises(Obstacle, match="has partitions"):
        disk.renew("a1", Deadline(20))


@pytest.mark.parametrize(
    "entry",
    [
        {"device": "/dev/sdb", "mount": "/home/scratch"},
        {"device": "/dev/sdb", "mount": "/"},
        {"device": "/dev/sdb", "mount": "/scratch/../etc"},
        {"device": "/dev/sdb", "mount": "/-o"},
        {"device": "/dev/../etc/shadow", "mount": "/scratch"},
        {"device": "--force", "mount": "/scratch"},
        {"device": "/dev/sdb;reboot", "mount": "/scratch"},
        {"device": "/dev/sdb", "mount": "/scratch", "filesystem": "vfat"},
        {"device": "/dev/sdb", "mount": "/scratch", "force": True},
    ],
)
def test_entries_that_are_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(entry, type=ScratchDisk)


def test_the_policy_names_disks(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(
        '[[scratch]]\ndevice = "/dev/disk/by-id/nvme-eui.0025-part1"\nmount = "/scratch/a"\n'
        '[[scratch]]\ndevice = "/dev/sdb"\nmount = "/mnt/b"\nfilesystem = "xfs"\n'
    )
    found = PolicyFile(path, owner=os.getuid()).read()
    assert found.message is None
    assert [disk.mount for disk in found.scratch] == ["/scratch/a", "/mnt/b"]
    path.write_text('[[scratch]]\ndevice = "/dev/sdb"\nmount = "/usr/scratch"\n')
    assert "/usr/scratch" in str(PolicyFile(path, owner=os.getuid()).read().message)


def test_without_disks_there_is_no_such_place() -> None:
    for whole in (True, False):
        step: Step = scratch_step(tenancy(whole_machine=whole), [])
        assert step.absence() is not None
