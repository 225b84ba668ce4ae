"""The moves of an allocation, each within the caller's `ledger` of its machine."""

import uuid
from collections.abc import Sequence
from typing import Any, Final

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.models import (
    Allocation,
    Booking,
    CleaningReceipt,
    Command,
    Gpu,
    Machine,
    Occupancy,
    Operation,
    User,
)
from remotegpu_core.services import commands, operations, quarantine
from remotegpu_core.services.allocations.accounts import account_name, key_lines, makes_accounts
from remotegpu_core.services.allocations.log import EventKind, record_event
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.services.datasets import ending
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.states import (
    FINAL,
    AllocationState,
    CommandState,
    OperationState,
    StepState,
)
from remotegpu_core.versions import Topic, bump
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.kinds import (
    ALLOCATION_END,
    ALLOCATION_START,
    ALLOCATION_UPDATE,
    AllocationEnd,
    AllocationStart,
    AllocationUpdate,
)

#: Kinds of operation, and their steps.
ALLOCATE: Final = "allocate"
RELEASE: Final = "release"
RESERVE_STEP: Final = "reserve"
START_STEP: Final = "start"
CLEAN_STEP: Final = "clean"
STEPS: Final = {ALLOCATE: (RESERVE_STEP, START_STEP), RELEASE: (CLEAN_STEP,)}

#: Milliseconds within which a host must begin to start something; to clean up it has years, since
#: nothing is gained by giving up.
START_WITHIN: Final = 600_000
CLEAN_WITHIN: Final = 10 * 366 * 86_400_000

#: What a receipt says of an allocation that its host never began.
NOTHING_BEGUN: Final[tuple[dict[str, Any], ...]] = (
    {
        "surface": "host",
        "action": "none",
        "found": 0,
        "removed": 0,
        "verified": True,
        "detail": "Nothing was begun on the host, so there was nothing to clean.",
    },
)


async def begin(allocation: Allocation, machine: Machine) -> bool:
    """Take what was booked into its user's hands and tell the host; False while somebody has it."""
    bookings = await Booking.filter(allocation_id=allocation.id, held=True)
    resources = [booking.resource_id for booking in bookings]
    if await Occupancy.exists(resource_id__in=resources, closed_at=None):
        return False
    now = now_ms()
    await Occupancy.bulk_create(
        Occupancy(
            allocation_id=allocation.id,
            resource_id=booking.resource_id,
            machine_id=machine.id,
            gpu_id=booking.gpu_id,
            opened_at=now,
        )
        for booking in bookings
    )
    operation = await operation_of(allocation.id, ALLOCATE)
    user = await User.get(id=allocation.user_id)
    on_host = makes_accounts(machine)
    await commands.enqueue(
        ALLOCATION_START,
        AllocationStart(
            allocation_id=str(allocation.id),
            username=user.username,
            whole_machine=allocation.whole_machine,
            gpu_uuids=await _gpu_uuids(bookings),
            ends_at=allocation.ends_at,
            account=account_name(allocation.id) if on_host else None,
            keys=await key_lines(user.id) if on_host else [],
        ),
        machine_id=machine.id,
        deadline=min(now + START_WITHIN, allocation.ends_at),
        allocation_id=allocation.id,
        generation=await _next_generation(allocation),
        operation_id=operation.id if operation else None,
    )
    if operation is not None:
        await operations.advance(operation.id, START_STEP, StepState.RUNNING)
    await record_change(machine.id, ChangeKind.AVAILABILITY_CHANGED)
    return True


async def activate(allocation: Allocation) -> None:
    """The host has it: from now on it is its user's."""
    allocation.state, allocation.activated_at = AllocationState.ACTIVE, now_ms()
    await allocation.save(update_fields=["state", "activated_at"])
    await record_event(allocation.id, EventKind.STARTED)
    await finish(allocation.id, ALLOCATE, OperationState.SUCCEEDED)


async def tell_update(allocation: Allocation) -> None:
    """Tell the host that an allocation ends at another time, or has other GPUs."""
    if allocation.machine_id is None:
        return
    bookings = await Booking.filter(allocation_id=allocation.id, held=True)
    await commands.enqueue(
        ALLOCATION_UPDATE,
        AllocationUpdate(
            allocation_id=str(allocation.id),
            gpu_uuids=await _gpu_uuids(bookings),
            ends_at=allocation.ends_at,
        ),
        machine_id=allocation.machine_id,
        deadline=allocation.ends_at,
        allocation_id=allocation.id,
        generation=await _next_generation(allocation),
    )


async def reclaim(
    allocation: Allocation, *, error: tuple[str, str] | None = None
) -> Operation | None:
    """It is over, and its host takes back what it had. `error`: why it failed, code and message.

    Returns the operation that cleans.
    """
    if allocation.machine_id is None:
        return None
    _end(allocation, AllocationState.RECLAIMING, error)
    await _save_end(allocation)
    operation = await operations.begin(
        RELEASE,
        STEPS[RELEASE],
        user_id=allocation.user_id,
        workspace_id=allocation.workspace_id,
        machine_id=allocation.machine_id,
        allocation_id=allocation.id,
    )
    await ending.reclaiming(allocation.id, operation.id)
    await clean(allocation, operation)
    await record_event(allocation.id, EventKind.RECLAIMING)
    await record_change(allocation.machine_id, ChangeKind.AVAILABILITY_CHANGED)
    return operation


async def clean(allocation: Allocation, operation: Operation) -> None:
    """Have the host take back what an allocation had."""
    assert allocation.machine_id is not None  # noqa: S101 - only what was placed is cleaned
    await commands.enqueue(
        ALLOCATION_END,
        AllocationEnd(allocation_id=str(allocation.id)),
        machine_id=allocation.machine_id,
        deadline=now_ms() + CLEAN_WITHIN,
        allocation_id=allocation.id,
        generation=await _next_generation(allocation),
        operation_id=operation.id,
    )


async def drop(
    allocation: Allocation,
    state: AllocationState = AllocationState.RELEASED,
    *,
    error: tuple[str, str] | None = None,
) -> None:
    """End one that nobody ever had: its time is free again."""
    _end(allocation, state, error)
    allocation.released_at = allocation.ended_at
    await _save_end(allocation)
    await _free(allocation)


async def settle(
    allocation: Allocation,
    *,
    items: Sequence[dict[str, Any]],
    verified: bool = True,
    simulated: bool = False,
    actor: Actor = SYSTEM,
    reason: str | None = None,
) -> CleaningReceipt:
    """Write the receipt and give back what was held: RELEASED, or FAILED where it had failed. The
    receipt ends the quarantine that a failed cleaning of it caused.

    One that is not verified has the `actor` who answers for it, and the `reason`.
    """
    now = now_ms()
    receipt = await CleaningReceipt.create(
        allocation_id=allocation.id,
        verified=verified,
        simulated=simulated,
        items=list(items),
        finished_at=now,
        overridden_by_id=None if verified else actor.user_id,
        reason=reason,
    )
    await Occupancy.filter(allocation_id=allocation.id, closed_at=None).update(
        closed_at=now, receipt_id=receipt.id
    )
    failed = allocation.error_code is not None
    _end(allocation, AllocationState.FAILED if failed else AllocationState.RELEASED, None)
    allocation.released_at = now
    await _save_end(allocation)
    await ending.reclaimed(allocation.id)
    await _free(allocation)
    if allocation.machine_id is not None:
        await quarantine.lift(
            allocation.machine_id,
            [CauseCode.CLEANING_FAILED],
            actor=actor,
            allocation_id=allocation.id,
        )
        await record_change(allocation.machine_id, ChangeKind.AVAILABILITY_CHANGED)
    return receipt


async def withdraw(allocation_id: uuid.UUID, kind: str) -> bool:
    """Call commands of a kind back. True when its host has seen none of them."""
    open_ones = Command.filter(
        allocation_id=allocation_id, kind=kind, state__in=list(commands.OPEN)
    )
    unseen = True
    for command in await open_ones.order_by("sequence"):
        # A dispatcher may be about to send it: it asks nobody here.
        if await commands.move(command.id, CommandState.CANCELLED, unsent=True):
            continue
        unseen = False
        await Command.filter(id=command.id, cancel_requested_at=None).update(
            cancel_requested_at=now_ms()
        )
        # Whoever holds the link looks for cancels when the outbox moves.
        await bump(Topic.COMMANDS)
    return unseen


async def operation_of(allocation_id: uuid.UUID, kind: str) -> Operation | None:
    """The newest operation of a kind on an allocation."""
    return await Operation.filter(allocation_id=allocation_id, kind=kind).order_by("-id").first()


async def finish(
    allocation_id: uuid.UUID,
    kind: str,
    state: OperationState,
    *,
    error: tuple[str, str] | None = None,
) -> None:
    """End the operation of a kind on an allocation, with the step that it is at."""
    operation = await operation_of(allocation_id, kind)
    if operation is None:
        return
    step = STEPS[kind][-1]
    if state is OperationState.SUCCEEDED:
        await operations.advance(operation.id, step, StepState.SUCCEEDED)
    elif state not in {OperationState.CANCELLED} and error is not None:
        await operations.advance(operation.id, step, StepState.FAILED, error=error)
    await operations.finish(operation.id, state, error=error)


def _end(allocation: Allocation, state: AllocationState, error: tuple[str, str] | None) -> None:
    if allocation.state in FINAL:
        raise RuntimeError(f"an allocation that is {allocation.state} ends again")
    allocation.state = state
    if allocation.ended_at is None:
        allocation.ended_at = now_ms()
    if error is not None:
        allocation.error_code, allocation.error_message = error[0], clean_text(error[1], 2000)


async def _save_end(allocation: Allocation) -> None:
    await allocation.save(
        update_fields=["state", "ended_at", "released_at", "error_code", "error_message"]
    )


async def _free(allocation: Allocation) -> None:
    """From now on the time is anybody's, and the user sees the machine no more on its account."""
    now = now_ms()
    held = Booking.filter(allocation_id=allocation.id, held=True)
    # A reservation that had not begun stays as long as it was meant: it binds nobody now.
    await held.filter(starts_at__lt=now, ends_at__gt=now).update(ends_at=now)
    await held.update(held=False)
    kind = EventKind.FAILED if allocation.state is AllocationState.FAILED else EventKind.RELEASED
    await record_event(allocation.id, kind)
    if allocation.machine_id is not None:
        await bump(Topic.ACCESS)


async def _next_generation(allocation: Allocation) -> int:
    allocation.generation += 1
    await allocation.save(update_fields=["generation"])
    return allocation.generation


async def _gpu_uuids(bookings: Sequence[Booking]) -> list[str]:
    ids = [booking.gpu_id for booking in bookings if booking.gpu_id is not None]
    gpus = await Gpu.filter(id__in=ids, removed_at=None).order_by("index", "uuid")
    return [gpu.uuid for gpu in gpus]
