"""Users who make it hard: names that look like something else, mounts that do not answer, more of
everything than anybody needs."""

import asyncio
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from remotegpu_agent.reclaim.step import Deadline
from remotegpu_agent.reclaim.surfaces.mounts import Mounts
from remotegpu_agent.reclaim.surfaces.processes import Processes
from remotegpu_agent.reclaim.tenancy import Account, Tenancy, objection
from remotegpu_agent.reclaim.tree import Tree
from tests.agent.reclaim.isolation import own_uid
from tests.agent.reclaim.tenant import Tenant, tool
from tests.agent.reclaim.test_hosts import by_surface, clean, steps_of

pytestmark = pytest.mark.isolated

#: Names of programs that a careless reader of /proc/PID/status takes for lines of it.
_DISGUISES = (b"a\x0cState:Z", b"a\rState:Z", b"a\x1cUid:0 0 0 0", b"a\nState:Z", b"\xff\xfe: Z")
_DISGUISED = """
import ctypes, os, sys, time
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[2]), 0, 0, 0)
print("here", flush=True)
time.sleep(3600)
"""
#: Within what the user may have at once, each process makes two and ends.
_BOMB = """
import os, resource, sys
for number in (1, 2):
    os.dup2(os.open("/dev/null", os.O_RDWR), number)
os.setgroups([])
os.setgid(int(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_NPROC, (60, 60))
os.setuid(int(sys.argv[1]))
if os.fork():
    os._exit(0)
os.setsid()
while True:
    try:
        if os.fork() and os.fork():
            os._exit(0)
    except OSError:
        pass
"""
_HOARD = """
import ctypes, os, sys
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
libc = ctypes.CDLL(None, use_errno=True)
for _ in range(1500):
    assert libc.semget(0, 1, 0o1600) >= 0
    assert libc.msgget(0, 0o1600) >= 0
os.chdir("/tmp")
for name in (b"\\xff\\xfe", b"new\\nline", b"-rf", b"\\x1b[2J", b"n" * 255, b" ", b"\\xe2\\x80\\xa8"):
    os.mkdir(name)
    open(name + b"/" + name, "w").close()
os.mkdir("many")
for number in range(3000):
    open(f"many/{number}", "w").close()
os.mkdir("deep")
os.chdir("deep")
for _ in range(int(sys.argv[2])):
    os.mkdir("d")
    os.chdir("d")
"""


def as_user(program: str, *arguments: str) -> None:
    tool(sys.executable, "-c", program, *arguments)


@contextmanager
def disguised(uid: int) -> Iterator[list[int]]:
    """Processes of a user with names that look like something else."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _DISGUISED, str(uid), name.hex()], stdout=subprocess.PIPE
        )
        for name in _DISGUISES
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"here\n"
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def mount_fuse(point: str, uid: int) -> int:
    """As fusermount does for a user; nobody answers, and root is told that it may not."""
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={descriptor},rootmode=40000,user_id={uid},group_id={uid}"
    libc = ctypes.CDLL(None, use_errno=True)
    if not Path(point).exists():
        Path(point).mkdir()
        os.chown(point, uid, uid)
    assert libc.mount(b"fuse", os.fsencode(point), b"fuse", 0, options.encode()) == 0, os.strerror(
        ctypes.get_errno()
    )
    return descriptor


async def test_a_user_who_makes_it_hard() -> None:
    ada, bob = Tenant("rg-ada", own_uid(1)), Tenant("rg-bob", own_uid(2))
    ada.plant()
    bob.plant()
    as_user(_HOARD, str(ada.uid), "800")
    # What one user mounts stands in nobody else's way, whatever it is called.
    mine = mount_fuse("/tmp/mine\x0c - x\x85", ada.uid)  # noqa: S108 - of this host alone
    others = mount_fuse("/tmp/others\x1d", bob.uid)  # noqa: S108
    # A comment that looks like a line of another account.
    tool("usermod", "--comment", "x\u2028rg-ada", "rg-bob")
    with disguised(ada.uid) as pids:
        seen = Processes(ada.tenancy).look_now(Deadline(20)).count
        assert seen == len(ada.processes()) >= len(pids) + 3
        as_user(_BOMB, str(ada.uid))
        await asyncio.sleep(0.5)
        report, _ = await clean(steps_of(ada))
    items = by_surface(report)
    assert report.verified, [item for item in report.items if not item.verified]
    assert items["System V IPC"].found > 3000
    assert items["temporary files"].found > 3000
    assert items["mounts"].found == 1
    assert len(bob.processes()) >= 3
    assert Mounts(bob.tenancy).look_now(Deadline(20)).count == 1
    for descriptor in (mine, others):
        os.close(descriptor)
    # find(1) is not as careful.
    tool("umount", "/tmp/others\x1d")  # noqa: S108
    assert ada.residue() == []


def test_what_is_mounted_is_not_entered() -> None:
    """Also not other directories of the same file system, which its number does not tell."""
    ada = Tenant("rg-ada", own_uid(1))
    tool("mount", "-t", "tmpfs", "tmpfs", "/srv")
    for name in ("data", "open", "open/set"):
        Path(f"/srv/{name}").mkdir()
    for name in ("data/kept", "open/left"):
        Path(f"/srv/{name}").write_text("canary")
        os.chown(f"/srv/{name}", ada.uid, ada.uid)
    tool("mount", "--bind", "/srv/data", "/srv/open/set")
    tree = Tree(Path("/srv/open"), ada.tenancy.owns, Deadline(20))
    assert tree.look().names == ["/srv/open/left"]
    tree.remove()
    assert not tree.look()
    assert Path("/srv/data/kept").exists()


async def test_homes_behind_a_link() -> None:
    ada = Tenant("rg-ada", own_uid(1))
    ada.plant()
    tool("mount", "-t", "tmpfs", "tmpfs", "/srv")
    tool("mv", "/home/rg-ada", "/srv/rg-ada")
    tool("ln", "-s", "/srv", "/run/homes")
    tool("sed", "-i", "s,:/home/rg-ada:,:/run/homes/rg-ada:,", "/etc/passwd")
    ada.account = Account("rg-ada", ada.uid, "/run/homes/rg-ada")
    ada.tenancy = Tenancy("allocation-rg-ada", ada.account, [], ada.tenancy.subordinate)
    report, _ = await clean(steps_of(ada))
    items = by_surface(report)
    assert report.verified, [item for item in report.items if not item.verified]
    assert items["SSH keys"].found == items["home directory"].found == 1
    assert tool("ls", "/srv") == ""


def test_further_user_ids_of_two() -> None:
    """As whoever follows a guide to containers writes them, with the first numbers that there are."""
    ada = Tenant("rg-ada", own_uid(1))
    assert objection(ada.tenancy) is None
    first, count = ada.tenancy.subordinate[0]
    with Path("/etc/subuid").open("a") as table:
        table.write(f"dockremap:{first + count - 1}:65536\n")
    assert "dockremap" in (objection(ada.tenancy) or "")
