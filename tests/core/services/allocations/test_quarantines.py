"""Several reasons to keep one machine out of use: none is forgotten when another ends."""

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.errors import NoCapacity
from remotegpu_core.models import Machine
from remotegpu_core.services import hosts, quarantine
from remotegpu_core.services.addresses.quarantine import settle
from remotegpu_core.services.allocations.release import release
from remotegpu_core.services.allocations.retry import retry_reclaim
from remotegpu_core.services.inventory import apply_inventory
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.settings import Settings
from remotegpu_core.states import Lifecycle
from remotegpu_protocol.inventory import Address, AddressKind, GpuInventory
from remotegpu_protocol.surfaces import Surface
from tests.core.hosts import inventory
from tests.core.services.allocations.hosts import (
    POLICY,
    Host,
    active,
    carry_out,
    dirty,
    get,
    make_host,
)

pytestmark = pytest.mark.usefixtures("database")

DIRTY = dirty(Surface.MAIL, "Left.")
REASON = "Cleaning could not be verified: mail (Left)."


async def addressed(host: Host, *addresses: str) -> None:
    """Have its agent report these addresses."""
    found = [GpuInventory(gpu.index, gpu.uuid, gpu.model, 80 * 2**30) for gpu in host.gpus]
    said = [Address(address, AddressKind.ADDITIONAL, "eth0") for address in addresses]
    await apply_inventory(host.id, host.epoch, inventory(*found, policy=POLICY, addresses=said))


async def state(host: Host) -> tuple[Lifecycle, str | None]:
    machine = await Machine.get(id=host.id)
    return machine.lifecycle, machine.lifecycle_reason


async def codes(host: Host) -> list[str]:
    return [cause.code for cause in (await quarantine.causes_of([host.id]))[host.id]]


async def test_a_cleaning_that_failed_while_an_address_was_anothers(
    settings: Settings, admin: Actor
) -> None:
    first, second = await make_host("first"), await make_host("second")
    allocation = await active(admin, settings, second, gpu_ids=second.gpu(0))
    await addressed(first, "10.0.0.7")
    await addressed(second, "10.0.0.7")
    assert "10.0.0.7" in str((await state(second))[1])
    await release(admin, allocation.id)
    await carry_out(allocation, DIRTY)
    assert await codes(second) == [CauseCode.ADDRESS_CONFLICT, CauseCode.CLEANING_FAILED]
    assert "10.0.0.7" in str((await state(second))[1])

    await addressed(first, "10.0.0.8")
    await settle()
    assert await state(second) == (Lifecycle.QUARANTINED, REASON)
    with pytest.raises(NoCapacity):
        await get(admin, settings, second, gpu_ids=second.gpu(1))
    await retry_reclaim(admin, machine_id=second.id)
    await carry_out(allocation)
    assert await state(second) == (Lifecycle.IN_SERVICE, None)


async def test_a_cleaning_that_failed_while_its_host_was_held(
    settings: Settings, admin: Actor
) -> None:
    host = await make_host("one")
    allocation = await active(admin, settings, host, gpu_ids=host.gpu(0))
    async with ledger(host.id):
        await hosts.hold(host.id, CauseCode.HOST_CLONED, hosts.CLONED)
    await release(admin, allocation.id)
    await carry_out(allocation, DIRTY)
    assert await state(host) == (
        Lifecycle.QUARANTINED,
        f"{hosts.CLONED} There is another cause.",
    )
    await hosts.accept_host(admin, host.id)
    assert await state(host) == (Lifecycle.QUARANTINED, REASON)
    await retry_reclaim(admin, machine_id=host.id)
    await carry_out(allocation)
    assert await state(host) == (Lifecycle.IN_SERVICE, None)


async def test_of_two_that_failed_the_one_that_is_left_is_told(
    settings: Settings, admin: Actor
) -> None:
    host = await make_host("one")
    allocations = [await active(admin, settings, host, gpu_ids=host.gpu(n)) for n in (0, 1)]
    for allocation, surface in zip(allocations, (Surface.MAIL, Surface.CRON), strict=True):
        await release(admin, allocation.id)
        await carry_out(allocation, dirty(surface, "Left."))
    assert "cron" in str((await state(host))[1])
    await retry_reclaim(admin, allocation_id=allocations[1].id)
    await carry_out(allocations[1])
    assert await state(host) == (Lifecycle.QUARANTINED, REASON)
