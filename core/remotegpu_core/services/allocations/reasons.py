"""Why allocations have not started yet: worked out when somebody asks."""

import uuid
from collections.abc import Sequence
from typing import cast

from remotegpu_core.clock import now_ms
from remotegpu_core.models import Allocation, Booking, Machine, Occupancy
from remotegpu_core.services.allocations.capacity import absences, obstacles
from remotegpu_core.services.allocations.reason import Reason, ReasonCode, moment
from remotegpu_core.states import AllocationState


async def reasons_of(ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[Reason]]:
    """Reasons by allocation; none for what is not PENDING. A fixed number of queries."""
    rows = await Allocation.filter(id__in=list(ids), state=AllocationState.PENDING)
    placed = [row for row in rows if row.machine_id is not None]
    machines = {
        machine.id: machine
        for machine in await Machine.filter(id__in=list({row.machine_id for row in placed}))
    }
    occupied = await _occupied([row.id for row in placed])
    queue = await _queue() if len(placed) < len(rows) else []
    now = now_ms()
    found: dict[uuid.UUID, list[Reason]] = {}
    for row in rows:
        if row.machine_id is None:
            found[row.id] = [_waiting(row, queue.index(row.id) if row.id in queue else 0)]
        else:
            found[row.id] = _of(row, machines[row.machine_id], row.id in occupied, now)
    return found


def _of(allocation: Allocation, machine: Machine, occupied: bool, now: int) -> list[Reason]:
    if allocation.starts_at > now:
        return [Reason(ReasonCode.STARTS_LATER, f"It starts at {moment(allocation.starts_at)}.")]
    if allocation.generation:
        return [
            Reason(ReasonCode.STARTING, "The host is being told, and has not answered yet."),
            *absences(machine),
        ]
    reasons = [
        reason
        for reason in obstacles(machine, now=True, shared=not allocation.whole_machine)
        if reason.code is not ReasonCode.MACHINE_DRAINING
    ]
    if occupied:
        reasons.append(
            Reason(
                ReasonCode.OCCUPIED,
                "Whoever had it before is not gone, or it is not proven clean yet.",
            )
        )
    return reasons or [Reason(ReasonCode.STARTING, "It starts within a moment.")]


def _waiting(allocation: Allocation, before: int) -> Reason:
    queue = "it is the first in the queue" if before == 0 else f"{before} in the queue before it"
    unmet = (allocation.requirement or {}).get("unmet")
    if unmet is not None:
        return Reason(
            ReasonCode.NO_CAPACITY,
            f"{unmet} It waits for a machine that has it; release it to ask for something else.",
        )
    return Reason(ReasonCode.NO_CAPACITY, f"Nothing that fits is free yet; {queue}.")


async def _queue() -> list[uuid.UUID]:
    waiting = Allocation.filter(state=AllocationState.PENDING, machine_id=None)
    ids = await waiting.order_by("created_at", "id").values_list("id", flat=True)
    return cast("list[uuid.UUID]", ids)


async def _occupied(ids: list[uuid.UUID]) -> set[uuid.UUID]:
    """Of these allocations, those on whose resources somebody else still is."""
    bookings = cast(
        "list[tuple[uuid.UUID, uuid.UUID]]",
        await Booking.filter(allocation_id__in=ids, held=True).values_list(
            "allocation_id", "resource_id"
        ),
    )
    resources = list({resource_id for _, resource_id in bookings})
    holders = dict(
        cast(
            "list[tuple[uuid.UUID, uuid.UUID]]",
            await Occupancy.filter(resource_id__in=resources, closed_at=None).values_list(
                "resource_id", "allocation_id"
            ),
        )
    )
    return {
        allocation_id
        for allocation_id, resource_id in bookings
        if holders.get(resource_id, allocation_id) != allocation_id
    }
