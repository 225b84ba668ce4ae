"""Real accounts with something of theirs in every place of a host."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.policy import SimulatedPolicy
from remotegpu_agent.commands.records import Progress
from remotegpu_agent.gpu_access.access import GpuAccess
from remotegpu_agent.reclaim.engine import Engine
from remotegpu_agent.reclaim.step import Deadline, Findings, Obstacle, Step
from remotegpu_agent.reclaim.steps import make_steps
from remotegpu_agent.reclaim.tenancy import objection
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.kinds import CleanedSurface, CleaningReport
from tests.agent.reclaim.isolation import own_uid
from tests.agent.reclaim.tenant import Tenant, tool

pytestmark = pytest.mark.isolated

#: What a tenant leaves on any host of this kind; the others are looked at, and absent.
PLANTED = {
    "sign-in",
    "SSH keys",
    "lingering",
    "cron",
    "at jobs",
    "processes",
    "runtime directory",
    "System V IPC",
    "POSIX message queues",
    "kernel keys",
    "shared memory",
    "temporary files",
    "mail",
    "core dumps",
    "home directory",
    "account",
}

#: What a later step removes too, since it lies where users leave files.
TWICE = {"cron", "at jobs", "runtime directory"}


def steps_of(tenant: Tenant) -> list[Step]:
    return make_steps(tenant.tenancy, AbsentSource(), {}, no_access())


def no_access() -> GpuAccess:
    """Of a host without GPUs."""
    directory = StateDirectory(Path("/var/lib/none"))
    return GpuAccess(directory, DiskThread(), SimulatedPolicy())


async def clean(steps: list[Step]) -> tuple[CleaningReport, list[str]]:
    told: list[str] = []

    async def report(progress: Progress) -> None:
        told.append(progress.step or "")

    return await Engine(steps, pause=0.01).run(report), told


def by_surface(report: CleaningReport) -> dict[str, CleanedSurface]:
    return {item.surface: item for item in report.items}


async def test_nothing_of_one_is_left_and_nothing_of_another_touched() -> None:
    ada, bob = Tenant("rg-ada", own_uid(1)), Tenant("rg-bob", own_uid(2))
    for tenant in (ada, bob):
        assert objection(tenant.tenancy) is None
        tenant.plant()
    before = bob.residue()
    assert len(ada.residue()) > 40
    assert "kernel key" in before
    assert len(bob.processes()) >= 3
    steps = steps_of(ada)
    report, told = await clean(steps)
    assert (report.performed, report.verified, report.simulated) == (True, True, False), report
    assert told == [*(f"cleaning: {step.surface}" for step in steps), "looking again"]
    items = by_surface(report)
    for surface in PLANTED:
        item = items[surface]
        assert item.found > 0, surface
        assert (item.found, item.verified) == (item.removed, True), item
    for surface in items.keys() - PLANTED:
        assert (items[surface].found, items[surface].verified) == (0, True), surface
    assert ada.residue() == []
    # A shell of bob's loop may be another process by now; all else is to the letter what it was.
    assert [line for line in bob.residue() if not line.startswith("process ")] == [
        line for line in before if not line.startswith("process ")
    ]
    assert len(bob.processes()) >= 3
    assert tool("crontab", "-l", uid=bob.uid) == "* * * * * /bin/true\n"

    # Again finds nothing; and the next one with the same user id has nothing of the first.
    again, _ = await clean(steps_of(ada))
    assert (again.verified, {item.found for item in again.items}) == (True, {0})
    eve = Tenant("rg-eve", ada.uid)
    assert objection(ada.tenancy) is not None
    assert [line for line in eve.residue() if not line.startswith(("/home", *TABLES))] == []


TABLES = ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")


def breaks(step: Step, how: str) -> None:
    """In a way in which it could break on a host."""

    async def fails(_deadline: Deadline) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def lies(_deadline: Deadline) -> None:
        """Removes nothing, and says nothing of it."""

    async def sees_nothing(_deadline: Deadline) -> Findings:
        raise Obstacle("cannot be looked at")

    replaced: dict[str, tuple[str, Callable[..., object]]] = {
        "fails": ("remove", fails),
        "lies": ("remove", lies),
        "blind": ("look", sees_nothing),
    }
    setattr(step, *replaced[how])


async def test_every_step_failing_in_turn() -> None:
    """Each on a host with something in every place; what is behind it is cleaned all the same."""
    surfaces = [step.surface for step in steps_of(Tenant("rg-first", own_uid(0)))]
    tried = 0
    for number, surface in enumerate(surfaces):
        tenant = Tenant(f"rg-t{number}", own_uid(1 + number))
        steps = steps_of(tenant)
        broken = steps[number]
        how = ("fails", "lies", "blind")[number % 3] if surface in PLANTED - TWICE else "blind"
        if broken.absence() is not None:
            tool("userdel", "--remove", tenant.account.name)
            continue
        tenant.plant()
        breaks(broken, how)
        report, _ = await clean(steps)
        items = by_surface(report)
        assert not report.verified, surface
        behind = (
            surfaces[number:] if broken.needed_by_all else list(dict.fromkeys((surface, "account")))
        )
        assert [item.surface for item in report.items if not item.verified] == behind
        assert items[surface].detail
        # The account holds its user id until all is proven.
        assert any(line.startswith(f"passwd: {tenant.account.name}:") for line in tenant.residue())
        # Mended, it ends well.
        mended, _ = await clean(steps_of(tenant))
        assert mended.verified, mended
        assert tenant.residue() == []
        tried += 1
    assert tried >= len(PLANTED)
