"""Hosts that are not what they were: held, until an admin has looked and accepts them."""

import uuid

from remotegpu_core.actor import Actor, machine_actor
from remotegpu_core.errors import Conflict
from remotegpu_core.models import Machine
from remotegpu_core.services import audit, quarantine
from remotegpu_core.services.access import visible_machine
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.services.holdings import end_unknown
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.quarantine import HOLDING, CauseCode

#: Stands for a journal in `Machine.journal_id` after a host was enrolled anew: whichever comes is
#: taken, and what was sent to the old one is lost.
EXPECTED_JOURNAL = ""

CLONED = (
    "Two hosts use this machine's key: an earlier boot of it connected again. Enrol one of them "
    "anew with --replace, stop the other, then accept the host."
)
FLAPPING = (
    "Two hosts use this machine's key, and take its link from each other: one is a copy of the "
    "other. Enrol one of them anew with --replace, stop the other, then accept the host."
)


async def hold(machine_id: uuid.UUID, code: CauseCode, reason: str) -> None:
    """Send no command to the host any more, and place nothing on it, within the current
    transaction, which has locked its row. `code` is one of `quarantine.HOLDING`."""
    await quarantine.add(machine_id, code, reason, actor=machine_actor(machine_id))


async def hold_clones(machine_id: uuid.UUID) -> None:
    """Two hosts take the machine's link from each other."""
    async with ledger(machine_id) as machine:
        if machine is not None and machine.command_hold is None:
            await hold(machine_id, CauseCode.HOST_CLONED, FLAPPING)


async def accept_host(actor: Actor, machine_id: uuid.UUID) -> Machine:
    """Trust a held host again as it is: the journal and the boot that its newest connection named
    are its own from now on. Another journal, or another boot of before, is held again. Allocations
    that it has and that are not known here are taken back and cleaned.

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
            "epoch": machine.epoch + 1,
            "accepted_epoch": machine.epoch + 1,
            "former_boot_ids": [
                boot for boot in machine.former_boot_ids or [] if boot != machine.boot_id
            ],
            "offered_journal_id": None,
            "offered_acknowledged": None,
        }
        if machine.offered_journal_id is not None:
            # 0 where the agent does not tell: its first event may be any, see `events`.
            values["journal_id"] = machine.offered_journal_id
            values["event_sequence"] = machine.offered_acknowledged or 0
        await Machine.filter(id=machine_id).update(**values)
        ended = await end_unknown(machine)
        await quarantine.lift(machine_id, HOLDING, actor=actor)
        await audit.record(
            actor,
            "acceptHost",
            target=("Machine", machine.id),
            details={
                "machine": machine.name,
                "reason": machine.command_hold,
                "ended": str(ended),
            },
        )
        await record_change(machine.id, ChangeKind.LIFECYCLE_CHANGED)
    return await Machine.get(id=machine_id)
