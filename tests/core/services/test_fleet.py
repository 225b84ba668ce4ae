import pytest

from remotegpu_core.bus.bus import Bus
from remotegpu_core.models import Machine
from remotegpu_core.services.fleet import Fleet, summarise
from remotegpu_core.services.inventory import apply_inventory
from remotegpu_core.states import Health, Lifecycle, Presence
from remotegpu_protocol.inventory import GpuHealth
from remotegpu_protocol.values import MAX_SAFE_INTEGER
from tests.core.hosts import gpu, inventory, make_machine, make_online, sample
from tests.core.patience import eventually

pytestmark = pytest.mark.usefixtures("database")


async def published(bus: Bus, machine: Machine, epoch: int, **values: object) -> None:
    one = sample(epoch, 1000, **values)  # type: ignore[arg-type]  # fields of GpuMetrics
    await bus.publish_sample(machine.id, one)

    async def arrived() -> bool:
        return (await bus.live([machine.id]))[machine.id].sample is not None

    await eventually(arrived)


async def test_an_empty_fleet(bus: Bus) -> None:
    empty = await summarise(bus, None)
    assert empty.machines.total == 0
    assert empty.gpus.total == 0
    assert empty.gpus.utilization is None


async def test_machines_and_gpus_are_counted_and_summed(bus: Bus) -> None:
    first, epoch = await make_online()
    await apply_inventory(
        first.id,
        epoch,
        inventory(gpu("GPU-1"), gpu("GPU-2", index=1, health=GpuHealth.UNHEALTHY)),
    )
    second, other_epoch = await make_online()
    await apply_inventory(second.id, other_epoch, inventory(gpu("GPU-3")))
    await Machine.filter(id=second.id).update(lifecycle=Lifecycle.QUARANTINED)
    await make_machine()
    await make_machine(presence=Presence.LOST)
    await published(
        bus, first, epoch, gpus=2, utilization=40.0, memory_used=10, memory_total=100, power=300.0
    )
    await published(bus, second, other_epoch, gpus=1, utilization=100.0, memory_used=30)

    fleet = await summarise(bus, None)
    assert (fleet.machines.total, fleet.machines.online) == (4, 2)
    assert (fleet.machines.unreachable, fleet.machines.lost) == (1, 1)
    assert (fleet.machines.available, fleet.machines.quarantined) == (1, 1)
    assert (fleet.gpus.total, fleet.gpus.available, fleet.gpus.unhealthy) == (3, 1, 1)
    assert fleet.gpus.utilization == pytest.approx(60.0)
    assert (fleet.gpus.memory_used, fleet.gpus.memory_total) == (50, 200)
    assert fleet.gpus.power == pytest.approx(600.0)

    part = await summarise(bus, frozenset({second.id}))
    assert (part.machines.total, part.gpus.total, part.gpus.memory_used) == (1, 1, 30)
    assert (part.gpus.memory_total, part.gpus.power) == (None, None)
    nothing: Fleet = await summarise(bus, frozenset())
    assert (nothing.machines.total, nothing.gpus.total) == (0, 0)


async def test_what_was_last_said_by_a_machine_that_is_away_does_not_count(bus: Bus) -> None:
    machine, epoch = await make_online()
    await apply_inventory(machine.id, epoch, inventory(gpu("GPU-1")))
    await published(bus, machine, epoch, utilization=40.0)
    assert (await summarise(bus, None)).gpus.utilization == pytest.approx(40.0)
    await Machine.filter(id=machine.id).update(presence=Presence.UNREACHABLE)
    fleet = await summarise(bus, None)
    assert (fleet.gpus.utilization, fleet.gpus.total, fleet.gpus.available) == (None, 1, 0)


async def test_sums_stay_what_every_reader_keeps_exact(bus: Bus) -> None:
    machine, epoch = await make_online()
    await published(bus, machine, epoch, gpus=2, memory_total=MAX_SAFE_INTEGER)
    assert (await summarise(bus, None)).gpus.memory_total == MAX_SAFE_INTEGER


async def test_health_of_a_gpu_follows_its_row(bus: Bus) -> None:
    machine, epoch = await make_online()
    await apply_inventory(machine.id, epoch, inventory(gpu(health=GpuHealth.DEGRADED)))
    fleet = await summarise(bus, None)
    assert (fleet.gpus.available, fleet.gpus.unhealthy) == (1, 0)
    assert (await Machine.get()).health is Health.DEGRADED
