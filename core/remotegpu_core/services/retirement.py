"""Giving a machine up for good."""

import uuid

from tortoise.expressions import F

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import Conflict
from remotegpu_core.models import Allocation, Booking, Gpu, Machine, Occupancy
from remotegpu_core.services import audit, quarantine
from remotegpu_core.services.access import visible_machine
from remotegpu_core.services.addresses import claims
from remotegpu_core.services.allocations.outcomes import override_cleaning
from remotegpu_core.services.allocations.override import waiting_in_vain
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.states import AllocationState, Lifecycle

#: What the receipts say of allocations that were not proven clean.
_RETIRED = "The machine was retired."


async def retire(actor: Actor, machine_id: uuid.UUID) -> Machine:
    """Shut a machine's agent out; its GPUs may turn up elsewhere. Admins only.

    What waits in vain to be cleaned there is closed, with a receipt that is not verified and names
    the admin: it counts against its user no longer. So is, of a machine that is not heard any more,
    what is still being cleaned.

    Raises:
        Conflict: somebody has it or has booked it, it is being cleaned, or it is retired already.
    """
    actor.require_admin()
    await visible_machine(actor, machine_id, field="machineId")
    async with ledger(machine_id) as machine:
        if machine is None:
            raise Conflict("This machine was removed meanwhile.", field="machineId")
        if machine.lifecycle is Lifecycle.RETIRED:
            raise Conflict("This machine is retired already.", field="machineId")
        unclean = await waiting_in_vain(machine)
        await _refuse_if_used(machine, but={allocation.id for allocation in unclean})
        for allocation in unclean:
            await override_cleaning(actor, allocation, _RETIRED)
        await quarantine.lift(machine_id, list(CauseCode), actor=actor)
        await Machine.filter(id=machine_id).update(
            lifecycle=Lifecycle.RETIRED,
            lifecycle_reason=None,
            hardware_uuid=None,
            claimed_hardware_uuid=None,
            # What its link still says is void.
            epoch=F("epoch") + 1,
        )
        await Gpu.filter(machine_id=machine_id, removed_at=None).update(removed_at=now_ms())
        await Gpu.filter(machine_id=machine_id).update(
            claimed_at=None, disputed_at=None, decided_at=None
        )
        await claims.give_up(machine_id)
        await audit.record(
            actor,
            "retireMachine",
            target=("Machine", machine_id),
            details={"machine": machine.name, "unclean": str(len(unclean))},
        )
        await record_change(machine_id, ChangeKind.LIFECYCLE_CHANGED)
    return await Machine.get(id=machine_id)


async def _refuse_if_used(machine: Machine, *, but: set[uuid.UUID]) -> None:
    """Raises Conflict: an allocation other than `but` has the machine, or has booked it."""
    occupied = await Occupancy.filter(machine_id=machine.id, closed_at=None).values_list(
        "allocation_id", flat=True
    )
    having = await Allocation.filter(id__in=list(set(occupied) - but)).order_by("id")
    if any(allocation.state is not AllocationState.RECLAIMING for allocation in having):
        raise Conflict(
            "Somebody has this machine: release its allocations first. If the host is gone, retire "
            "it after that.",
            field="machineId",
        )
    if having:
        raise Conflict(
            "This machine is being cleaned: retire it when that has ended, well or not. If its agent "
            "is stopped, it can be retired as soon as it is UNREACHABLE.",
            field="machineId",
        )
    booked = Booking.filter(machine_id=machine.id, held=True, ends_at__gt=now_ms())
    if await booked.exclude(allocation_id__in=list(but)).exists():
        raise Conflict("This machine is booked: release its reservations first.", field="machineId")
