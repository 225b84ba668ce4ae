"""Addresses as they are shown."""

import uuid
from collections.abc import Sequence
from typing import Final

from remotegpu_core.actor import Actor
from remotegpu_core.models import Machine, MachineAddress
from remotegpu_core.services.addresses.claims import holders
from remotegpu_protocol.inventory import AddressKind

_ORDER: Final = list(AddressKind)


async def addresses_of(
    machine_ids: Sequence[uuid.UUID],
) -> dict[uuid.UUID, list[MachineAddress]]:
    """Addresses by machine, those for management first, then public ones."""
    found: dict[uuid.UUID, list[MachineAddress]] = {machine_id: [] for machine_id in machine_ids}
    for row in await MachineAddress.filter(machine_id__in=list(machine_ids)).order_by("address"):
        found[row.machine_id].append(row)
    for rows in found.values():
        rows.sort(key=lambda row: _ORDER.index(row.kind))
    return found


async def machines_that_hold(
    actor: Actor, address_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, Machine]:
    """By contested address, the machine that has it; for those alone who see all machines."""
    if not actor.sees_all_machines:
        return {}
    rows = await MachineAddress.filter(id__in=list(address_ids), held=False)
    held = await holders(row.address for row in rows)
    return {
        row.id: holder.machine for row in rows if (holder := held.get((row.scope, row.address)))
    }
