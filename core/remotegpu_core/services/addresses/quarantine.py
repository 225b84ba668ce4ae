"""Keeping machines out of use that say they have another's address."""

import uuid
from collections.abc import Sequence
from typing import Final

from tortoise.connection import get_connection

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.database.transactions import transaction
from remotegpu_core.models import Machine, MachineAddress, QuarantineCause
from remotegpu_core.services import quarantine
from remotegpu_core.services.addresses.claims import holders, rearrange
from remotegpu_core.services.addresses.disputes import Dispute, all_disputes, claims_against
from remotegpu_core.services.addresses.scope import describe
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.versions import Topic, lock

#: Whose they are is not for everybody who sees the machine: admins are told in the graph and in the
#: audit trail.
_REASON: Final = "Another machine has, or says that it has, an address of this one:"
_WAYS_OUT: Final = (
    "Give one host another address, or the label 'site' if it is elsewhere; say whose it is, or "
    "accept that both have it."
)
#: Addresses that a reason names.
_NAMED: Final = 4

#: And the audit trail.
_TOLD: Final = 20

#: Machines that are looked at in one go.
_AT_ONCE: Final = 500

# Machines with contested rows that no machine holds any more.
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
    against = [one for one in await claims_against(machine_id) if one.is_equal]
    if not rows and not against:
        return bool(await quarantine.lift(machine_id, [CauseCode.ADDRESS_CONFLICT], actor=actor))
    claimed = {
        one.holder.address: f"{one.claim.machine.name!r} claims it {describe(one.holder.scope)}"
        for one in against[:_TOLD]
    }
    return await quarantine.add(
        machine_id,
        CauseCode.ADDRESS_CONFLICT,
        _reason(sorted({*(row.address for row in rows), *(one.holder.address for one in against)})),
        actor=actor,
        details={**await whose(rows), **claimed},
    )


async def settle() -> int:
    """Give contested addresses to those who are to have them, and those that were given up to those
    who wait for them; return how many machines changed.

    Called every few seconds by one replica: an inventory changes no other machine.
    """
    changed = 0
    async for dispute in all_disputes():
        if dispute.is_over:
            changed += await _hand_over(dispute)
    found = await get_connection("default").execute_query_dict(_UNSETTLED)
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
    return changed + await _judge_all()


async def _hand_over(dispute: Dispute) -> int:
    ids = [dispute.holder.machine_id, dispute.claim.machine_id]
    async with transaction():
        # In one order, and before the counter, as everything that changes addresses.
        await Machine.filter(id__in=ids).order_by("id").select_for_update()
        await lock(Topic.MACHINE_CHANGES)
        now = [one for one in await claims_against(ids[0]) if one.claim.id == dispute.claim.id]
        if not now or not now[0].is_over:
            return 0
        for row, held in ((dispute.holder, False), (dispute.claim, True)):
            await MachineAddress.filter(id=row.id).update(
                held=held, accepted_at=None, accepted_reason=None
            )
        for machine_id in ids:
            await record_change(machine_id, ChangeKind.INVENTORY_CHANGED)
            await judge(machine_id, SYSTEM)
    return len(ids)


async def _judge_all() -> int:
    """Bring quarantines in step with the disputes that there are."""
    wanted: set[uuid.UUID] = set()
    async for dispute in all_disputes():
        wanted.add(dispute.claim.machine_id)
        if dispute.is_equal:
            wanted.add(dispute.holder.machine_id)
    causes = await QuarantineCause.filter(code=CauseCode.ADDRESS_CONFLICT)
    there = {cause.machine_id for cause in causes}
    changed = 0
    for machine_id in sorted(wanted ^ there):
        async with transaction():
            # `exists` would lock nothing, and the row is locked before the counter.
            machine = await Machine.filter(id=machine_id).select_for_update().get_or_none()
            if machine is None:
                continue
            await lock(Topic.MACHINE_CHANGES)
            changed += await judge(machine_id, SYSTEM)
    return changed


def _reason(addresses: Sequence[str]) -> str:
    named = ", ".join(addresses[:_NAMED])
    more = f" and {len(addresses) - _NAMED} more" if len(addresses) > _NAMED else ""
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
