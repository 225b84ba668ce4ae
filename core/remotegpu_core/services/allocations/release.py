"""Giving back: releasing an allocation, and calling off what has not begun."""

import uuid

from remotegpu_core.actor import Actor, Scope
from remotegpu_core.errors import Conflict, Forbidden
from remotegpu_core.models import Allocation, Command, Operation
from remotegpu_core.services import audit, commands, idempotency, operations, roles
from remotegpu_core.services.allocations import lifecycle
from remotegpu_core.services.allocations.beneficiary import manageable
from remotegpu_core.services.allocations.lifecycle import ALLOCATE, NOTHING_BEGUN, RELEASE, STEPS
from remotegpu_core.services.allocations.reading import lock_allocation
from remotegpu_core.services.idempotency import Made
from remotegpu_core.services.roles import Right
from remotegpu_core.states import FINAL, AllocationState, OperationState
from remotegpu_protocol.kinds import ALLOCATION_END, ALLOCATION_START


async def release(
    actor: Actor, allocation_id: uuid.UUID, *, key: str | None = None
) -> tuple[Allocation, Operation]:
    """Give an allocation back before its end; the operation ends when its GPUs are proven clean.

    One that is being reclaimed is not released twice, but where cleaning failed it is tried again.

    Raises:
        NotFound, Forbidden: it is not there for the caller, or not theirs to release.
        Conflict: it is over already.
        IdempotencyKeyReused: see `idempotency`.
    """
    call = idempotency.call_of(actor, "releaseAllocation", key, {"id": str(allocation_id)})
    async with lock_allocation(actor, allocation_id) as (allocation, _machine):
        await manageable(actor, allocation)
        made = await idempotency.recall(call)
        if made is not None:
            return allocation, await Operation.get(id=made.operation_id)
        if allocation.state in FINAL:
            raise Conflict(f"This allocation is {allocation.state} already.", field="id")
        operation = await _release(allocation)
        await audit.record(actor, "releaseAllocation", target=("Allocation", allocation.id))
        await idempotency.remember(call, Made(allocation.id, operation.id))
    return allocation, await Operation.get(id=operation.id)


async def cancel_operation(
    actor: Actor, operation_id: uuid.UUID, *, key: str | None = None
) -> Operation:
    """Call off what has not begun. What a host has begun is stopped where it can be; the operation
    then ends as its host says.

    Raises:
        NotFound, Forbidden: it is not there for the caller, or not theirs.
        Conflict: it is over already, or nothing that can be called off.
        IdempotencyKeyReused: see `idempotency`.
    """
    actor.require_scope(Scope.WRITE)
    call = idempotency.call_of(actor, "cancelOperation", key, {"id": str(operation_id)})
    operation = await operations.visible_operation(actor, operation_id)
    await _callable_off(actor, operation)
    if await idempotency.recall(call) is not None:
        return operation
    if operation.state in FINAL:
        raise Conflict(f"This operation is {operation.state} already.", field="id")
    if operation.allocation_id is None or operation.kind != ALLOCATE:
        raise Conflict("This cannot be called off: what was held must come back clean.", field="id")
    async with lock_allocation(actor, operation.allocation_id) as (allocation, _machine):
        operation = await Operation.get(id=operation_id)
        if await idempotency.recall(call) is not None:
            return operation
        if operation.state in FINAL or allocation.state is not AllocationState.PENDING:
            raise Conflict(f"This operation is {operation.state} already.", field="id")
        if not await call_off(allocation):
            # Its host has seen it: only the host knows the end.
            await operations.request_cancel(operation.id)
        await audit.record(actor, "cancelOperation", target=("Operation", operation.id))
        await idempotency.remember(call, Made(allocation.id, operation.id))
    return await Operation.get(id=operation_id)


async def call_off(
    allocation: Allocation,
    *,
    error: tuple[str, str] | None = None,
) -> bool:
    """End a PENDING allocation that its host has not seen; False when it may have."""
    failed = error is not None
    if not allocation.generation:
        state = AllocationState.FAILED if failed else AllocationState.RELEASED
        await lifecycle.drop(allocation, state, error=error)
    elif await lifecycle.withdraw(allocation.id, ALLOCATION_START.name):
        if error is not None:
            allocation.error_code, allocation.error_message = error
        await lifecycle.settle(allocation, items=NOTHING_BEGUN)
    else:
        return False
    state_of_it = OperationState.FAILED if failed else OperationState.CANCELLED
    await lifecycle.finish(allocation.id, ALLOCATE, state_of_it, error=error)
    return True


async def _release(allocation: Allocation) -> Operation:
    """The operation that releases it."""
    if allocation.state is AllocationState.RECLAIMING:
        return await clean_again(allocation)
    if allocation.state is AllocationState.PENDING:
        if await call_off(allocation):
            operation = await _begin(allocation)
            await operations.finish(operation.id, OperationState.SUCCEEDED)
            return operation
        await lifecycle.finish(allocation.id, ALLOCATE, OperationState.CANCELLED)
    begun = await lifecycle.reclaim(allocation)
    assert begun is not None  # noqa: S101 - it is on a machine
    return begun


async def clean_again(allocation: Allocation) -> Operation:
    """The operation that cleans one that is RECLAIMING: the one under way, or another."""
    known = await lifecycle.operation_of(allocation.id, RELEASE)
    still = await Command.exists(
        allocation_id=allocation.id, kind=ALLOCATION_END.name, state__in=list(commands.OPEN)
    )
    if known is not None and still:
        return known
    operation = await _begin(allocation)
    await lifecycle.clean(allocation, operation)
    return operation


async def _begin(allocation: Allocation) -> Operation:
    return await operations.begin(
        RELEASE,
        STEPS[RELEASE],
        user_id=allocation.user_id,
        workspace_id=allocation.workspace_id,
        machine_id=allocation.machine_id,
        allocation_id=allocation.id,
    )


async def _callable_off(actor: Actor, operation: Operation) -> None:
    if actor.is_admin or operation.user_id == actor.user_id:
        return
    if operation.workspace_id is None:
        raise Forbidden("This operation is somebody else's.", field="id")
    await roles.require(actor, operation.workspace_id, Right.MANAGE_ALLOCATIONS, field="id")
