"""What hosts say of their addresses, and what becomes of it."""

from remotegpu_core.clock import now_ms
from remotegpu_core.models import AuditEvent, Machine, MachineAddress
from remotegpu_core.services.claims import ESTABLISHED_AFTER
from remotegpu_core.services.inventory import Applied, apply_inventory
from remotegpu_core.states import Lifecycle
from remotegpu_protocol.inventory import Address, AddressKind
from tests.core.hosts import inventory

IN_SERVICE, MAINTENANCE, QUARANTINED, RETIRED = Lifecycle


async def report(machine: Machine, *addresses: str | Address) -> Applied:
    """Have the machine's agent report these addresses, and no GPU."""
    row = await Machine.get(id=machine.id)
    said = [
        address
        if isinstance(address, Address)
        else Address(address, AddressKind.ADDITIONAL, "eth0")
        for address in addresses
    ]
    return await apply_inventory(machine.id, row.epoch, inventory(addresses=said))


async def long_ago(machine: Machine) -> None:
    """Have the machine's addresses be its own for long before anything that comes now."""
    before = now_ms() - ESTABLISHED_AFTER - 1000
    await MachineAddress.filter(machine_id=machine.id).update(created_at=before)


async def held(machine: Machine) -> list[str]:
    rows = await MachineAddress.filter(machine_id=machine.id, held=True).order_by("address")
    return [row.address for row in rows]


async def contested(machine: Machine) -> list[str]:
    """Those that are not accepted."""
    rows = MachineAddress.filter(machine_id=machine.id, held=False, accepted_at=None)
    return [row.address for row in await rows.order_by("address")]


async def lifecycle(machine: Machine) -> Lifecycle:
    return (await Machine.get(id=machine.id)).lifecycle


async def reason(machine: Machine) -> str:
    return (await Machine.get(id=machine.id)).lifecycle_reason or ""


async def audited(action: str) -> list[dict[str, str]]:
    return [row.details for row in await AuditEvent.filter(action=action).order_by("id")]
