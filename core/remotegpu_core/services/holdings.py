"""What hosts say that they have given away, against what the database knows.

An allocation that a host has and the database does not know tells of a database that was restored, or of
a host that was another machine before. Somebody may use it, so the host is held. When an admin accepts
the host, it is told to take back and clean what is not known here.
"""

import uuid
from collections.abc import Sequence
from typing import Final

from remotegpu_core.actor import machine_actor
from remotegpu_core.clock import now_ms
from remotegpu_core.models import Allocation, Command, Machine
from remotegpu_core.services import commands, quarantine
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_protocol.kinds import ALLOCATION_END, AllocationEnd

#: Allocations that a message names.
_NAMED: Final = 4
#: Newer than everything that the host was told of the allocation.
_GENERATION: Final = 2**31 - 1
_WITHIN: Final = 10 * 366 * 86_400_000


async def judge_holdings(machine_id: uuid.UUID, held: Sequence[str]) -> None:
    """Hold a host that has what is not known here, within a transaction that has locked its row."""
    unknown = await _unknown(machine_id, held)
    if not unknown:
        return
    named = ", ".join(str(allocation_id) for allocation_id in unknown[:_NAMED])
    more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    await quarantine.add(
        machine_id,
        CauseCode.ALLOCATIONS_UNKNOWN,
        f"The host has allocations that this database does not know: {named}{more}. Somebody may use "
        "it.",
        actor=machine_actor(machine_id),
    )


async def end_unknown(machine: Machine) -> int:
    """Have the host take back what is not known here, within a ledger; how many allocations."""
    unknown = await _unknown(machine.id, machine.host.get("allocations", []))
    for allocation_id in unknown:
        await commands.enqueue(
            ALLOCATION_END,
            AllocationEnd(allocation_id=str(allocation_id)),
            machine_id=machine.id,
            deadline=now_ms() + _WITHIN,
            allocation_id=allocation_id,
            generation=_GENERATION,
        )
    return len(unknown)


async def _unknown(machine_id: uuid.UUID, held: Sequence[str]) -> list[uuid.UUID]:
    """Of these, those that are no allocation of the machine, and that it was not told to end."""
    ids = {found for name in held if (found := _parsed(name)) is not None}
    if not ids:
        return []
    ids -= set(
        await Allocation.filter(id__in=list(ids), machine_id=machine_id).values_list(
            "id", flat=True
        )
    )
    if ids:
        ends = Command.filter(
            machine_id=machine_id, kind=ALLOCATION_END.name, allocation_id__in=list(ids)
        )
        ids -= set(await ends.values_list("allocation_id", flat=True))
    return sorted(ids)


def _parsed(name: str) -> uuid.UUID | None:
    # A name of another form is none that a control plane gave.
    try:
        return uuid.UUID(name)
    except ValueError:
        return None
