"""An admin's word where no proof of cleaning comes."""

import uuid

from remotegpu_core.actor import Actor
from remotegpu_core.errors import Conflict, InvalidInput
from remotegpu_core.models import Allocation, Command, Machine
from remotegpu_core.services import audit, commands
from remotegpu_core.services.access import visible_machine
from remotegpu_core.services.addresses.quarantine import is_for_addresses, judge
from remotegpu_core.services.allocations.outcomes import override_cleaning
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.maintenance import MAX_REASON
from remotegpu_core.states import AllocationState, Lifecycle, Presence
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.kinds import ALLOCATION_END


async def override_quarantine(actor: Actor, machine_id: uuid.UUID, reason: str) -> Machine:
    """Put a quarantined machine back into service on an admin's word; admins only.

    What was to be cleaned there gets a receipt that is not verified and says who and why. Of a
    machine that is not heard any more, so does what is still being cleaned.

    Raises:
        Conflict: it is neither quarantined nor waited for in vain.
        InvalidInput: the reason is empty or too long.
    """
    actor.require_admin()
    why = clean_text(reason, MAX_REASON + 1)
    if not why or len(why) > MAX_REASON:
        raise InvalidInput(f"A reason has 1 to {MAX_REASON} characters.", field="reason")
    await visible_machine(actor, machine_id, field="machineId")
    async with ledger(machine_id) as machine:
        if machine is None:
            raise Conflict("This machine was removed meanwhile.", field="machineId")
        if machine.command_hold is not None and machine.lifecycle_reason == machine.command_hold:
            raise Conflict(
                "This host is held, and not for what is left on it: accept it first.",
                field="machineId",
            )
        if is_for_addresses(machine):
            raise Conflict(
                "Another machine has an address of this one: give the host another, or accept it "
                "with acceptMachineAddresses.",
                field="machineId",
            )
        unclean = await Allocation.filter(
            machine_id=machine_id, state=AllocationState.RECLAIMING
        ).order_by("id")
        if machine.presence is Presence.ONLINE:
            cleaning = set(
                await Command.filter(
                    machine_id=machine_id, kind=ALLOCATION_END.name, state__in=list(commands.OPEN)
                ).values_list("allocation_id", flat=True)
            )
            unclean = [allocation for allocation in unclean if allocation.id not in cleaning]
        quarantined = machine.lifecycle is Lifecycle.QUARANTINED
        if not quarantined and not unclean:
            raise Conflict(
                "This machine is not quarantined, and nothing on it waits in vain to be cleaned.",
                field="machineId",
            )
        for allocation in unclean:
            await override_cleaning(allocation, user_id=actor.user_id, reason=why)
        if quarantined:
            await Machine.filter(id=machine_id).update(
                lifecycle=Lifecycle.IN_SERVICE, lifecycle_reason=None
            )
            await judge(machine_id, actor)
            await record_change(machine_id, ChangeKind.LIFECYCLE_CHANGED)
        await audit.record(
            actor,
            "overrideQuarantine",
            target=("Machine", machine_id),
            details={"machine": machine.name, "reason": why, "allocations": str(len(unclean))},
        )
    return await Machine.get(id=machine_id)
