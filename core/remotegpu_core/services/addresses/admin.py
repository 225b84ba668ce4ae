"""What admins do about addresses: give a machine some of its own, and accept that two have one."""

import uuid
from collections.abc import Collection, Sequence

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from remotegpu_core.models import AddressSource, Machine, MachineAddress
from remotegpu_core.services import audit
from remotegpu_core.services.access import visible_machine
from remotegpu_core.services.addresses.claims import arrange, holders
from remotegpu_core.services.addresses.disputes import claims_against
from remotegpu_core.services.addresses.quarantine import contested, judge, settle, whose
from remotegpu_core.services.addresses.scope import Said, describe, scope_of, site_of
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.states import Lifecycle
from remotegpu_core.versions import Topic, lock
from remotegpu_protocol.addresses import is_reachable, parse_address
from remotegpu_protocol.grammar import clean_text, shorten
from remotegpu_protocol.inventory import AddressKind

#: Addresses that admins give one machine.
MAX_GIVEN = 16
#: Characters of a reason.
_MAX_REASON = 500


async def set_addresses(
    actor: Actor,
    machine_id: uuid.UUID,
    addresses: Sequence[tuple[str, AddressKind]],
    *,
    take_over: bool = False,
) -> Machine:
    """Give a machine these addresses beside those that its agent reports, and no others.

    Of one that the agent reports too, this kind counts. With `take_over`, also such as another
    machine's host says that it has: that machine is quarantined then.

    Raises:
        InvalidInput: one is not an address, or not one that others reach a host by, or comes twice.
        LimitExceeded: there are more than MAX_GIVEN.
        Conflict: another machine has one, or this machine is retired.
    """
    actor.require_admin()
    await visible_machine(actor, machine_id, field="machineId")
    given = _checked(addresses)
    async with transaction():
        machine = await _locked(machine_id)
        await lock(Topic.MACHINE_CHANGES)
        taken, site = await holders(str(said.address) for said in given), await site_of(machine_id)
        for position, said in enumerate(given):
            scope = scope_of(said.address, site)
            holder = taken.get((scope, str(said.address)))
            if holder is None or holder.machine_id == machine_id:
                continue
            is_given = holder.source is AddressSource.ADMIN
            if is_given or not take_over:
                way = (
                    "take it from that one first"
                    if is_given
                    else "its host says so. If that is wrong, set takeOver"
                )
                raise Conflict(
                    f"{said.address} is the address of the machine {holder.machine.name!r} "
                    f"{describe(scope)}: {way}.",
                    field=["addresses", str(position), "address"],
                )
        changed = await arrange(machine_id, machine.host, given=given)
        await audit.record(
            actor,
            "setMachineAddresses",
            target=("Machine", machine_id),
            details={
                "machine": machine.name,
                "changed": audit.yes_or_no(changed),
                **{str(said.address): str(said.kind) for said in given},
            },
        )
        if changed:
            await judge(machine_id, actor)
            await record_change(machine_id, ChangeKind.CONFIGURATION_CHANGED)
    if take_over:
        await settle()
    return await Machine.get(id=machine_id)


async def accept_addresses(
    actor: Actor, machine_id: uuid.UUID, addresses: Collection[str], reason: str
) -> Machine:
    """Let a machine be used although another one has these addresses of its, or says so: either of
    the two may be named, and both are used then.

    That holds until it reports without them, or goes to another site.

    Raises:
        InvalidInput: the reason is empty or too long, or there is no address.
        NotFound: one of them is not an address of it that another machine has.
    """
    actor.require_admin()
    await visible_machine(actor, machine_id, field="machineId")
    why = clean_text(reason, _MAX_REASON + 1)
    if not why or len(why) > _MAX_REASON:
        raise InvalidInput(f"A reason has 1 to {_MAX_REASON} characters.", field="reason")
    if not addresses:
        raise InvalidInput("Say which addresses are accepted.", field="addresses")
    async with transaction():
        machine = await _locked(machine_id)
        await lock(Topic.MACHINE_CHANGES)
        rows = {one.claim.address: one.claim for one in await claims_against(machine_id)}
        rows |= {row.address: row for row in await contested(machine_id)}
        chosen: dict[uuid.UUID, MachineAddress] = {}
        for position, text in enumerate(addresses):
            row = rows.get(str(parse_address(text)))
            if row is None:
                raise NotFound(
                    f"{shorten(clean_text(text))!r} is not an address of this machine that another "
                    "one has, or it is accepted already.",
                    field=["addresses", str(position)],
                )
            chosen[row.id] = row
        await MachineAddress.filter(id__in=list(chosen)).update(
            accepted_at=now_ms(), accepted_reason=why
        )
        await audit.record(
            actor,
            "acceptMachineAddresses",
            target=("Machine", machine_id),
            details={
                "machine": machine.name,
                "reason": why,
                **await whose(list(chosen.values())),
            },
        )
        await judge(machine_id, actor)
        await record_change(machine_id, ChangeKind.CONFIGURATION_CHANGED)
    # The other machine of the dispute.
    await settle()
    return await Machine.get(id=machine_id)


async def _locked(machine_id: uuid.UUID) -> Machine:
    machine = await Machine.filter(id=machine_id).select_for_update().get_or_none()
    if machine is None:
        raise NotFound("There is no such machine.", field="machineId")
    if machine.lifecycle is Lifecycle.RETIRED:
        raise Conflict("This machine is retired: it has no addresses.", field="machineId")
    return machine


def _checked(addresses: Sequence[tuple[str, AddressKind]]) -> list[Said]:
    if len(addresses) > MAX_GIVEN:
        raise LimitExceeded(
            f"A machine is given at most {MAX_GIVEN} addresses, got {len(addresses)}.",
            field="addresses",
        )
    given: list[Said] = []
    for position, (text, kind) in enumerate(addresses):
        field = ["addresses", str(position), "address"]
        shown = shorten(clean_text(text))
        address = parse_address(text)
        if address is None:
            raise InvalidInput(
                f"Expected an IPv4 address of four decimal numbers without leading zeros, or an "
                f"IPv6 address; got {shown!r}.",
                field=field,
            )
        if not is_reachable(address):
            raise InvalidInput(
                f"Nobody else reaches a host by {shown}: loopback, link-local, multicast and "
                "reserved addresses are not kept.",
                field=field,
            )
        if any(said.address == address for said in given):
            raise InvalidInput(f"{address} comes twice.", field=field)
        given.append(Said(address, kind, source=AddressSource.ADMIN))
    return given
