"""A GPU that two machines' hosts report."""

import random
import uuid

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import Conflict, Forbidden, NotFound
from remotegpu_core.models import Allocation, Booking, Gpu, Machine
from remotegpu_core.services import gpu_claims, retirement
from remotegpu_core.services.claims import ESTABLISHED_AFTER
from remotegpu_core.services.gpu_claims import assign, settle
from remotegpu_core.services.inventory import apply_inventory
from remotegpu_core.states import AllocationState, Health, Lifecycle
from tests.core.hosts import gpu, inventory, make_online
from tests.core.people import make_tenant

pytestmark = pytest.mark.usefixtures("database")


async def report(machine: Machine, *uuids: str) -> list[str]:
    """What is refused of it."""
    row = await Machine.get(id=machine.id)
    cards = [gpu(uuid_, index=index) for index, uuid_ in enumerate(uuids)]
    return (await apply_inventory(machine.id, row.epoch, inventory(*cards))).refused


async def two() -> tuple[Machine, Machine]:
    return (await make_online("first"))[0], (await make_online("second"))[0]


async def gpus(machine: Machine) -> dict[str, Health]:
    rows = await Gpu.filter(machine_id=machine.id, removed_at=None).order_by("uuid")
    return {row.uuid: row.health for row in rows}


async def health(machine: Machine) -> Health:
    row = await Machine.get(id=machine.id)
    assert row.lifecycle is Lifecycle.IN_SERVICE
    return row.health


async def long_ago(machine: Machine) -> None:
    before = now_ms() - ESTABLISHED_AFTER - 1000
    rows = Gpu.filter(machine_id=machine.id)
    await rows.update(created_at=before)
    await rows.filter(claimed_at__isnull=False).update(claimed_at=before, removed_at=before)


FINE, BAD = Health.HEALTHY, Health.UNHEALTHY


async def test_of_two_equal_claims_neither_is_used() -> None:
    first, second = await two()
    await report(first, "GPU-1", "GPU-2")
    assert "(assignGpu)" in (await report(second, "GPU-1", "GPU-3"))[0]
    assert await settle() == 1
    assert (await gpus(first), await gpus(second)) == (
        {"GPU-1": BAD, "GPU-2": FINE},
        {"GPU-3": FINE},
    )
    assert (await health(first), await health(second)) == (Health.DEGRADED, Health.DEGRADED)
    # What both say again changes nothing.
    assert len(await report(first, "GPU-1", "GPU-2")) == 1
    await report(second, "GPU-1", "GPU-3")
    assert await settle() == 0
    assert (await gpus(first))["GPU-1"] is BAD
    # It ends with the claim.
    await report(second, "GPU-3")
    assert await settle() == 1
    assert await gpus(first) == {"GPU-1": FINE, "GPU-2": FINE}
    assert (await health(first), await health(second)) == (FINE, FINE)


async def test_a_claim_takes_nothing_from_who_had_it_for_long() -> None:
    first, second = await two()
    await report(first, "GPU-1")
    await long_ago(first)
    await report(second, "GPU-1")
    assert await settle() == 0
    assert (await gpus(first), await health(first)) == ({"GPU-1": FINE}, FINE)
    # When the first one gives it up, the claim is what there is.
    await report(first)
    assert await settle() == 1
    assert (await gpus(first), await gpus(second)) == ({}, {"GPU-1": FINE})


async def test_an_admin_decides_for_either(admin: Actor) -> None:
    liar, honest = await two()
    await report(liar, "GPU-1")
    await long_ago(liar)
    await report(honest, "GPU-1", "GPU-2")
    with pytest.raises(NotFound):
        await assign(admin, liar.id, "GPU-2")
    with pytest.raises(Forbidden):
        await assign(await make_tenant(), honest.id, "GPU-1")
    row = await assign(admin, honest.id, "GPU-1")
    assert (row.machine_id, row.removed_at) == (honest.id, None)
    assert await settle() == 0
    # Whatever the other says, and however long.
    await report(liar, "GPU-1")
    assert await settle() == 0
    assert (await gpus(liar), await gpus(honest)) == ({}, {"GPU-1": FINE, "GPU-2": FINE})
    assert await report(honest, "GPU-1", "GPU-2") == []
    # And back: admins err too.
    await assign(admin, liar.id, "GPU-1")
    assert (await gpus(liar), await gpus(honest)) == ({"GPU-1": FINE}, {"GPU-2": FINE})
    # Of what is disputed, for the one that has it.
    await Gpu.filter(machine_id=liar.id).update(decided_at=None, created_at=now_ms())
    await report(honest, "GPU-1", "GPU-2")
    await settle()
    assert await gpus(liar) == {"GPU-1": BAD}
    await assign(admin, liar.id, "GPU-1")
    assert (await gpus(liar), await health(liar)) == ({"GPU-1": FINE}, FINE)


async def test_what_is_booked_stays_where_it_is(admin: Actor) -> None:
    first, second = await two()
    await report(first, "GPU-1")
    await report(second, "GPU-1")
    row = await Gpu.get(machine_id=first.id)
    tenant = await make_tenant()
    booked = await book(tenant, row)
    with pytest.raises(Conflict, match="'first': release it first"):
        await assign(admin, second.id, "GPU-1")
    await booked.delete()
    assert (await assign(admin, second.id, "GPU-1")).machine_id == second.id


@pytest.mark.parametrize("is_booked", [False, True])
async def test_a_short_absence_gives_nothing_to_a_claim_that_waited(is_booked: bool) -> None:
    """As after a driver that failed: one inventory without the GPU."""
    honest, liar = await two()
    for machine in (honest, liar):
        await report(machine, "GPU-1")
        await long_ago(machine)
    await report(honest)
    await settle()
    assert (await gpus(honest), await gpus(liar)) == ({}, {"GPU-1": FINE})
    booked = await book(await make_tenant(), await Gpu.get(machine_id=liar.id))
    if not is_booked:
        await booked.delete()
    await report(honest, "GPU-1")
    assert await settle() == 1
    if is_booked:
        # It is given out no more meanwhile.
        assert (await gpus(honest), await gpus(liar)) == ({}, {"GPU-1": BAD})
        assert await settle() == 0
        await booked.delete()
        await settle()
    assert (await gpus(honest), await gpus(liar)) == ({"GPU-1": FINE}, {})
    assert (await report(honest, "GPU-1"), await settle()) == ([], 0)


async def test_what_an_admin_decided_outlives_a_short_absence(admin: Actor) -> None:
    honest, liar = await two()
    await report(honest, "GPU-1")
    await report(liar, "GPU-1")
    await assign(admin, honest.id, "GPU-1")
    await long_ago(liar)
    await report(honest)
    await settle()
    await report(honest, "GPU-1")
    await settle()
    assert (await gpus(honest), await gpus(liar)) == ({"GPU-1": FINE}, {})


async def test_a_claim_that_waited_for_long_was_no_possession() -> None:
    first, second = await two()
    await report(first, "GPU-1")
    await report(second, "GPU-1")
    await long_ago(second)
    # Its own report or a look at the claims gives it the GPU.
    await report(first)
    await report(second, "GPU-1")
    await report(first, "GPU-1")
    await settle()
    assert (await gpus(first), await gpus(second)) == ({}, {"GPU-1": BAD})


async def test_many_claims_keep_no_other_from_being_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_claims, "_AT_ONCE", 1)
    first, second = await two()
    await report(first, "GPU-1", "GPU-2")
    await long_ago(first)
    for machine in (first, second):
        await report(machine, "GPU-1", "GPU-2", "GPU-3")
    assert await settle() == 1
    assert await gpus(first) == {"GPU-1": FINE, "GPU-2": FINE, "GPU-3": BAD}


async def test_a_retired_machine_claims_nothing(admin: Actor) -> None:
    first, second = await two()
    await report(first, "GPU-1")
    await report(second, "GPU-1")
    await settle()
    await retirement.retire(admin, second.id)
    assert await settle() == 1
    assert await gpus(first) == {"GPU-1": FINE}


async def test_whatever_hosts_say_a_gpu_is_in_one_machine_or_in_none() -> None:
    chance = random.Random(7)
    machines = [(await make_online())[0] for _ in range(4)]
    for _ in range(25):
        machine = chance.choice(machines)
        await report(machine, *chance.sample(["GPU-1", "GPU-2", "GPU-3"], chance.randint(0, 3)))
        if chance.random() < 0.5:
            await settle()
    await settle()
    assert await settle() == 0
    rows = await Gpu.all()
    for name in ("GPU-1", "GPU-2", "GPU-3"):
        there = [row for row in rows if row.uuid == name and row.removed_at is None]
        claims = [row for row in rows if row.uuid == name and row.claimed_at is not None]
        assert len(there) == (1 if there or claims else 0)
        assert all((row.disputed_at is not None) is bool(claims) for row in there)
        assert all((row.health is BAD) is bool(claims) for row in there)


async def book(tenant: Actor, row: Gpu) -> Booking:
    """By rows: what allocates would make others of them too."""
    assert tenant.user_id is not None
    allocation = await Allocation.create(
        id=uuid.uuid4(),
        state=AllocationState.PENDING,
        user_id=tenant.user_id,
        machine_id=row.machine_id,
        whole_machine=False,
        gpu_count=1,
        queued=False,
        starts_at=now_ms() + 10_000,
        ends_at=now_ms() + 20_000,
        created_at=now_ms(),
    )
    return await Booking.create(
        allocation_id=allocation.id,
        resource_id=row.id,
        machine_id=row.machine_id,
        gpu_id=row.id,
        starts_at=allocation.starts_at,
        ends_at=allocation.ends_at,
    )
