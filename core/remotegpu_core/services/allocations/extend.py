"""Giving an allocation another end."""

import uuid

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import Conflict
from remotegpu_core.models import Allocation
from remotegpu_core.services import audit, quotas
from remotegpu_core.services.allocations.beneficiary import manageable
from remotegpu_core.services.allocations.bookings import prolong
from remotegpu_core.services.allocations.lifecycle import tell_update
from remotegpu_core.services.allocations.log import EventKind, record_event
from remotegpu_core.services.allocations.reading import lock_allocation
from remotegpu_core.services.allocations.request import check_end
from remotegpu_core.settings import Settings
from remotegpu_core.states import AllocationState


async def extend(
    actor: Actor, settings: Settings, allocation_id: uuid.UUID, ends_at: int
) -> Allocation:
    """Let an allocation end at another time: later, or earlier though not in the past.

    Raises:
        NotFound, Forbidden: it is not there for the caller, or not theirs to extend.
        InvalidInput: the end is in the past, or too far from the start.
        Conflict: it is over already.
        NoCapacity: somebody else has booked it for a time before that.
        QuotaExceeded: it would be more GPU-hours than the user or the workspace may book.
    """
    async with lock_allocation(actor, allocation_id) as (allocation, _machine):
        await manageable(actor, allocation)
        now = now_ms()
        over = allocation.state not in {AllocationState.PENDING, AllocationState.ACTIVE}
        if over or allocation.ends_at <= now:
            raise Conflict("This allocation is over: allocate anew.", field="id")
        check_end(max(now, allocation.starts_at), ends_at, settings)
        check_end(allocation.starts_at, ends_at, settings)
        if ends_at == allocation.ends_at:
            return allocation
        if not actor.is_admin and ends_at > allocation.ends_at:
            # What it books anew; the rest counts already.
            claim = quotas.Claim(
                allocation.gpu_count, allocation.starts_at, ends_at, allocations=0, more_gpus=False
            )
            await quotas.check(
                allocation.user_id,
                allocation.workspace_id,
                claim,
                settings,
                without=allocation.id,
            )
        await prolong(allocation, ends_at)
        was, allocation.ends_at = allocation.ends_at, ends_at
        # Whoever was warned of the old end is warned of the new one.
        allocation.warned = None
        await allocation.save(update_fields=["ends_at", "warned"])
        if allocation.generation:
            await tell_update(allocation)
        await record_event(allocation.id, EventKind.EXTENDED)
        await audit.record(
            actor,
            "extendAllocation",
            target=("Allocation", allocation.id),
            details={"from": str(was), "endsAt": str(ends_at)},
        )
    return allocation
