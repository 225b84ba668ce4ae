"""Hosts that are not what they were: held, until an admin has looked and accepts them."""

import uuid

from remotegpu_core.actor import Actor, machine_actor
from remotegpu_core.errors import Conflict
from remotegpu_core.models import Machine, Outcome
from remotegpu_core.services import audit
from remotegpu_core.services.access import visible_machine
from remotegpu_core.services.addresses.quarantine import judge
from remotegpu_core.services.allocations.unclean import unclean_reason
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.services.ledger import ledger
from remotegpu_core.states import Lifecycle, sources_of

#: Stands for a journal in `Machine.journal_id` after a host was enrolled anew or accepted: whichever
#: comes is taken, and what was sent to the old one is lost.
EXPECTED_JOURNAL = ""

CLONED = (
    "Two hosts use this machine's key: an earlier boot of it connected again. Enrol one of them "
    "anew with --replace, stop the other, then accept the host."
)


async def hold(machine: Machine, reason: str, *, quarantine: bool = False) -> None:
    """Send no command to the host any more, within the current transaction."""
    values: dict[str, object] = {"command_hold": reason}
    moves = quarantine and machine.lifecycle in sources_of(Lifecycle.QUARANTINED)
    if moves:
        values |= {"lifecycle": Lifecycle.QUARANTINED, "lifecycle_reason": reason}
    await Machine.filter(id=machine.id).update(**values)
    await audit.record(
        machine_actor(machine.id),
        "holdHost",
        target=("Machine", machine.id),
        outcome=Outcome.FAILED,
        details={"machine": machine.name, "reason": reason},
    )
    await record_change(machine.id, ChangeKind.LIFECYCLE_CHANGED)


async def accept_host(actor: Actor, machine_id: uuid.UUID) -> Machine:
    """Trust a held host again as it is: its journal and its boot are the ones from now on.

    Its link ends and comes back, so that what it says is looked at anew. Admins only.

    Raises:
        Conflict: it is not held.
    """
    actor.require_admin()
    await visible_machine(actor, machine_id, field="machineId")
    async with ledger(machine_id) as machine:
        if machine is None or machine.command_hold is None:
            raise Conflict("This host is not held: there is nothing to accept.", field="machineId")
        values: dict[str, object] = {
            "command_hold": None,
            "former_boot_ids": None,
            "journal_id": EXPECTED_JOURNAL,
            "event_sequence": 0,
            "epoch": machine.epoch + 1,
        }
        if (
            machine.lifecycle is Lifecycle.QUARANTINED
            and machine.lifecycle_reason == machine.command_hold
        ):
            why = await unclean_reason(machine.id)
            moves = Lifecycle.IN_SERVICE if why is None else Lifecycle.QUARANTINED
            values |= {"lifecycle": moves, "lifecycle_reason": why}
        await Machine.filter(id=machine.id).update(**values)
        await audit.record(
            actor,
            "acceptHost",
            target=("Machine", machine.id),
            details={"machine": machine.name, "reason": machine.command_hold},
        )
        await judge(machine.id, actor)
        await record_change(machine.id, ChangeKind.LIFECYCLE_CHANGED)
    return await Machine.get(id=machine_id)
