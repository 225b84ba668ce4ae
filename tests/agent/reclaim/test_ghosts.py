"""A user's program whose main thread has ended, against every surface."""

import sys
from functools import partial
from pathlib import Path

import pytest

from remotegpu_agent.reclaim.scratch_disk import ScratchDisk
from remotegpu_agent.reclaim.step import Deadline, Step
from remotegpu_agent.reclaim.steps import make_steps
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_protocol.surfaces import SURFACES, Surface
from tests.agent.reclaim.isolation import own_uid
from tests.agent.reclaim.tenant import Tenant, tool
from tests.agent.reclaim.test_hosts import by_surface, clean, no_access
from tests.core.patience import eventually, until

_PROGRAM = Path(__file__).with_name("ghost.py")
_SCRATCH = "/srv/scratch"

#: What `ghost.py` does again and again, or why there is nothing that a process of a user could do.
GHOSTS: dict[Surface, str | None] = {
    Surface.HOST_VIEW: "its places are root's",
    Surface.SIGN_IN: "/etc/shadow is root's",
    Surface.SSH_KEYS: None,
    Surface.LINGERING: "logind alone writes there; test_systemd.py has one with lingering",
    Surface.CRON: None,
    Surface.AT_JOBS: None,
    Surface.USER_UNITS: "systemd does not run here; test_systemd.py has a ghost in a unit",
    Surface.CONTAINERS: "made by those who may use Docker's socket, which is to be root",
    Surface.GPU_DEVICES: "device files are root's",
    Surface.PROCESSES: None,
    Surface.MOUNTS: "a mount is served by a process, and found in the kernel's table without it",
    Surface.DATASETS: "mounted by root, below a directory of root's",
    Surface.RUNTIME_DIRECTORY: None,
    Surface.SYSTEM_V_IPC: None,
    Surface.MESSAGE_QUEUES: None,
    Surface.KERNEL_KEYS: None,
    Surface.SHARED_MEMORY: None,
    Surface.TEMPORARY_FILES: None,
    Surface.SCRATCH_DISKS: None,
    Surface.MAIL: "delivered by root's programs",
    Surface.CORE_DUMPS: "written by systemd-coredump when a process ends",
    Surface.JOURNAL: "systemd does not run here",
    Surface.HOME: None,
    Surface.LOGIND_USER: "systemd does not run here",
    Surface.GPU_MEMORY: "the driver lists processes, and root's agent asks it",
    Surface.GPU_SETTINGS: "setting a GPU takes root",
    Surface.GPU_CLOCK_LOCKS: "setting a GPU takes root",
    Surface.PORTS: "this agent maps none",
    Surface.ACCOUNT: "the account's tables are root's",
}

DEEDS = [surface for surface, reason in GHOSTS.items() if reason is None]


def test_every_surface_has_its_ghost() -> None:
    assert set(GHOSTS) == set(SURFACES)


def haunt(tenant: Tenant) -> int:
    """Start a ghost that does all of it; its process id."""
    name, home = tenant.account.name, tenant.account.home
    return int(tool(sys.executable, str(_PROGRAM), str(tenant.uid), name, home, *DEEDS))


def is_ghost(pid: int) -> bool:
    return "State:\tZ" in Path("/proc", str(pid), "status").read_text()


def prepared(name: str, number: int) -> Tenant:
    """With a runtime directory, as logind makes it."""
    tenant = Tenant(name, own_uid(number))
    runtime = f"/run/user/{tenant.uid}"
    tool("install", "-d", "-o", str(tenant.uid), runtime)
    return tenant


async def haunted(step: Step) -> bool:
    """Whether its deed has been done."""
    return step.surface not in DEEDS or bool(await step.look(Deadline(20)))


@pytest.mark.isolated
async def test_none_survives() -> None:
    ada, bob = prepared("rg-ada", 1), prepared("rg-bob", 2)
    tool("install", "-d", "-m", "1777", _SCRATCH)
    ghosts = [haunt(ada), haunt(bob)]
    for pid in ghosts:
        await until(partial(is_ghost, pid))
    disks = [ScratchDisk("/dev/nothing", _SCRATCH)]
    steps = make_steps(ada.tenancy, AbsentSource(), {}, no_access(), None, disks)
    for step in steps:
        await eventually(partial(haunted, step))
    report, _ = await clean(steps)
    assert report.verified, [item for item in report.items if not item.verified]
    items = by_surface(report)
    assert {surface for surface in DEEDS if not items[surface].found} == set()
    assert ada.residue() == []
    # The other one's goes on.
    assert bob.processes()
