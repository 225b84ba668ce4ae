"""Keeping machines out of use that say they have another's address."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from tortoise.connection import get_connection

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.database.transactions import transaction
from remotegpu_core.models import Machine, MachineAddress, Outcome
from remotegpu_core.services import audit
from remotegpu_core.services.addresses.claims import holders, rearrange
from remotegpu_core.services.addresses.scope import describe
from remotegpu_core.services.allocations.unclean import unclean_reason
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.states import Lifecycle

#: How a quarantine for addresses is told from others. Whose they are is not for everybody who sees
#: the machine: admins are told in the graph and in the audit trail.
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

# Contested rows that nobody holds any more, and machines that something else let back into service.
_UNSETTLED: Final = f"""
SELECT DISTINCT contested.machine_id AS id FROM machine_address AS contested
JOIN machine ON machine.id = contested.machine_id
WHERE NOT contested.held AND (
    NOT EXISTS (
        SELECT 1 FROM machine_address AS holder
        WHERE holder.held AND holder.scope = contested.scope
        AND holder.address = contested.address
    )
    OR contested.accepted_at IS NULL AND machine.lifecycle = '{Lifecycle.IN_SERVICE}'
)
ORDER BY id LIMIT {_AT_ONCE}
"""  # noqa: S608 - an enum's value and a number of ours


def is_for_addresses(machine: Machine) -> bool:
    """Whether it is its addresses that keep the machine out of use."""
    return machine.lifecycle is Lifecycle.QUARANTINED and (
        machine.lifecycle_reason or ""
    ).startswith(_REASON)


async def contested(machine_id: uuid.UUID) -> list[MachineAddress]:
    """Addresses of a machine that another one has, and that no admin has accepted."""
    rows = MachineAddress.filter(machine_id=machine_id, held=False, accepted_at=None)
    return await rows.order_by("address")


async def judge(machine_id: uuid.UUID, actor: Actor) -> None:
    """Quarantine a machine for its addresses, or end that, within the current transaction, which
    has locked its row.

    One that is in maintenance stays there: this is called again when that ends. `actor` is who
    caused it.
    """
    lifecycle: Lifecycle
    why: str | None
    machine, rows = await Machine.get(id=machine_id), await contested(machine_id)
    ours = is_for_addresses(machine)
    if rows and (ours or machine.lifecycle is Lifecycle.IN_SERVICE):
        reason = _reason(rows)
        if reason == machine.lifecycle_reason:
            return
        lifecycle, why = Lifecycle.QUARANTINED, reason
        await _record(actor, "quarantineMachine", machine, Outcome.FAILED, await whose(rows))
    elif ours and not rows:
        # What was not cleaned meanwhile keeps it out now.
        why = await unclean_reason(machine_id)
        lifecycle = Lifecycle.IN_SERVICE if why is None else Lifecycle.QUARANTINED
        await _record(actor, "endQuarantine", machine, Outcome.SUCCEEDED, {})
    else:
        return
    await Machine.filter(id=machine_id).update(lifecycle=lifecycle, lifecycle_reason=why)
    await record_change(machine_id, ChangeKind.LIFECYCLE_CHANGED)


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
            was = (machine.lifecycle, machine.lifecycle_reason)
            moved = await rearrange(machine_id, machine.host)
            if moved:
                await record_change(machine_id, ChangeKind.INVENTORY_CHANGED)
            await judge(machine_id, SYSTEM)
            machine = await Machine.get(id=machine_id)
            changed += moved or was != (machine.lifecycle, machine.lifecycle_reason)
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


async def _record(
    actor: Actor, action: str, machine: Machine, outcome: Outcome, whose_it_is: Mapping[str, str]
) -> None:
    await audit.record(
        actor,
        action,
        target=("Machine", machine.id),
        outcome=outcome,
        details={"machine": machine.name, **whose_it_is},
    )
