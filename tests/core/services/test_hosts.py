"""Two hosts with one key, and what an admin does about it."""

import uuid

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.errors import Conflict, Forbidden
from remotegpu_core.models import AuditEvent, Machine
from remotegpu_core.services import hosts, maintenance, quarantine
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
    assert (await boots(machine, "two", "two")).command_hold is None
    assert (await boots(machine, "one", "two")).command_hold == hosts.CLONED


async def test_what_is_quarantined_for_another_reason_stays_so(admin: Actor) -> None:
    machine = await make_machine()
    async with ledger(machine.id):
        await quarantine.add(machine.id, CauseCode.OTHER, "dirty")
    machine = await boots(machine, "one", "two", "one")
    assert machine.command_hold == hosts.CLONED
    assert machine.lifecycle_reason == f"{hosts.CLONED} There is another cause."
    accepted = await hosts.accept_host(admin, machine.id)
    assert (accepted.lifecycle, accepted.lifecycle_reason) == (Lifecycle.QUARANTINED, "dirty")


async def test_a_retired_machine_stays_retired(admin: Actor) -> None:
    machine = await make_machine()
    await maintenance.retire(admin, machine.id)
    assert (await boots(machine, "one", "two", "one")).lifecycle is Lifecycle.RETIRED
