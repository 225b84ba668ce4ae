"""An admin's word where no proof of cleaning comes."""

import uuid

from remotegpu_core.actor import Actor
from remotegpu_core.errors import Conflict, InvalidInput
from remotegpu_core.models import Allocation, Command, Machine
from remotegpu_core.services import audit, commands, hardware, quarantine
from remotegpu_core.services.access import visible_machine
from remotegpu_core.services.allocations.outcomes import override_cleaning
from remotegpu_core.services.allocations.starts import put_on_probation
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.maintenance import MAX_REASON
from remotegpu_core.services.quarantine import OVERRIDABLE, next_step
from remotegpu_core.states import AllocationState, Presence
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.kinds import ALLOCATION_END


async def override_quarantine(actor: Actor, machine_id: uuid.UUID, reason: str) -> Machine:
    """Answer for a quarantined machine with an admin's word; admins only.

    What was to be cleaned there gets a receipt that is not verified and says who and why. Of a
    machine that is not heard any more, so does what is still being cleaned. Causes that something
    else answers stay: then so does the quarantine.

    Raises:
        Conflict: no cause of its quarantine is answered by a word, and nothing waits in vain.
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
        unclean = await waiting_in_vain(machine)
        causes = (await quarantine.causes_of([machine_id]))[machine_id]
        if not unclean and not any(cause.code in OVERRIDABLE for cause in causes):
            steps = " ".join(dict.fromkeys(next_step(cause.code) for cause in causes))
            raise Conflict(
                f"What keeps this machine in quarantine is not ended by a reason. {steps}"
                if steps
                else "This machine is not quarantined, and nothing on it waits in vain to be "
                "cleaned.",
                field="machineId",
            )
        for allocation in unclean:
            await override_cleaning(actor, allocation, why)
        await quarantine.lift(machine_id, OVERRIDABLE, actor=actor)
        await hardware.accept(machine)
        await put_on_probation(machine_id)
        await audit.record(
            actor,
            "overrideQuarantine",
            target=("Machine", machine_id),
            details={"machine": machine.name, "reason": why, "allocations": str(len(unclean))},
        )
    return await Machine.get(id=machine_id)


async def waiting_in_vain(machine: Machine) -> list[Allocation]:
    """What is to be cleaned on a machine and is not being cleaned: of one that is not heard, all."""
    unclean = await Allocation.filter(
        machine_id=machine.id, state=AllocationState.RECLAIMING
    ).order_by("id")
    if machine.presence is not Presence.ONLINE:
        return unclean
    cleaning = set(
        await Command.filter(
            machine_id=machine.id, kind=ALLOCATION_END.name, state__in=list(commands.OPEN)
        ).values_list("allocation_id", flat=True)
    )
    return [allocation for allocation in unclean if allocation.id not in cleaning]
