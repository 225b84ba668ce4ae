"""Giving back, what hosts answer, and what admins say instead."""

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import Conflict, Forbidden, InvalidInput, NoCapacity, NotFound
from remotegpu_core.models import (
    Allocation,
    Booking,
    CleaningReceipt,
    Command,
    Machine,
    Occupancy,
    Operation,
    WorkspaceRole,
)
from remotegpu_core.services import commands, quarantine
from remotegpu_core.services.access import visible_ids
from remotegpu_core.services.allocations.allocate import allocate
from remotegpu_core.services.allocations.extend import extend
from remotegpu_core.services.allocations.override import override_quarantine
from remotegpu_core.services.allocations.release import cancel_operation, release
from remotegpu_core.services.allocations.retry import retry_reclaim
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.presence import disconnect
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.services.workspaces import create_workspace, set_member
from remotegpu_core.settings import Settings
from remotegpu_core.states import AllocationState, CommandState, Lifecycle, OperationState
from remotegpu_protocol.surfaces import SURFACES, Surface
from tests.core.people import HOUR, make_tenant
from tests.core.services.allocations.hosts import (
    CLEAN,
    MINUTE,
    NOT_CLEANED,
    active,
    answer,
    asking,
    carry_out,
    dirty,
    get,
    make_host,
    open_occupancies,
    waiting,
)

pytestmark = pytest.mark.usefixtures("database")

PENDING, ACTIVE, RECLAIMING, RELEASED, FAILED = AllocationState


async def state(row: Allocation) -> AllocationState:
    return (await Allocation.get(id=row.id)).state


async def operation_states(row: Allocation) -> dict[str, OperationState]:
    rows = await Operation.filter(allocation_id=row.id).order_by("id")
    return {operation.kind: operation.state for operation in rows}


async def test_released_when_proven_clean(settings: Settings) -> None:
    ada = await make_tenant()
    host = await make_host("one", grant=[ada])
    allocation = await active(ada, settings, host)
    released, operation = await release(ada, allocation.id, key="k")
    assert (released.state, operation.state) == (RECLAIMING, OperationState.PENDING)
    assert (await release(ada, allocation.id, key="k"))[1].id == operation.id
    assert (await release(ada, allocation.id))[1].id == operation.id
    # Until the receipt it is nobody else's, whatever was promised.
    assert len(await open_occupancies(host)) == 3
    with pytest.raises(NoCapacity):
        await get(ada, settings, host)
    done = await carry_out(released)
    assert done.state is RELEASED
    receipt = await CleaningReceipt.get(allocation_id=done.id)
    assert (receipt.verified, receipt.simulated, receipt.overridden_by_id) == (True, True, None)
    assert [item["surface"] for item in receipt.items] == list(SURFACES)
    assert receipt.items[0] == {
        "surface": "view of the host",
        "action": "removed",
        "found": 2,
        "removed": 2,
        "verified": True,
        "detail": "made up",
    }
    assert await open_occupancies(host) == []
    assert {row.receipt_id for row in await Occupancy.all()} == {receipt.id}
    for booking in await Booking.all():
        assert (booking.held, booking.ends_at <= now_ms()) == (False, True)
    assert (await operation_states(done))["release"] is OperationState.SUCCEEDED
    with pytest.raises(Conflict, match="RELEASED"):
        await release(ada, done.id)
    assert (await active(ada, settings, host)).state is ACTIVE


async def test_a_host_that_cleans_nothing_is_quarantined(settings: Settings, admin: Actor) -> None:
    host = await make_host("one")
    ada = await make_tenant()
    kept = await active(admin, settings, host, gpu_ids=host.gpu(1), user_id=ada.user_id)
    allocation = await active(admin, settings, host, gpu_ids=host.gpu(0))
    await release(admin, allocation.id)
    assert (await carry_out(allocation, NOT_CLEANED)).state is RECLAIMING
    machine = await Machine.get(id=host.id)
    assert machine.lifecycle is Lifecycle.QUARANTINED
    assert "cleans nothing" in (machine.lifecycle_reason or "")
    assert (await operation_states(allocation))["release"] is OperationState.FAILED
    # Other tenants' work goes on.
    assert await state(kept) is ACTIVE
    # Nothing else is placed, and it is tried again when somebody asks.
    with pytest.raises(NoCapacity, match="quarantined"):
        await get(admin, settings, host, gpu_ids=host.gpu(0))
    await release(admin, allocation.id)
    (again,) = await waiting(allocation)
    await answer(again, result=dirty(Surface.HOME))
    assert await state(allocation) is RECLAIMING

    with pytest.raises(InvalidInput):
        await override_quarantine(admin, host.id, " ")
    with pytest.raises(Forbidden):
        await override_quarantine(ada, host.id, "wiped")
    mended = await override_quarantine(admin, host.id, "wiped by hand")
    assert (mended.lifecycle, mended.lifecycle_reason) == (Lifecycle.IN_SERVICE, None)
    receipt = await CleaningReceipt.get(allocation_id=allocation.id)
    assert (receipt.verified, receipt.overridden_by_id) == (False, admin.user_id)
    assert receipt.reason == "wiped by hand"
    assert (await state(allocation), await state(kept)) == (RELEASED, ACTIVE)
    with pytest.raises(Conflict):
        await override_quarantine(admin, host.id, "again")
    await get(admin, settings, host, gpu_ids=host.gpu(0))


async def test_what_failed_is_cleaned_again(settings: Settings, admin: Actor) -> None:
    """The quarantine ends with the last proof, and only the one that failed cleaning set."""
    host, ada = await make_host("one"), await make_tenant()
    first = await active(admin, settings, host, gpu_ids=host.gpu(0))
    second = await active(admin, settings, host, gpu_ids=host.gpu(1))
    with pytest.raises(Conflict, match="RECLAIMING"):
        await retry_reclaim(admin, allocation_id=first.id)
    with pytest.raises(Conflict, match="Nothing"):
        await retry_reclaim(admin, machine_id=host.id)
    for allocation, surface, left in (
        (first, Surface.HOME, "Left: x."),
        (second, Surface.MAIL, "Left: y."),
    ):
        await release(admin, allocation.id)
        await carry_out(allocation, dirty(surface, left))
    machine = await Machine.get(id=host.id)
    # What is wrong now, not what was wrong first.
    assert machine.lifecycle is Lifecycle.QUARANTINED
    newest = "Cleaning could not be verified: mail (Left: y)."
    assert machine.lifecycle_reason == f"{newest} There is another cause."

    with pytest.raises(Forbidden):
        await retry_reclaim(ada, machine_id=host.id)
    with pytest.raises(InvalidInput, match="either"):
        await retry_reclaim(admin)
    with pytest.raises(InvalidInput, match="either"):
        await retry_reclaim(admin, machine_id=host.id, allocation_id=first.id)
    operation = await retry_reclaim(admin, machine_id=host.id, key="k")
    assert (operation.allocation_id, operation.kind) == (first.id, "release")
    assert (await retry_reclaim(admin, machine_id=host.id, key="k")).id == operation.id
    # While it is under way, another call is about the same cleaning; the machine's is the next one.
    assert (await retry_reclaim(admin, allocation_id=first.id)).id == operation.id
    assert (await carry_out(first)).state is RELEASED
    assert (await Machine.get(id=host.id)).lifecycle is Lifecycle.QUARANTINED
    await retry_reclaim(admin, machine_id=host.id)
    assert (await carry_out(second)).state is RELEASED
    machine = await Machine.get(id=host.id)
    assert (machine.lifecycle, machine.lifecycle_reason) == (Lifecycle.IN_SERVICE, None)
    receipts = await CleaningReceipt.all()
    assert [(row.verified, row.overridden_by_id) for row in receipts] == [(True, None)] * 2

    third = await active(admin, settings, host, gpu_ids=host.gpu(0))
    await release(admin, third.id)
    await carry_out(third, NOT_CLEANED)
    async with ledger(host.id):
        await quarantine.add(host.id, CauseCode.OTHER, "It smells.")
    await retry_reclaim(admin, allocation_id=third.id)
    assert (await carry_out(third)).state is RELEASED
    machine = await Machine.get(id=host.id)
    assert (machine.lifecycle, machine.lifecycle_reason) == (Lifecycle.QUARANTINED, "It smells.")


async def test_a_host_that_never_comes_back(settings: Settings, admin: Actor) -> None:
    host = await make_host("one")
    allocation = await active(admin, settings, host)
    await release(admin, allocation.id)
    # While it is heard, it is waited for.
    with pytest.raises(Conflict, match="not quarantined"):
        await override_quarantine(admin, host.id, "stolen")
    await disconnect(host.id, host.epoch, last_seen_at=now_ms())
    await override_quarantine(admin, host.id, "stolen")
    assert await state(allocation) is RELEASED
    # Should it come back all the same, it ends what is over; the receipt stays the admin's.
    (end,) = await waiting(allocation)
    assert end.kind == "allocation.end"
    assert (await carry_out(allocation)).state is RELEASED
    receipt = await CleaningReceipt.get(allocation_id=allocation.id)
    assert (receipt.verified, receipt.reason) == (False, "stolen")


@pytest.mark.parametrize("end", [CommandState.REFUSED, CommandState.EXPIRED])
async def test_what_the_host_never_began(
    settings: Settings, admin: Actor, end: CommandState
) -> None:
    host = await make_host("one")
    allocation = await get(admin, settings, host)
    (start,) = await waiting(allocation)
    await answer(start, end)
    failed = await Allocation.get(id=allocation.id)
    assert (failed.state, failed.error_code) == (FAILED, "TRIED")
    receipt = await CleaningReceipt.get(allocation_id=allocation.id)
    assert receipt.verified
    assert "Nothing was begun" in receipt.items[0]["detail"]
    assert await operation_states(allocation) == {"allocate": OperationState.FAILED}
    assert await Booking.filter(held=True).count() == 0
    assert (await active(admin, settings, host)).state is ACTIVE


@pytest.mark.parametrize("end", [CommandState.FAILED, CommandState.INDETERMINATE])
async def test_what_the_host_may_have_begun_is_cleaned(
    settings: Settings, admin: Actor, end: CommandState
) -> None:
    host = await make_host("one")
    allocation = await get(admin, settings, host)
    (start,) = await waiting(allocation)
    await answer(start, end)
    assert await state(allocation) is RECLAIMING
    if end is CommandState.INDETERMINATE:
        # The late truth changes nothing: it is being cleaned.
        assert await answer(start, CommandState.SUCCEEDED)
        assert await state(allocation) is RECLAIMING
    done = await carry_out(allocation)
    assert (done.state, done.error_code) == (FAILED, "TRIED")
    assert await operation_states(allocation) == {
        "allocate": OperationState(end),
        "release": OperationState.SUCCEEDED,
    }


@pytest.mark.parametrize(
    "end",
    [
        CommandState.FAILED,
        CommandState.REFUSED,
        CommandState.EXPIRED,
        CommandState.CANCELLED,
        CommandState.INDETERMINATE,
    ],
)
async def test_cleaning_that_did_not_succeed(
    settings: Settings, admin: Actor, end: CommandState
) -> None:
    host = await make_host("one")
    allocation = await active(admin, settings, host)
    await release(admin, allocation.id)
    (cleaning,) = await waiting(allocation)
    await answer(cleaning, end)
    assert await state(allocation) is RECLAIMING
    assert (await Machine.get(id=host.id)).lifecycle is Lifecycle.QUARANTINED
    assert len(await open_occupancies(host)) == 3
    if end is CommandState.INDETERMINATE:
        # It had been done after all, and the host says so later.
        await answer(cleaning, result=CLEAN)
        assert await state(allocation) is RELEASED


async def test_released_before_the_host_has_seen_it(settings: Settings, admin: Actor) -> None:
    host = await make_host("one")
    allocation = await get(admin, settings, host)
    released, operation = await release(admin, allocation.id)
    assert (released.state, operation.state) == (RELEASED, OperationState.SUCCEEDED)
    assert (await operation_states(allocation))["allocate"] is OperationState.CANCELLED
    assert await waiting(allocation) == []
    reserved = await get(admin, settings, host, starts_at=now_ms() + HOUR)
    await release(admin, reserved.id)
    assert (await state(reserved), await Booking.filter(held=True).count()) == (RELEASED, 0)


@pytest.mark.parametrize("begun", [True, False])
async def test_released_while_the_host_starts_it(
    settings: Settings, admin: Actor, begun: bool
) -> None:
    host = await make_host("one")
    allocation = await get(admin, settings, host)
    (start,) = await waiting(allocation)
    assert await commands.mark_sent([start.id])
    assert (await release(admin, allocation.id))[0].state is RECLAIMING
    assert (await Command.get(id=start.id)).cancel_requested_at is not None
    await answer(start, CommandState.SUCCEEDED if begun else CommandState.REFUSED)
    assert await state(allocation) is (RECLAIMING if begun else RELEASED)
    done = await carry_out(allocation)
    assert (done.state, done.activated_at) == (RELEASED, None)
    assert await operation_states(allocation) == {
        "allocate": OperationState.CANCELLED,
        "release": OperationState.SUCCEEDED,
    }


async def test_operations_are_called_off(settings: Settings, admin: Actor) -> None:
    host = await make_host("one")
    allocation, operation = await allocate(admin, settings, asking(host))
    assert (await cancel_operation(admin, operation.id)).state is OperationState.CANCELLED
    assert await state(allocation) is RELEASED

    for end, expected, op_state in (
        (CommandState.SUCCEEDED, ACTIVE, OperationState.SUCCEEDED),
        (CommandState.CANCELLED, RECLAIMING, OperationState.CANCELLED),
    ):
        allocation, operation = await allocate(admin, settings, asking(host))
        (start,) = await waiting(allocation)
        await commands.mark_sent([start.id])
        operation = await cancel_operation(admin, operation.id)
        assert operation.state is OperationState.RUNNING
        assert operation.cancel_requested_at is not None
        await answer(start, end)
        assert await state(allocation) is expected
        assert (await Operation.get(id=operation.id)).state is op_state
        with pytest.raises(Conflict):
            await cancel_operation(admin, operation.id)
        if expected is ACTIVE:
            cleaning = (await release(admin, allocation.id))[1]
            with pytest.raises(Conflict, match="clean"):
                await cancel_operation(admin, cleaning.id)
        await carry_out(allocation)


async def test_extending(settings: Settings, admin: Actor) -> None:
    ada = await make_tenant()
    host = await make_host("one", grant=[ada])
    allocation = await active(ada, settings, host)
    longer = await extend(ada, settings, allocation.id, allocation.ends_at + HOUR)
    assert longer.ends_at == allocation.ends_at + HOUR
    assert {row.ends_at for row in await Booking.all()} == {longer.ends_at}
    (update,) = await waiting(allocation)
    assert update.kind == "allocation.update"
    assert update.arguments["ends_at"] == longer.ends_at
    assert update.generation == 2
    reserved = await get(admin, settings, host, starts_at=longer.ends_at)
    with pytest.raises(NoCapacity):
        await extend(ada, settings, allocation.id, longer.ends_at + 1)
    assert await state(reserved) is PENDING
    shorter = await extend(ada, settings, allocation.id, now_ms() + 10 * MINUTE)
    assert shorter.ends_at < allocation.ends_at
    for wrong in (now_ms() - 1, shorter.starts_at, now_ms() + 400 * 24 * HOUR):
        with pytest.raises(InvalidInput):
            await extend(ada, settings, allocation.id, wrong)
    await release(ada, allocation.id)
    with pytest.raises(Conflict):
        await extend(ada, settings, allocation.id, now_ms() + HOUR)


async def test_whose_it_is(settings: Settings, admin: Actor) -> None:
    ada, boss, member, stranger = [await make_tenant() for _ in range(4)]
    host = await make_host("one", grant=[ada])
    lab = await create_workspace(admin, "lab")
    for actor, role in (
        (ada, WorkspaceRole.MEMBER),
        (boss, WorkspaceRole.ADMIN),
        (member, WorkspaceRole.MEMBER),
    ):
        await set_member(admin, lab.id, actor.user_id, role)
    allocation = await active(ada, settings, host, workspace_id=lab.id)
    end = allocation.ends_at + 1
    for actor, refusal in ((stranger, NotFound), (member, Forbidden)):
        expected: type[Exception] = refusal
        with pytest.raises(expected):
            await extend(actor, settings, allocation.id, end)
        with pytest.raises(expected):
            await release(actor, allocation.id)
    await extend(boss, settings, allocation.id, end)
    await release(boss, allocation.id)
    # It is seen by its user for as long as it lives.
    assert await visible_ids(ada) == {host.id}
    async with ledger(host.id):
        pass


async def test_a_machine_is_seen_while_it_is_allocated(settings: Settings, admin: Actor) -> None:
    ada = await make_tenant()
    host = await make_host("one")
    allocation = await active(admin, settings, host, user_id=ada.user_id)
    await release(ada, allocation.id)
    assert await visible_ids(ada) == {host.id}
    await carry_out(allocation)
    assert await visible_ids(ada) == set()
