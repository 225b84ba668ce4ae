"""Promises of resources for a time. What excludes is the database's constraint, not this code."""

import uuid

from tortoise.exceptions import IntegrityError

from remotegpu_core.errors import NoCapacity
from remotegpu_core.ids import new_id
from remotegpu_core.models import Allocation, Booking, Gpu, Occupancy
from remotegpu_core.services.allocations.lifecycle import tell_update
from remotegpu_core.services.allocations.log import EventKind, record_event
from remotegpu_core.services.allocations.placement import Placement
from remotegpu_core.states import FINAL, AllocationState


async def book(allocation: Allocation, placement: Placement) -> None:
    """Promise what was placed to the allocation, within a `ledger` of its machine.

    A whole machine books itself and every GPU that it ever had: one that is pulled out and comes
    back is not somebody else's meanwhile.

    Raises:
        NoCapacity: the database says that somebody has some of it.
    """
    gpu_ids = list(placement.gpu_ids)
    if placement.whole_machine:
        every = await Gpu.filter(machine_id=placement.machine_id).values_list("id", flat=True)
        gpu_ids = list(every)  # type: ignore[arg-type]  # Tortoise types a flat list as tuples
    machine = [None] if placement.whole_machine else []
    rows = [
        Booking(
            id=new_id(),
            allocation_id=allocation.id,
            resource_id=gpu_id or placement.machine_id,
            machine_id=placement.machine_id,
            gpu_id=gpu_id,
            starts_at=allocation.starts_at,
            ends_at=allocation.ends_at,
        )
        for gpu_id in [*machine, *gpu_ids]
    ]
    try:
        await Booking.bulk_create(rows)
    except IntegrityError:
        raise NoCapacity(
            "Somebody has booked some of it for that time: ask for another time, or for a "
            "machine by requirement."
        ) from None


async def prolong(allocation: Allocation, ends_at: int) -> None:
    """Move the end of what was booked.

    Raises:
        NoCapacity: the database says that somebody else has it by then.
    """
    try:
        await Booking.filter(allocation_id=allocation.id, held=True).update(ends_at=ends_at)
    except IntegrityError:
        raise NoCapacity(
            "Somebody else has booked it for a time before that: choose an earlier endsAt.",
            field="endsAt",
        ) from None


async def join_whole_machines(machine_id: uuid.UUID) -> None:
    """GPUs found in a machine that somebody has as a whole are theirs too.

    Within a transaction that holds the machine's row and has logged its changes already.
    """
    holders = Allocation.filter(machine_id=machine_id, whole_machine=True)
    for allocation in await holders.exclude(state__in=[s for s in AllocationState if s in FINAL]):
        bookings = await Booking.filter(allocation_id=allocation.id, held=True)
        known = {booking.gpu_id for booking in bookings}
        present = await Gpu.filter(machine_id=machine_id, removed_at=None)
        new = [gpu for gpu in await Gpu.filter(machine_id=machine_id) if gpu.id not in known]
        changed = allocation.gpu_count != len(present)
        if not bookings or not (new or changed):
            continue
        (whole,) = (booking for booking in bookings if booking.gpu_id is None)
        held = await Occupancy.get_or_none(
            allocation_id=allocation.id, resource_id=machine_id, closed_at=None
        )
        for gpu in new:
            await Booking.create(
                allocation_id=allocation.id,
                resource_id=gpu.id,
                machine_id=machine_id,
                gpu_id=gpu.id,
                starts_at=whole.starts_at,
                ends_at=whole.ends_at,
            )
            if held is not None:
                await Occupancy.create(
                    allocation_id=allocation.id,
                    resource_id=gpu.id,
                    machine_id=machine_id,
                    gpu_id=gpu.id,
                    opened_at=held.opened_at,
                )
        allocation.gpu_count = len(present)
        await allocation.save(update_fields=["gpu_count"])
        await record_event(allocation.id, EventKind.GPUS_CHANGED)
        if allocation.state is AllocationState.ACTIVE:
            await tell_update(allocation)
