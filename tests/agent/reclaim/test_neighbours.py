"""A second user who tries to keep the first one's things from going, in every surface."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from remotegpu_agent.mount_table import read_table
from remotegpu_agent.reclaim.scratch_disk import ScratchDisk
from remotegpu_agent.reclaim.steps import make_steps
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_protocol.surfaces import SURFACES, Surface
from tests.agent.reclaim.isolation import own_uid
from tests.agent.reclaim.tenant import Tenant, tool
from tests.agent.reclaim.test_hostile import mount_fuse
from tests.agent.reclaim.test_hosts import by_surface, clean, no_access
from tests.agent.reclaim.test_tree import chain, moving

_PROGRAM = Path(__file__).with_name("neighbour.py")
_SCRATCH = "/srv/scratch"

#: What the test below does, or why there is nothing that another user could do.
NEIGHBOURS: dict[Surface, str] = {
    Surface.HOST_VIEW: "its places are root's",
    Surface.SIGN_IN: "/etc/shadow is root's",
    Surface.SSH_KEYS: "moves ~/.ssh to and fro, in a home that is open to all",
    Surface.LINGERING: "the directory is root's",
    Surface.CRON: "has a table too",
    Surface.AT_JOBS: "has a job too",
    Surface.USER_UNITS: "each user has a manager of their own",
    Surface.CONTAINERS: "may not use Docker's socket",
    Surface.GPU_DEVICES: "device files are root's",
    Surface.PROCESSES: "starts the user's set-id program again and again",
    Surface.MOUNTS: "moves the directory that the user's mount lies in",
    Surface.DATASETS: "the directory that holds them is root's",
    Surface.RUNTIME_DIRECTORY: "has files and a mount in it",
    Surface.SYSTEM_V_IPC: "has the user's segment attached",
    Surface.MESSAGE_QUEUES: "has the user's queue open",
    Surface.KERNEL_KEYS: "has the user's key in a keyring",
    Surface.SHARED_MEMORY: "has files in the user's directory, and deep trees",
    Surface.TEMPORARY_FILES: "the same, and mounts",
    Surface.SCRATCH_DISKS: "the same",
    Surface.MAIL: "the directory is root's",
    Surface.CORE_DUMPS: "the directory is root's",
    Surface.JOURNAL: "journald alone writes it",
    Surface.HOME: "has files, deep trees and mounts in it",
    Surface.LOGIND_USER: "logind alone keeps it",
    Surface.GPU_MEMORY: "has programs on the GPU: test_gpus.py",
    Surface.GPU_SETTINGS: "setting a GPU takes root",
    Surface.GPU_CLOCK_LOCKS: "setting a GPU takes root",
    Surface.PORTS: "this agent maps none",
    Surface.ACCOUNT: "does not wait for the user's processes to end, so they stay as zombies",
}


def test_every_surface_has_its_neighbour() -> None:
    assert set(NEIGHBOURS) == set(SURFACES)


def own(path: Path, uid: int, mode: int = 0o777) -> Path:
    """A directory of a user's, open to all."""
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


def owner(path: Path) -> int:
    return path.stat().st_uid


def write(path: Path, uid: int) -> Path:
    path.write_text("canary")
    os.chown(path, uid, uid)
    return path


@contextmanager
def spoiled_tree(root: Path, ada: Tenant, bob: Tenant) -> Iterator[None]:
    """One of ada's directories holds something of bob's, and one of bob's something of ada's."""
    ours, theirs = own(root / "ada", ada.uid), own(root / "bob", bob.uid)
    write(ours / "of bob", bob.uid)
    chain(own(ours / "deep", bob.uid), 250, uid=bob.uid, last=bob.uid)
    chain(theirs, 250, uid=bob.uid, last=ada.uid)
    for name in ("1", "2"):
        own(theirs / name, bob.uid)
        chain(theirs / name, 5, uid=ada.uid, last=ada.uid)
    with moving((theirs / "1" / "d", theirs / "2" / "e"), (theirs, root / "bob moved")):
        yield


@contextmanager
def spoiled_mounts(ada: Tenant, bob: Tenant) -> Iterator[None]:
    """Mounts of both, where the other one can be in the way."""
    parent = own(Path("/tmp/parent"), bob.uid)  # noqa: S108 - of this host alone
    covered = [
        own(Path(place), ada.uid)
        for place in (
            "/tmp/covered",  # noqa: S108 - as above
            f"{ada.account.home}/covered",
            f"/run/user/{ada.uid}/covered",
        )
    ]
    held = [mount_fuse(f"{parent}/of ada", ada.uid), mount_fuse(f"{parent}/of bob", bob.uid)]
    held += [mount_fuse(str(place), bob.uid) for place in covered]
    try:
        with moving((parent, Path("/tmp/parent moved"))):  # noqa: S108 - as above
            yield
    finally:
        for descriptor in held:
            os.close(descriptor)


@contextmanager
def spoiled_objects(ada: Tenant, bob: Tenant) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of bob's that holds what ada has left, and runs ada's program."""
    program = Path(ada.account.home, "set-id")
    program.write_bytes(Path("/bin/sleep").read_bytes())
    os.chown(program, ada.uid, ada.uid)
    program.chmod(0o4755)
    os.link(program, f"{bob.account.home}/other name")
    made = tool(sys.executable, "-c", _SHARED, str(ada.uid)).split()
    process = subprocess.Popen(
        [sys.executable, str(_PROGRAM), str(bob.uid), str(program), *made],
        stdout=subprocess.PIPE,
        cwd="/",
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        yield process
    finally:
        process.kill()
        process.communicate()


#: As ada: a queue, a segment and a key that are open to all; prints their names.
_SHARED = """
import ctypes, os, sys
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
os.umask(0)
libc = ctypes.CDLL(None, use_errno=True)
machine = os.uname().machine
assert libc.mq_open(b"/shared", os.O_CREAT | os.O_RDWR, 0o666, None) >= 0
segment = libc.shmget(0, 4096, 0o1666)
key = libc.syscall({"x86_64": 248, "aarch64": 217}[machine], b"user", b"shared", b"x", 1, -4)
assert libc.syscall({"x86_64": 250, "aarch64": 219}[machine], 5, key, 0x3f3f3f3f) == 0
print("/shared", segment, key)
"""


@pytest.mark.isolated
async def test_none_is_in_the_way() -> None:
    ada, bob = Tenant("rg-ada", own_uid(1)), Tenant("rg-bob", own_uid(2))
    for tenant in (ada, bob):
        tenant.plant()
    home, runtime = Path(ada.account.home), Path(f"/run/user/{ada.uid}")
    for place in (home, runtime):
        own(place, ada.uid)
        write(place / "of bob", bob.uid)
        chain(own(place / "deep", bob.uid), 250, uid=bob.uid, last=bob.uid)
    own(Path(_SCRATCH), 0, 0o1777)
    roots = [Path(root) for root in ("/tmp", "/dev/shm", "/var/tmp", _SCRATCH)]  # noqa: S108 - as above
    disks = [ScratchDisk("/dev/nothing", _SCRATCH)]
    steps = make_steps(ada.tenancy, AbsentSource(), {}, no_access(), None, disks)
    with ExitStack() as stack:
        for root in roots:
            stack.enter_context(spoiled_tree(root, ada, bob))
        stack.enter_context(spoiled_mounts(ada, bob))
        holder = stack.enter_context(spoiled_objects(ada, bob))
        stack.enter_context(moving((home / ".ssh", home / "moved")))
        report, _ = await clean(steps)
        assert report.verified, [item for item in report.items if not item.verified]
        assert holder.poll() is None
    items = by_surface(report)
    for surface in (Surface.TEMPORARY_FILES, Surface.SHARED_MEMORY, Surface.SCRATCH_DISKS):
        assert "became theirs" in (items[surface].detail or ""), surface
    assert items[Surface.MOUNTS].found == 3
    assert "attached" in (items[Surface.SYSTEM_V_IPC].detail or "")
    # What bob has mounted in ada's places is gone; in bob's own it is there.
    left = [mount.point.name for mount in read_table() if mount.user_id is not None]
    assert left == ["of bob"]
    for mount in read_table():
        if mount.user_id is not None:
            tool("umount", str(mount.point))
    assert ada.residue() == []
    assert [owner(root / "ada" / "of bob") for root in roots] == [bob.uid] * len(roots)
    assert owner(Path(bob.account.home, "other name")) == 0

    # With bob's own end, all of it goes.
    steps = make_steps(bob.tenancy, AbsentSource(), {}, no_access(), None, disks)
    report, _ = await clean(steps)
    assert report.verified, [item for item in report.items if not item.verified]
    assert bob.residue() == []
    assert [path for root in roots for path in root.iterdir()] == []
