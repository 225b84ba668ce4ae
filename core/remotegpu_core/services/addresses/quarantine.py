"""Keeping machines out of use that say they have another's address."""

import uuid
from collections.abc import Sequence
from typing import Final

from tortoise.connection import get_connection

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.database.transactions import transaction
from remotegpu_core.models import Machine, MachineAddress
from remotegpu_core.services import quarantine
from remotegpu_core.services.addresses.claims import holders, rearrange
from remotegpu_core.services.addresses.scope import describe
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.services.quarantine import CauseCode

#: Whose they are is not for everybody who sees the machine: admins are told in the graph and in the
#: audit trail.
_REASON: Final = "Another machine has an address of this one:"
_WAYS_OUT: Final = (
    "Give the host another address, or the label 'site' if it is elsewhere; or accept that both "
    "have it."
)
#: Addresses that a reason names.
_NAMED: Final = 4

#: And the audit trail.
_TOLD: Final = 20

#: Machines that are looked at in one go.
_AT_ONCE: Final = 500

# Machines with contested rows that nobody holds any more.
_UNSETTLED: Final = f"""
SELECT DISTINCT contested.machine_id AS id FROM machine_address AS contested
WHERE NOT contested.held AND NOT EXISTS (
    SELECT 1 FROM machine_address AS holder
    WHERE holder.held AND holder.scope = contested.scope
    AND holder.address = contested.address
)
ORDER BY id LIMIT {_AT_ONCE}
"""  # noqa: S608 - a number of ours


async def contested(machine_id: uuid.UUID) -> list[MachineAddress]:
    """Addresses of a machine that another one has, and that no admin has accepted."""
    rows = MachineAddress.filter(machine_id=machine_id, held=False, accepted_at=None)
    return await rows.order_by("address")


async def judge(machine_id: uuid.UUID, actor: Actor) -> bool:
    """Quarantine a machine for its addresses, or end that, within the current transaction, which
    has locked its row; whether anything changed. `actor` is who caused it."""
    rows = await contested(machine_id)
    if not rows:
        return bool(await quarantine.lift(machine_id, [CauseCode.ADDRESS_CONFLICT], actor=actor))
    return await quarantine.add(
        machine_id,
        CauseCode.ADDRESS_CONFLICT,
        _reason(rows),
        actor=actor,
        details=await whose(rows),
    )


async def settle() -> int:
    """Give addresses that were given up to who waits for them, and return how many machines changed.

    Called every few seconds by one replica: who gives an address up changes no other machine.
    """
    found = await get_connection("default").execute_query_dict(_UNSETTLED)
    changed = 0
    for row in found:
        async with transaction():
            machine_id = uuid.UUID(str(row["id"]))
            machine = await Machine.filter(id=machine_id).select_for_update().get_or_none()
            if machine is None:
                continue
            moved = await rearrange(machine_id, machine.host)
            if moved:
                await record_change(machine_id, ChangeKind.INVENTORY_CHANGED)
            changed += await judge(machine_id, SYSTEM) or moved
    return changed


def _reason(rows: Sequence[MachineAddress]) -> str:
    named = ", ".join(row.address for row in rows[:_NAMED])
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"{_REASON} {named}{more}. {_WAYS_OUT}"


async def whose(rows: Sequence[MachineAddress]) -> dict[str, str]:
    """For the audit trail: by contested address, the machine that has it, and within what."""
    held = await holders(row.address for row in rows)
    found = {
        row.address: f"{holder.machine.name!r} has it {describe(row.scope)}"
        for row in rows[:_TOLD]
        if (holder := held.get((row.scope, row.address)))
    }
    return found if len(rows) <= _TOLD else {**found, "more": str(len(rows) - _TOLD)}
