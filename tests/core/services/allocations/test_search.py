"""The database's search finds what a look at every machine would."""

import uuid
from random import Random
from typing import Any

import pytest

from remotegpu_core.clock import now_ms
from remotegpu_core.models import (
    Allocation,
    Booking,
    Gpu,
    GpuGroup,
    Machine,
    MachineLabel,
    Occupancy,
)
from remotegpu_core.services.allocations.beneficiary import Beneficiary
from remotegpu_core.services.allocations.capacity import read_hosts
from remotegpu_core.services.allocations.placement import Placement, Refused, place
from remotegpu_core.services.allocations.request import AllocateRequest, Requirement
from remotegpu_core.services.allocations.search import look
from remotegpu_core.services.grants import grant_machine
from remotegpu_core.services.retirement import retire
from remotegpu_core.states import AllocationState, Health, Lifecycle, Presence
from tests.core.hosts import make_machine
from tests.core.people import make_admin, make_user
from tests.core.services.allocations.hosts import GIB, MINUTE, POLICY, make_host, report

pytestmark = pytest.mark.usefixtures("database")

_HOST = {"policy": {"commands": POLICY.commands}}


async def random_fleet(random: Random, user_id: uuid.UUID, size: int = 10) -> None:
    """Machines of all kinds, with GPUs that are taken now, later or for longer than promised."""
    now = now_ms()
    for number in range(size):
        machine = await make_machine(
            f"m-{uuid.uuid4().hex[:6]}-{number}",
            presence=random.choice([*[Presence.ONLINE] * 4, Presence.LOST]),
            lifecycle=random.choice([*[Lifecycle.IN_SERVICE] * 6, Lifecycle.MAINTENANCE]),
            draining=random.random() < 0.1,
            failed_starts=random.choice([0, 0, 0, 1]),
            host=_HOST,
        )
        if random.random() < 0.5:
            await MachineLabel.create(machine_id=machine.id, key="rack", value="a")
        memory = random.choice([40, 80]) * GIB
        gpus = [
            Gpu(
                machine_id=machine.id,
                index=index,
                uuid=f"{machine.id}-{index}",
                model=random.choice(["NVIDIA H100", "NVIDIA H100", "NVIDIA A100"]),
                memory_total=memory,
                health=random.choice([*[Health.HEALTHY] * 6, Health.UNHEALTHY]),
                removed_at=random.choice([*[None] * 8, now]),
                created_at=now,
            )
            for index in range(random.randrange(5))
        ]
        await Gpu.bulk_create(gpus)
        whole = random.random() < 0.2
        taken: list[Gpu | None] = list(random.sample(gpus, len(gpus) // 2))
        for resource in [None, *gpus] if whole else taken:
            await _take(random, resource, machine, user_id, now)


async def _take(
    random: Random, gpu: Gpu | None, machine: Machine, user_id: uuid.UUID, now: int
) -> None:
    """A GPU, or None for the machine."""
    begins = now + random.choice([-60, -10, 5, 90]) * MINUTE
    ends = begins + random.choice([9, 30, 120]) * MINUTE
    allocation = await Allocation.create(
        state=random.choice([AllocationState.ACTIVE, AllocationState.RECLAIMING]),
        user_id=user_id,
        machine_id=machine.id,
        starts_at=begins,
        ends_at=ends,
        created_at=now,
    )
    of: dict[str, Any] = {
        "allocation_id": allocation.id,
        "resource_id": machine.id if gpu is None else gpu.id,
        "machine_id": machine.id,
        "gpu_id": None if gpu is None else gpu.id,
    }
    await Booking.create(**of, starts_at=begins, ends_at=ends)
    if begins <= now and random.random() < 0.7:
        await Occupancy.create(**of, opened_at=begins)


def random_request(random: Random) -> AllocateRequest:
    needed = Requirement(
        random.choice([None, 1, 1, 2, 3]),
        random.choice([None, "h100", "A100", "t4"]),
        random.choice([None, None, 60 * GIB]),
        random.choice([(), (), (("rack", "a"),)]),
    )
    starts_at = random.choice([None, now_ms() + 20 * MINUTE])
    return AllocateRequest(ends_at=now_ms() + 60 * MINUTE, starts_at=starts_at, requirement=needed)


@pytest.mark.parametrize("seed", range(2))
async def test_as_if_every_machine_was_looked_at(seed: int) -> None:
    random = Random(seed)
    user, admin = await make_user(), await make_admin()
    await random_fleet(random, user.id)
    for machine in random.sample(await Machine.all(), 6):
        await grant_machine(admin, machine.id, user_id=user.id, workspace_id=None)
    seen = set[type]()
    for _ in range(25):
        request, whose = random_request(random), Beneficiary(user, None, random.random() < 0.3)
        asked = request.requirement
        assert asked is not None
        machines = whose.machines()
        for key, value in asked.labels:
            machines = machines.filter(labels__key=key, labels__value=value)
        starts_at = request.starts_at or now_ms()
        now = request.starts_at is None
        expected = place(
            await read_hosts(machines, request, starts_at, now=now), request, starts_at, now=now
        )
        found = await look(whose, request)
        seen.add(type(expected))
        if isinstance(expected, Placement):
            assert found == expected, request
            continue
        assert isinstance(found, Refused)
        assert (found.free_from, found.reasons) == (expected.free_from, expected.reasons), request
        queued = await look(whose, request, but=set())
        assert isinstance(queued, Refused)
        assert queued.could_serve == expected.could_serve, request
    assert seen == {Placement, Refused}


async def counted() -> dict[tuple[uuid.UUID, str, int], tuple[int, int]]:
    rows = await GpuGroup.filter(gpus__gt=0)
    return {(row.machine_id, row.model, row.memory_total): (row.gpus, row.usable) for row in rows}


async def test_gpus_are_counted_as_they_come_and_go() -> None:
    first, second = await make_host("first", 3), await make_host("second", 2, memory=40 * GIB)
    h100 = "NVIDIA H100"
    assert await counted() == {
        (first.id, h100, 80 * GIB): (3, 3),
        (second.id, h100, 40 * GIB): (2, 2),
    }
    await report(first, 2, model="NVIDIA A100")
    await Gpu.filter(machine_id=second.id, index=1).update(health=Health.UNHEALTHY)
    assert await counted() == {
        (first.id, "NVIDIA A100", 80 * GIB): (2, 2),
        (second.id, h100, 40 * GIB): (2, 1),
    }
    await Gpu.filter(machine_id=second.id, index=1).update(memory_total=None)
    await Gpu.filter(machine_id=first.id, index=0).delete()
    assert await counted() == {
        (first.id, "NVIDIA A100", 80 * GIB): (1, 1),
        (second.id, h100, 40 * GIB): (1, 1),
        (second.id, h100, 0): (1, 0),
    }
    await retire(await make_admin(), first.id)
    assert {machine_id for machine_id, _, _ in await counted()} == {second.id}


async def test_machines_say_whether_they_let_themselves_be_allocated() -> None:
    host = await make_host("host")
    row = await Machine.get(id=host.id)
    assert (row.allocatable, row.shareable) == (True, True)
    await report(host, 2, policy=type(POLICY)(commands=["allocation.start"]))
    row = await Machine.get(id=host.id)
    assert (row.allocatable, row.shareable) == (False, False)
