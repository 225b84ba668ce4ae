import asyncio
import random
import uuid

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.models import (
    AuditEvent,
    Gpu,
    Machine,
    MachineChange,
    Outcome,
    QuarantineCause,
)
from remotegpu_core.services import hosts, retirement
from remotegpu_core.services import inventory as service
from remotegpu_core.services.allocations.override import override_quarantine
from remotegpu_core.services.inventory import Applied, apply_inventory
from remotegpu_core.services.presence import connect
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.states import Health, Lifecycle
from remotegpu_protocol.inventory import DriverState, GpuHealth, Inventory
from tests.core.hosts import REPLICA, gpu, inventory, make_machine, make_online

pytestmark = pytest.mark.usefixtures("database")

HARDWARE = "4c4c4544-0042-3510-8054-b3c04f4d3232"


async def kinds() -> list[str]:
    return [change.kind for change in await MachineChange.all().order_by("sequence")]


async def present(machine: Machine) -> list[str]:
    return sorted([card.uuid for card in await Gpu.filter(machine=machine, removed_at=None)])


async def test_rows_become_what_the_host_says() -> None:
    machine, epoch = await make_online()
    said = inventory(
        gpu("GPU-1", pci_bus_id="0000:01:00.0", power_limit_max=700.0),
        gpu("GPU-2", index=1, mig_enabled=True),
        cpu_count=64,
        hardware_uuid=HARDWARE,
        driver_state=DriverState.READY,
    )
    assert await apply_inventory(machine.id, epoch, said) == Applied()

    row = await Machine.get()
    assert (row.hardware_uuid, row.health, row.health_reasons) == (HARDWARE, Health.HEALTHY, [])
    assert row.host["cpu_count"] == 64
    assert row.inventory_at is not None
    first, second = await Gpu.all().order_by("index")
    assert (first.uuid, first.model, first.memory_total) == ("GPU-1", "NVIDIA H100", 80 * 2**30)
    assert first.details["power_limit_max"] == 700.0
    assert second.details["mig_enabled"] is True
    assert await kinds() == ["PRESENCE_CHANGED", "INVENTORY_CHANGED"]


async def test_saying_the_same_again_changes_nothing() -> None:
    machine, epoch = await make_online()
    said = inventory(gpu("GPU-1", power_limit_max=700.0), cpu_count=64)
    await apply_inventory(machine.id, epoch, said)
    before = await kinds()
    await apply_inventory(machine.id, epoch, said)
    assert await kinds() == before
    assert await Gpu.all().count() == 1


async def test_an_older_connection_writes_nothing() -> None:
    machine, epoch = await make_online()
    newer = await connect(machine.id, REPLICA, agent_version="1.0", boot_id="boot-2")
    assert newer is not None
    before = await Machine.filter(id=machine.id).values()
    assert await apply_inventory(machine.id, epoch, inventory(gpu())) == Applied(stale=True)
    assert await apply_inventory(uuid.uuid4(), 1, inventory(gpu())) == Applied(stale=True)
    assert await Machine.filter(id=machine.id).values() == before
    assert await Gpu.all().count() == 0
    assert await kinds() == ["PRESENCE_CHANGED"]


async def test_gpus_come_change_go_and_come_back_with_their_id() -> None:
    machine, epoch = await make_online()
    await apply_inventory(machine.id, epoch, inventory(gpu("GPU-1"), gpu("GPU-2", index=1)))
    ids = {card.uuid: card.id for card in await Gpu.all()}

    await apply_inventory(machine.id, epoch, inventory(gpu("GPU-2"), gpu("GPU-3", index=1)))
    assert await present(machine) == ["GPU-2", "GPU-3"]
    assert (await Gpu.get(uuid="GPU-2")).index == 0
    assert (await Gpu.get(uuid="GPU-1")).removed_at is not None

    await apply_inventory(machine.id, epoch, inventory(gpu("GPU-1"), gpu("GPU-2", index=1)))
    assert await present(machine) == ["GPU-1", "GPU-2"]
    assert {card.uuid: card.id for card in await Gpu.filter(removed_at=None)} == ids
    assert (await kinds()).count("INVENTORY_CHANGED") == 3


async def test_a_driver_that_is_installed_later() -> None:
    machine, epoch = await make_online()
    await apply_inventory(machine.id, epoch, inventory(driver_state=DriverState.ABSENT))
    row = await Machine.get()
    assert (row.health, await present(machine)) == (Health.HEALTHY, [])
    await apply_inventory(
        machine.id,
        epoch,
        inventory(gpu("GPU-1"), driver_state=DriverState.READY, driver_version="570.1"),
    )
    row = await Machine.get()
    assert (row.host["driver_version"], await present(machine)) == ("570.1", ["GPU-1"])


@pytest.mark.parametrize(
    ("said", "health", "reasons"),
    [
        (inventory(), Health.HEALTHY, []),
        (inventory(gpu()), Health.HEALTHY, []),
        (
            inventory(driver_state=DriverState.FAILED, driver_message="version mismatch"),
            Health.DEGRADED,
            ["version mismatch"],
        ),
        (
            inventory(driver_state=DriverState.FAILED),
            Health.DEGRADED,
            ["The NVIDIA driver does not work."],
        ),
        (
            inventory(
                gpu("a"),
                gpu("b", index=1, health=GpuHealth.UNHEALTHY, health_reason="fell off the bus"),
            ),
            Health.DEGRADED,
            ["GPU 1: fell off the bus"],
        ),
        (
            inventory(gpu("a", health=GpuHealth.DEGRADED)),
            Health.DEGRADED,
            ["GPU 0: degraded"],
        ),
        (
            inventory(gpu("a", health=GpuHealth.UNHEALTHY)),
            Health.UNHEALTHY,
            ["GPU 0: unhealthy"],
        ),
    ],
)
async def test_health_follows_from_what_is_said(
    said: Inventory, health: Health, reasons: list[str]
) -> None:
    machine, epoch = await make_online()
    await apply_inventory(machine.id, epoch, said)
    row = await Machine.get()
    assert (row.health, row.health_reasons) == (health, reasons)
    assert ("HEALTH_CHANGED" in await kinds()) == (health is not Health.HEALTHY)


async def test_further_reasons_degrade_and_pass() -> None:
    machine, epoch = await make_online()
    await apply_inventory(machine.id, epoch, inventory(), reasons=["The clock is wrong."])
    row = await Machine.get()
    assert (row.health, row.health_reasons) == (Health.DEGRADED, ["The clock is wrong."])
    await apply_inventory(machine.id, epoch, inventory())
    assert (await Machine.get()).health is Health.HEALTHY
    assert (await kinds()).count("HEALTH_CHANGED") == 2


async def test_a_gpu_of_another_machine_is_refused_and_the_rest_applied() -> None:
    first, epoch = await make_online()
    await apply_inventory(first.id, epoch, inventory(gpu("GPU-1")))
    second, other = await make_online()
    applied = await apply_inventory(
        second.id, other, inventory(gpu("GPU-1"), gpu("GPU-2", index=1), cpu_count=8)
    )
    assert len(applied.refused) == 1
    assert "GPU-1 is registered in another machine" in applied.refused[0]
    assert (await present(first), await present(second)) == (["GPU-1"], ["GPU-2"])
    row = await Machine.get(id=second.id)
    assert (row.host["cpu_count"], row.health) == (8, Health.DEGRADED)
    event = await AuditEvent.get()
    assert (event.action, event.outcome) == ("reportInventory", Outcome.FAILED)

    # Once, not with every report.
    await apply_inventory(
        second.id, other, inventory(gpu("GPU-1"), gpu("GPU-2", index=1), cpu_count=8)
    )
    assert await AuditEvent.all().count() == 1


async def test_a_gpu_that_moved_follows_when_its_old_host_says_so() -> None:
    first, epoch = await make_online()
    second, other = await make_online()
    await apply_inventory(first.id, epoch, inventory(gpu("GPU-1")))
    await apply_inventory(second.id, other, inventory(gpu("GPU-1")))
    await apply_inventory(first.id, epoch, inventory())
    assert await apply_inventory(second.id, other, inventory(gpu("GPU-1"))) == Applied()
    assert (await present(first), await present(second)) == ([], ["GPU-1"])
    assert (await Machine.get(id=second.id)).health is Health.HEALTHY


async def test_a_gpu_that_came_between_the_look_and_the_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The look finds nothing, as when another machine registers the card a moment later."""
    other = await make_machine()
    machine, epoch = await make_online()
    apply_gpus, blind = service._apply_gpus, True

    async def blinded(*arguments: object) -> tuple[bool, list[str]]:
        nonlocal blind
        if not blind:
            return await apply_gpus(*arguments)  # type: ignore[arg-type]  # as they came
        blind = False
        changed, refused = await apply_gpus(*arguments)  # type: ignore[arg-type]  # as they came
        # Past the service, what the other machine's transaction would have done.
        await Gpu.create(
            machine=other, uuid="GPU-1", index=0, model="NVIDIA H100", details={}, created_at=1
        )
        return changed, refused

    monkeypatch.setattr(service, "_apply_gpus", blinded)
    said = inventory(gpu("GPU-1"), gpu("GPU-2", index=1))
    applied = await apply_inventory(machine.id, epoch, said)
    # The index refused the second GPU-1, and with it everything of that transaction.
    assert not blind
    assert applied == Applied()
    assert await present(other) == []


@pytest.mark.parametrize("turn", range(5))
async def test_machines_that_race_for_the_same_gpus_get_each_once(turn: int) -> None:
    online = [await make_online() for _ in range(6)]
    uuids = [f"GPU-{number}" for number in range(8)]
    chance = random.Random(turn)

    async def report(machine: Machine, epoch: int) -> Applied:
        # Every host in an order of its own.
        cards = [gpu(card, index=index) for index, card in enumerate(chance.sample(uuids, 8))]
        return await apply_inventory(machine.id, epoch, inventory(*cards))

    applied = await asyncio.gather(*(report(*one) for one in online))
    rows = await Gpu.filter(removed_at=None)
    assert sorted(row.uuid for row in rows) == uuids
    # What is refused and what is had are everything together.
    for (machine, _), outcome in zip(online, applied, strict=True):
        assert not outcome.stale
        assert len(await present(machine)) + len(outcome.refused) == 8


async def test_a_gpu_that_is_reported_twice() -> None:
    machine, epoch = await make_online()
    applied = await apply_inventory(
        machine.id, epoch, inventory(gpu("GPU-1"), gpu("GPU-1", index=1))
    )
    assert applied.refused == ["GPU GPU-1 is reported twice."]
    assert await present(machine) == ["GPU-1"]


async def test_hardware_of_another_machine_needs_consent_once(admin: Actor) -> None:
    other = await make_machine(hardware_uuid=HARDWARE)
    machine, epoch = await make_online()
    said = inventory(gpu(), hardware_uuid=HARDWARE)

    async def report() -> tuple[list[str], Lifecycle, str | None]:
        applied = await apply_inventory(machine.id, epoch, said)
        row = await Machine.get(id=machine.id)
        return applied.refused, row.lifecycle, row.hardware_uuid

    for _ in range(2):
        (refused,), state, hardware = await report()
        assert f"has this host's hardware UUID {HARDWARE}" in refused
        assert (state, hardware) == (Lifecycle.QUARANTINED, None)
    assert await present(machine) == ["GPU-1"]
    assert (await QuarantineCause.get()).code == CauseCode.HARDWARE_CONFLICT
    await override_quarantine(admin, machine.id, "blades")
    assert await report() == ([], Lifecycle.IN_SERVICE, None)
    # A report without one takes nothing back.
    await apply_inventory(machine.id, epoch, inventory(gpu()))
    assert await report() == ([], Lifecycle.IN_SERVICE, None)
    # It was for that UUID, and is not needed when the other machine is gone.
    said = inventory(gpu(), hardware_uuid=HARDWARE.replace("4", "5"))
    await make_machine(hardware_uuid=HARDWARE.replace("4", "5"))
    assert (await report())[1] is Lifecycle.QUARANTINED
    said = inventory(gpu(), hardware_uuid=HARDWARE)
    assert (await report())[1] is Lifecycle.QUARANTINED
    await retirement.retire(admin, other.id)
    assert await report() == ([], Lifecycle.IN_SERVICE, HARDWARE)


async def test_two_machines_race_for_one_hardware_uuid() -> None:
    online = [await make_online() for _ in range(4)]
    applied = await asyncio.gather(
        *(
            apply_inventory(machine.id, epoch, inventory(hardware_uuid=HARDWARE))
            for machine, epoch in online
        )
    )
    assert await Machine.filter(hardware_uuid=HARDWARE).count() == 1
    assert sum(len(outcome.refused) for outcome in applied) == 3


@pytest.mark.parametrize("placeholder", ["00000000-0000-0000-0000-000000000000", "None", ""])
async def test_a_placeholder_takes_nothing_away(placeholder: str) -> None:
    machine, epoch = await make_online()
    await apply_inventory(machine.id, epoch, inventory(hardware_uuid=HARDWARE))
    await apply_inventory(machine.id, epoch, inventory(hardware_uuid=placeholder))
    assert (await Machine.get()).hardware_uuid == HARDWARE


async def test_two_reports_of_one_machine_at_once_end_as_one_of_them() -> None:
    machine, epoch = await make_online()
    await asyncio.gather(
        *(
            apply_inventory(machine.id, epoch, inventory(gpu("GPU-1"), gpu(f"GPU-{n}", index=1)))
            for n in (2, 3)
        )
    )
    assert len(await present(machine)) == 2


async def test_a_host_without_its_record_of_who_has_it_is_held(admin: Actor) -> None:
    machine, epoch = await make_online()
    damaged = inventory(records_damaged="allocations.json is damaged.")
    for _ in range(2):
        await apply_inventory(machine.id, epoch, damaged)
    row = await Machine.get()
    assert (row.lifecycle, row.command_hold) == (
        Lifecycle.QUARANTINED,
        "allocations.json is damaged.",
    )
    # The file was moved away: that nobody knows who has the host is as true as before.
    await apply_inventory(machine.id, epoch, inventory())
    assert (await Machine.get()).command_hold is not None
    await hosts.accept_host(admin, machine.id)
    assert (await Machine.get()).command_hold is None
