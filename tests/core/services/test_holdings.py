"""A host that has what the database does not know is held, and cleaned when it is accepted."""

import uuid

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.errors import NoCapacity
from remotegpu_core.models import Command, Machine, QuarantineCause
from remotegpu_core.services import hosts
from remotegpu_core.services.inventory import apply_inventory
from remotegpu_core.settings import Settings
from remotegpu_core.states import Lifecycle
from remotegpu_protocol.kinds import CleaningReport
from tests.core.hosts import inventory
from tests.core.services.allocations.hosts import (
    CLEAN,
    NOT_CLEANED,
    POLICY,
    Host,
    active,
    answer,
    get,
    make_host,
)

pytestmark = pytest.mark.usefixtures("database")


async def has(host: Host, *allocations: str) -> Machine:
    """Its agent says that it has these."""
    machine = await Machine.get(id=host.id)
    said = inventory(policy=POLICY, allocations=list(allocations))
    await apply_inventory(host.id, machine.epoch, said)
    return await Machine.get(id=host.id)


async def test_what_is_known_or_no_id_is_nothing_special(settings: Settings, admin: Actor) -> None:
    host = await make_host("one", 1)
    row = await active(admin, settings, host)
    assert (await has(host, str(row.id), "something")).lifecycle is Lifecycle.IN_SERVICE


@pytest.mark.parametrize(
    ("report", "after"), [(CLEAN, Lifecycle.IN_SERVICE), (NOT_CLEANED, Lifecycle.QUARANTINED)]
)
async def test_an_allocation_that_only_the_host_knows(
    settings: Settings, admin: Actor, report: CleaningReport, after: Lifecycle
) -> None:
    """A restored database, which has given the machine to nobody."""
    host, other = await make_host("one", 1), await make_host("two", 1)
    elsewhere = await active(admin, settings, other)
    lost = [str(uuid.uuid4()), str(elsewhere.id)]
    machine = await has(host, *lost)
    assert machine.lifecycle is Lifecycle.QUARANTINED
    assert all(name in (machine.command_hold or "") for name in lost)
    with pytest.raises(NoCapacity):
        await get(admin, settings, host)
    await hosts.accept_host(admin, host.id)
    ends = await Command.filter(machine_id=host.id).order_by("sequence")
    assert sorted(str(end.allocation_id) for end in ends) == sorted(lost)
    assert {end.kind for end in ends} == {"allocation.end"}
    # It says so until it has begun to clean.
    assert (await has(host, *lost)).lifecycle is Lifecycle.IN_SERVICE
    for end in ends:
        await answer(end, result=report)
    assert (await has(host)).lifecycle is after
    if after is Lifecycle.QUARANTINED:
        cause = await QuarantineCause.get()
        assert cause.code == "OTHER"
        assert any(name in cause.message for name in lost)
