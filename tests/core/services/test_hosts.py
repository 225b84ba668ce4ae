"""Two hosts with one key, and what an admin does about it."""

import uuid

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.errors import Conflict, Forbidden
from remotegpu_core.models import AuditEvent, Machine
from remotegpu_core.services import endings, hosts, quarantine, retirement
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.presence import connect
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.states import Lifecycle
from tests.core.hosts import make_machine
from tests.core.people import make_tenant

REPLICA = uuid.UUID(int=7)


async def boots(machine: Machine, *boot_ids: str) -> Machine:
    for boot_id in boot_ids:
        assert await connect(machine.id, REPLICA, agent_version="1", boot_id=boot_id)
    return await Machine.get(id=machine.id)


async def test_reboots_are_nothing_special(admin: Actor) -> None:
    machine = await boots(await make_machine(), *("abcabc"[n % 3] * n for n in range(1, 9)))
    assert machine.command_hold is None
    assert machine.lifecycle is Lifecycle.IN_SERVICE
    with pytest.raises(Conflict, match="not held"):
        await hosts.accept_host(admin, machine.id)


async def test_a_boot_that_comes_back_is_a_second_host(admin: Actor) -> None:
    machine = await boots(await make_machine(), "one", "one", "two", "one")
    assert machine.command_hold == hosts.CLONED
    assert (machine.lifecycle, machine.lifecycle_reason) == (Lifecycle.QUARANTINED, hosts.CLONED)
    # Said once, however long they go on.
    await boots(machine, "two", "one", "two")
    event = await AuditEvent.get(action="quarantineMachine")
    assert event.details["cause"] == "HOST_CLONED"
    assert event.details["reason"].startswith("Two hosts use")
    with pytest.raises(Forbidden):
        await hosts.accept_host(await make_tenant(), machine.id)
    accepted = await hosts.accept_host(admin, machine.id)
    assert accepted.command_hold is None
    assert accepted.lifecycle is Lifecycle.IN_SERVICE
    assert accepted.epoch == 8, "its link ends, and is looked at anew"
    # The boot that was there is accepted, and not the other one.
    assert (await boots(machine, "two", "two", "three")).command_hold is None
    assert (await boots(machine, "one")).command_hold == hosts.CLONED


async def test_what_is_quarantined_for_another_reason_stays_so(admin: Actor) -> None:
    machine = await make_machine()
    async with ledger(machine.id):
        await quarantine.add(machine.id, CauseCode.OTHER, "dirty")
    machine = await boots(machine, "one", "two", "one")
    assert machine.command_hold == hosts.CLONED
    assert machine.lifecycle_reason == f"{hosts.CLONED} There is another cause."
    accepted = await hosts.accept_host(admin, machine.id)
    assert (accepted.lifecycle, accepted.lifecycle_reason) == (Lifecycle.QUARANTINED, "dirty")


async def test_copies_that_take_the_link_from_each_other_are_held(admin: Actor) -> None:
    machine = await make_machine()
    for _ in range(2):
        await hosts.hold_clones(machine.id)
    held = await Machine.get(id=machine.id)
    assert (held.command_hold, held.lifecycle) == (hosts.FLAPPING, Lifecycle.QUARANTINED)
    assert await AuditEvent.filter(action="quarantineMachine").count() == 1
    assert (await hosts.accept_host(admin, machine.id)).lifecycle is Lifecycle.IN_SERVICE


async def test_why_a_link_is_over(admin: Actor) -> None:
    machine = await boots(await make_machine(), "one", "two", "one")
    key = bytes(machine.public_key)

    async def why(epoch: int, public_key: bytes = key) -> str:
        return (await endings.why_over(machine.id, epoch, public_key)).code

    assert await why(2) == "SUPERSEDED"
    await hosts.accept_host(admin, machine.id)
    assert await why(3) == "HOST_ACCEPTED"
    await boots(machine, "one")
    assert await why(3) == "SUPERSEDED"
    assert await why(3, b"another") == "REVOKED"
    await retirement.retire(admin, machine.id)
    assert await why(5) == "REVOKED"
    assert (await endings.why_over(uuid.uuid4(), 1, key)).code == "REVOKED"


async def test_a_retired_machine_stays_retired(admin: Actor) -> None:
    machine = await make_machine()
    await retirement.retire(admin, machine.id)
    assert (await boots(machine, "one", "two", "one")).lifecycle is Lifecycle.RETIRED
