"""What the database says of many machines is what is derived for each."""

from random import Random

import pytest

from remotegpu_core.bus.bus import Bus
from remotegpu_core.models import Gpu, Machine
from remotegpu_core.services.availability import (
    claims_of,
    machines_that_are,
    of_gpu,
    of_machine,
)
from remotegpu_core.services.fleet import summarise
from remotegpu_core.states import Availability, Health, Lifecycle, Presence
from tests.core.people import make_user
from tests.core.services.allocations.test_search import random_fleet

pytestmark = pytest.mark.usefixtures("database")


async def test_machines_by_availability_and_the_fleet_in_numbers() -> None:
    await random_fleet(Random(7), (await make_user()).id, 25)
    machines, claims = await Machine.all(), await claims_of(None)
    gpus: dict[object, list[Gpu]] = {machine.id: [] for machine in machines}
    for gpu in await Gpu.filter(removed_at=None):
        gpus[gpu.machine_id].append(gpu)
    derived = {
        machine.id: of_machine(claims.get(machine.id, {}), [gpu.id for gpu in gpus[machine.id]])
        for machine in machines
    }
    assert set(derived.values()) == set(Availability)
    for chosen in (
        *([value] for value in Availability),
        [Availability.AVAILABLE, Availability.RECLAIMING],
        [Availability.ALLOCATED, Availability.PARTLY_ALLOCATED],
        list(Availability),
        [],
    ):
        found = {row.id for row in await Machine.filter(machines_that_are(chosen))}
        assert found == {key for key, value in derived.items() if value in chosen}, chosen

    bus = Bus(None)
    await bus.start()
    fleet = await summarise(bus, None)
    await bus.stop()
    free = {
        gpu.id
        for row in machines
        for gpu in gpus[row.id]
        if of_gpu(claims.get(row.id, {}), gpu.id) is Availability.AVAILABLE
    }
    usable = [
        row
        for row in machines
        if row.presence is Presence.ONLINE and row.lifecycle is Lifecycle.IN_SERVICE
    ]
    every = [gpu for some in gpus.values() for gpu in some]
    healthy = [gpu for gpu in every if gpu.health is not Health.UNHEALTHY]
    assert fleet.machines.available == sum(
        derived[row.id] is Availability.AVAILABLE for row in usable
    )
    assert fleet.machines.allocated == sum(
        value is not Availability.AVAILABLE for value in derived.values()
    )
    assert fleet.gpus.total == len(every)
    assert fleet.gpus.allocated == sum(gpu.id not in free for gpu in every)
    assert fleet.gpus.unhealthy == len(every) - len(healthy)
    assert fleet.gpus.available == sum(
        gpu.id in free and gpu.machine_id in {row.id for row in usable} for gpu in healthy
    )
