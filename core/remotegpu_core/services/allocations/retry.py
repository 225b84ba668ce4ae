"""Having what a host could not clean cleaned again."""

import uuid

from remotegpu_core.actor import Actor
from remotegpu_core.errors import Conflict, check_one_of
from remotegpu_core.models import Allocation, Command, Operation
from remotegpu_core.services import audit, commands, idempotency
from remotegpu_core.services.access import visible_machine
from remotegpu_core.services.allocations.reading import lock_allocation
from remotegpu_core.services.allocations.release import clean_again
from remotegpu_core.services.idempotency import Made
from remotegpu_core.states import AllocationState
from remotegpu_protocol.kinds import ALLOCATION_END


async def retry_reclaim(
    actor: Actor,
    *,
    allocation_id: uuid.UUID | None = None,
    machine_id: uuid.UUID | None = None,
    key: str | None = None,
) -> Operation:
    """Have an allocation cleaned again whose cleaning failed; admins only.

    Either that allocation, or of a machine the one that waits longest. A receipt that is proven
    ends the quarantine, once nothing else on the machine waits to be cleaned.

    Raises:
        InvalidInput: not exactly one of the two is given.
        NotFound: it is not there.
        Conflict: nothing there failed to be cleaned.
        IdempotencyKeyReused: see `idempotency`.
    """
    actor.require_admin()
    check_one_of(("allocationId", allocation_id), ("machineId", machine_id))
    of = {
        name: str(value)
        for name, value in (("allocationId", allocation_id), ("machineId", machine_id))
        if value is not None
    }
    call = idempotency.call_of(actor, "retryReclaim", key, of)
    field = next(iter(of))
    if allocation_id is None:
        assert machine_id is not None  # noqa: S101 - one of them is given
        made = await idempotency.recall(call)
        if made is not None:
            return await Operation.get(id=made.operation_id)
        await visible_machine(actor, machine_id, field=field)
        allocation_id = await _waiting_longest(machine_id)
    async with lock_allocation(actor, allocation_id) as (allocation, _machine):
        made = await idempotency.recall(call)
        if made is not None:
            return await Operation.get(id=made.operation_id)
        if allocation.state is not AllocationState.RECLAIMING:
            raise Conflict(
                f"This allocation is {allocation.state}: only one that is RECLAIMING is cleaned.",
                field=field,
            )
        operation = await clean_again(allocation)
        await audit.record(actor, "retryReclaim", target=("Allocation", allocation.id))
        await idempotency.remember(call, Made(allocation.id, operation.id))
    return await Operation.get(id=operation.id)


async def _waiting_longest(machine_id: uuid.UUID) -> uuid.UUID:
    rows = await Allocation.filter(
        machine_id=machine_id, state=AllocationState.RECLAIMING
    ).order_by("ended_at", "id")
    for row in rows:
        if not await Command.exists(
            allocation_id=row.id, kind=ALLOCATION_END.name, state__in=list(commands.OPEN)
        ):
            return row.id
    raise Conflict("Nothing on this machine failed to be cleaned.", field="machineId")
