"""Giving each address to one machine. Everything here runs in a transaction that has locked the
machine's row, and locks the counter of changes before it looks at what others hold: one at a time
over all replicas, whatever many hosts say at once. The index holds whatever is done here."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from remotegpu_core.clock import now_ms
from remotegpu_core.models import AddressSource, MachineAddress
from remotegpu_core.services.addresses.scope import Said, reported, scope_of, site_of
from remotegpu_core.versions import Topic, lock
from remotegpu_protocol.addresses import parse_address


async def arrange(
    machine_id: uuid.UUID, host: Mapping[str, Any], *, given: Sequence[Said] | None = None
) -> bool:
    """Make the machine's rows what its host says, and what admins gave it; whether any changed.

    `host` is the machine's newest inventory, `given` what admins give it from now on: what they
    gave it before where that is None. Where both name an address, what the admins say of it counts.
    """
    rows = {row.address: row for row in await MachineAddress.filter(machine_id=machine_id)}
    if given is None:
        given = _given(rows.values())
    wanted = {str(said.address): said for said in (*reported(host), *given)}
    # Scopes change with the site only, and then `rearrange` is called: hosts report often.
    same = rows.keys() == wanted.keys() and all(
        row.held and _says(row, wanted[address]) for address, row in rows.items()
    )
    return not same and await _arrange(machine_id, rows, wanted)


async def rearrange(machine_id: uuid.UUID, host: Mapping[str, Any]) -> bool:
    """`arrange` for a machine that may have gone to another site."""
    rows = {row.address: row for row in await MachineAddress.filter(machine_id=machine_id)}
    wanted = {str(said.address): said for said in (*reported(host), *_given(rows.values()))}
    return await _arrange(machine_id, rows, wanted)


async def give_up(machine_id: uuid.UUID) -> None:
    """The machine has no address any more: others may have them."""
    await MachineAddress.filter(machine_id=machine_id).delete()


async def holders(addresses: Iterable[str]) -> dict[tuple[str, str], MachineAddress]:
    """Rows of who holds `addresses`, by scope and address, with their machines."""
    held = MachineAddress.filter(held=True, address__in=list(addresses))
    return {(row.scope, row.address): row for row in await held.select_related("machine")}


async def _arrange(
    machine_id: uuid.UUID, rows: Mapping[str, MachineAddress], wanted: Mapping[str, Said]
) -> bool:
    await lock(Topic.MACHINE_CHANGES)
    site = await site_of(machine_id)
    taken = await holders(wanted)
    changed = False
    new: list[MachineAddress] = []
    gone = [row.id for address, row in rows.items() if address not in wanted]
    if gone:
        await MachineAddress.filter(id__in=gone).delete()
        changed = True
    for address, said in sorted(wanted.items()):
        scope = scope_of(said.address, site)
        holder = taken.get((scope, address))
        held = holder is None or holder.machine_id == machine_id
        values: dict[str, Any] = {
            "scope": scope,
            "kind": said.kind,
            "interface": said.interface,
            "source": said.source,
            "held": held,
        }
        row = rows.get(address)
        if row is None:
            new.append(
                MachineAddress(
                    machine_id=machine_id, address=address, created_at=now_ms(), **values
                )
            )
            continue
        if held or row.scope != scope:
            # What was accepted was that very conflict.
            values |= {"accepted_at": None, "accepted_reason": None}
        if held and not row.held:
            # A claim that waited for long was no possession.
            values["created_at"] = now_ms()
        if any(getattr(row, name) != value for name, value in values.items()):
            await MachineAddress.filter(id=row.id).update(**values)
            changed = True
    if new:
        # At once: the counter is locked meanwhile.
        await MachineAddress.bulk_create(new)
        changed = True
    return changed


def _says(row: MachineAddress, said: Said) -> bool:
    return (row.kind, row.interface, row.source) == (said.kind, said.interface, said.source)


def _given(rows: Iterable[MachineAddress]) -> list[Said]:
    return [
        Said(address, row.kind, row.interface, row.source)
        for row in rows
        if row.source is AddressSource.ADMIN and (address := parse_address(row.address))
    ]
