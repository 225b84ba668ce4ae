"""What time does: starts, places, warnings, ends."""

import pytest

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.models import (
    Allocation,
    AllocationEvent,
    AuditEvent,
    Booking,
    Gpu,
    Machine,
    Occupancy,
    Operation,
)
from remotegpu_core.services import freeze, maintenance
from remotegpu_core.services.allocations.duty import (
    expire_due,
    place_queue,
    start_due,
    warn_due,
)
from remotegpu_core.services.allocations.extend import extend
from remotegpu_core.services.allocations.reasons import reasons_of
from remotegpu_core.services.allocations.release import release
from remotegpu_core.services.grants import grant_machine, revoke_machine_grant
from remotegpu_core.services.presence import connect, disconnect
from remotegpu_core.services.quotas import Limits, set_quota
from remotegpu_core.settings import Settings
from remotegpu_core.states import AllocationState, OperationState
from tests.core.hosts import REPLICA
from tests.core.people import HOUR, make_tenant
from tests.core.services.allocations.hosts import (
    MINUTE,
    NOT_CLEANED,
    active,
    any_gpus,
    carry_out,
    get,
    make_host,
    open_occupancies,
    report,
    shift,
    waiting,
)

pytestmark = pytest.mark.usefixtures("database")

PENDING, ACTIVE, RECLAIMING, RELEASED, FAILED = AllocationState
WARNINGS = [86_400, 3_600, 600]


async def state(row: Allocation) -> AllocationState:
    return (await Allocation.get(id=row.id)).state


async def codes(row: Allocation) -> list[str]:
    return [reason.code for reason in (await reasons_of([row.id])).get(row.id, [])]


async def kinds(row: Allocation) -> list[str]:
    events = await AllocationEvent.filter(allocation_id=row.id).order_by("sequence")
    return [event.kind for event in events]


async def test_it_ends_when_its_time_is_over(settings: Settings, admin: Actor) -> None:
    host = await make_host("one")
    allocation = await active(admin, settings, host)
    assert await expire_due() == 0
    await shift(allocation, HOUR)
    assert await expire_due() == 1
    assert await expire_due() == 0
    assert await state(allocation) is RECLAIMING
    assert (await carry_out(allocation)).state is RELEASED
    event = await AuditEvent.get(action="expireAllocation")
    assert (event.target_id, event.actor_kind) == (allocation.id, "SYSTEM")


async def test_nothing_ends_by_itself_in_a_freeze(settings: Settings, admin: Actor) -> None:
    host = await make_host("one")
    allocation = await active(admin, settings, host)
    unplaced = await get(admin, settings, requirement=any_gpus(9), wait=True)
    await shift(allocation, 2 * HOUR)
    await shift(unplaced, 2 * HOUR)
    assert await freeze.note_start(REPLICA)
    # Nobody is hurt by the end of what never began.
    assert await expire_due() == 1
    assert (await state(allocation), await state(unplaced)) == (ACTIVE, FAILED)
    # What people ask for is done as ever.
    await release(admin, allocation.id)
    assert await state(allocation) is RECLAIMING
    await freeze.end(SYSTEM)


async def test_a_reservation_starts_when_its_time_comes(settings: Settings, admin: Actor) -> None:
    host = await make_host("one")
    reserved = await get(admin, settings, host, starts_at=now_ms() + HOUR)
    assert await start_due() == 0
    await shift(reserved, HOUR + 1)
    assert await start_due() == 1
    assert await start_due() == 0
    assert (await carry_out(reserved)).state is ACTIVE


async def test_a_reclaim_that_overruns_makes_the_next_one_wait(
    settings: Settings, admin: Actor
) -> None:
    host = await make_host("one", 1)
    first = await active(admin, settings, host)
    second = await get(admin, settings, host, starts_at=first.ends_at)
    await shift(first, HOUR)
    await shift(second, HOUR)
    assert await expire_due() == 1
    assert await start_due() == 0
    assert (await codes(second), await state(second)) == (["OCCUPIED"], PENDING)
    assert {row.allocation_id for row in await open_occupancies(host)} == {first.id}
    await carry_out(first)
    assert await start_due() == 1
    assert await codes(second) == ["STARTING"]
    assert {row.allocation_id for row in await open_occupancies(host)} == {second.id}
    # Quarantined meanwhile: what has it goes on, what comes next waits for somebody to look.
    second = await carry_out(second)
    third = await get(admin, settings, host, starts_at=second.ends_at)
    await shift(second, HOUR + MINUTE)
    await shift(third, HOUR + MINUTE)
    assert await expire_due() == 1
    await carry_out(second, NOT_CLEANED)
    assert await start_due() == 0
    assert await codes(third) == ["MACHINE_OUT_OF_SERVICE", "OCCUPIED"]
    # In vain: its time is over before.
    await shift(second, HOUR)
    await shift(third, HOUR)
    assert await expire_due() == 1
    failed = await Allocation.get(id=third.id)
    assert (failed.state, failed.error_code) == (FAILED, "NEVER_STARTED")
    operation = await Operation.get(allocation_id=third.id)
    assert operation.state is OperationState.FAILED


async def test_a_reservation_waits_for_its_machine(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", 1)
    reserved = await get(admin, settings, host, starts_at=now_ms() + MINUTE)
    await shift(reserved, MINUTE)
    await disconnect(host.id, host.epoch, last_seen_at=now_ms())
    assert await start_due() == 0
    assert await codes(reserved) == ["MACHINE_OFFLINE"]
    await connect(host.id, REPLICA, agent_version="1", boot_id="boot-1")
    # A drained machine keeps its promises.
    await maintenance.set_draining(admin, host.id, True)
    assert await start_due() == 1


async def test_the_queue_is_served_in_its_order(settings: Settings, admin: Actor) -> None:
    ada = await make_tenant()
    host = await make_host("one", 4, grant=[ada])
    other = await make_host("two", 1, model="NVIDIA A100", grant=[ada])
    await set_quota(admin, Limits(16, 16), user_id=ada.user_id, workspace_id=None)
    holder = await active(admin, settings, host, gpu_ids=host.gpu(0))
    large = await get(ada, settings, requirement=any_gpus(4), wait=True)
    small = await get(ada, settings, requirement=any_gpus(1, gpu_model="H100"), wait=True)
    elsewhere = await get(ada, settings, requirement=any_gpus(1, gpu_model="A100"), wait=True)
    assert (large.machine_id, large.queued, large.gpu_count) == (None, True, 4)
    # There was room for these: only what finds none waits, and what came later may go ahead of it.
    assert (small.machine_id, elsewhere.machine_id) == (host.id, other.id)
    third = await get(ada, settings, requirement=any_gpus(3), wait=True, length=30 * MINUTE)
    assert third.machine_id is None
    reasons = await reasons_of([large.id, third.id])
    assert "first in the queue" in reasons[large.id][0].message
    assert "1 in the queue before it" in reasons[third.id][0].message
    await release(ada, small.id)
    # Three are free now, which are kept for whoever is first.
    assert await place_queue() == 0
    await release(admin, holder.id)
    await carry_out(holder)
    assert await place_queue() == 1
    placed = await Allocation.get(id=large.id)
    assert (placed.machine_id, placed.state) == (host.id, PENDING)
    assert (await carry_out(placed)).state is ACTIVE
    assert await state(third) is PENDING
    await release(ada, large.id)
    await carry_out(large)
    assert await place_queue() == 1
    assert (await carry_out(third)).state is ACTIVE
    assert await kinds(third) == ["CREATED", "PLACED", "STARTED"]


async def test_who_waits_is_placed_by_the_rights_of_then(settings: Settings, admin: Actor) -> None:
    ada = await make_tenant()
    host = await make_host("one", 1, grant=[ada])
    holder = await active(admin, settings, host)
    named = await get(ada, settings, host, wait=True)
    await release(admin, holder.id)
    await carry_out(holder)
    await revoke_machine_grant(admin, host.id, user_id=ada.user_id, workspace_id=None)
    assert await place_queue() == 0
    await grant_machine(admin, host.id, user_id=ada.user_id, workspace_id=None)
    assert await place_queue() == 1
    assert await state(named) is PENDING
    queued = await get(ada, settings, requirement=any_gpus(1), wait=True)
    await release(ada, queued.id)
    assert await state(queued) is RELEASED


async def test_warnings(settings: Settings, admin: Actor) -> None:
    host = await make_host("one")
    allocation = await active(admin, settings, host, length=30 * HOUR)
    told = []
    for step in (0, 5 * HOUR, 2 * HOUR, 22 * HOUR + MINUTE, 0, 40 * MINUTE, 15 * MINUTE):
        await shift(allocation, step)
        told.append(await warn_due(WARNINGS))
        assert await warn_due(WARNINGS) == 0
    assert told == [0, 0, 1, 1, 0, 0, 1]
    assert (await kinds(allocation)).count("ENDING_SOON") == 3
    # One that ends later after all is warned of anew.
    await extend(admin, settings, allocation.id, now_ms() + 50 * MINUTE)
    assert await warn_due(WARNINGS) == 1
    # One that is no longer than the notice knows.
    short = await make_host("two")
    await active(admin, settings, short, length=30 * MINUTE)
    assert await warn_due(WARNINGS) == 0


async def test_gpus_found_later_join_whoever_has_the_machine(
    settings: Settings, admin: Actor
) -> None:
    host = await make_host("one", 1)
    whole = await active(admin, settings, host)
    later = await get(admin, settings, host, starts_at=whole.ends_at)
    await report(host, 3)
    whole = await Allocation.get(id=whole.id)
    assert (whole.gpu_count, (await Allocation.get(id=later.id)).gpu_count) == (3, 3)
    assert {row.gpu_id for row in await open_occupancies(host)} == {None, *host.gpu(0, 1, 2)}
    for row, expected in ((whole, whole.starts_at), (later, later.starts_at)):
        bookings = await Booking.filter(allocation_id=row.id)
        assert {(b.gpu_id, b.starts_at) for b in bookings} == {
            (gpu_id, expected) for gpu_id in (None, *host.gpu(0, 1, 2))
        }
    (update,) = await waiting(whole)
    assert update.arguments["gpu_uuids"] == ["GPU-one-0", "GPU-one-1", "GPU-one-2"]
    assert "GPUS_CHANGED" in await kinds(whole)
    # One that is pulled out and comes back is still theirs.
    pulled = host.gpus[2]
    await report(host, 2)
    assert (await Allocation.get(id=whole.id)).gpu_count == 2
    await report(host, 3)
    assert (await Gpu.get(id=pulled.id)).removed_at is None
    assert {row.gpu_id for row in await open_occupancies(host)} == {None, *host.gpu(0, 1, 2)}
    assert await Machine.all().count() == 1
    await carry_out(whole)
    await release(admin, whole.id)
    await report(host, 4)
    # Also what turns up while it is being cleaned.
    assert len(await open_occupancies(host)) == 5
    await carry_out(whole)
    assert await Occupancy.filter(closed_at=None).count() == 0
    assert {row.gpu_id for row in await Booking.filter(allocation_id=later.id)} == {
        None,
        *host.gpu(0, 1, 2, 3),
    }


async def test_what_no_machine_could_serve_says_so(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", 8)
    unmet = await get(admin, settings, requirement=any_gpus(9), wait=True)
    [reason] = (await reasons_of([unmet.id]))[unmet.id]
    assert "gpuCount" in reason.message
    taken = await get(admin, settings, machine_id=host.id)
    waits = await get(admin, settings, requirement=any_gpus(8), wait=True)
    [reason] = (await reasons_of([waits.id]))[waits.id]
    assert "queue" in reason.message
    # What is so today need not be so tomorrow.
    await make_host("two", 9)
    await get(admin, settings, machine_id=(await Machine.get(name="two")).id)
    await place_queue()
    [reason] = (await reasons_of([unmet.id]))[unmet.id]
    assert "queue" in reason.message
    assert await state(taken) is PENDING
