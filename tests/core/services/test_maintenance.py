"""What operators do with machines."""

import uuid

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import Conflict, Forbidden, InvalidInput, LimitExceeded, NotFound
from remotegpu_core.models import (
    Allocation,
    AuditEvent,
    Booking,
    Gpu,
    Machine,
    MachineChange,
    MachineLabel,
    Occupancy,
)
from remotegpu_core.services import maintenance, retirement
from remotegpu_core.services.inventory import apply_inventory
from remotegpu_core.states import Lifecycle
from tests.core.hosts import gpu, inventory, make_machine, make_online
from tests.core.people import HOUR, make_tenant, make_user

IN_SERVICE, MAINTENANCE, QUARANTINED, RETIRED = Lifecycle


async def kinds(machine: Machine) -> list[str]:
    rows = await MachineChange.filter(machine_id=machine.id).order_by("sequence")
    return [row.kind for row in rows]


async def test_into_maintenance_and_back(admin: Actor) -> None:
    machine = await make_machine()
    moved = await maintenance.start_maintenance(admin, machine.id, " new\nfans ")
    assert (moved.lifecycle, moved.lifecycle_reason) == (MAINTENANCE, "new fans")
    again = await maintenance.start_maintenance(admin, machine.id, "new power supply")
    assert again.lifecycle_reason == "new power supply"
    back = await maintenance.end_maintenance(admin, machine.id)
    assert (back.lifecycle, back.lifecycle_reason) == (IN_SERVICE, None)
    with pytest.raises(Conflict, match="IN_SERVICE"):
        await maintenance.end_maintenance(admin, machine.id)
    assert await kinds(machine) == ["LIFECYCLE_CHANGED"] * 3
    event = await AuditEvent.filter(action="startMaintenance").order_by("-id").first()
    assert event is not None
    assert event.details == {"machine": machine.name, "reason": "new power supply"}


@pytest.mark.parametrize("lifecycle", [QUARANTINED, RETIRED])
async def test_maintenance_is_no_way_out(admin: Actor, lifecycle: Lifecycle) -> None:
    machine = await make_machine(lifecycle=lifecycle)
    with pytest.raises(Conflict, match=lifecycle):
        await maintenance.start_maintenance(admin, machine.id, "look")
    with pytest.raises(Conflict):
        await maintenance.end_maintenance(admin, machine.id)
    assert (await Machine.get(id=machine.id)).lifecycle is lifecycle


async def test_a_reason_is_given(admin: Actor) -> None:
    machine = await make_machine()
    for reason in ("", " \n", "x" * 501):
        with pytest.raises(InvalidInput) as refused:
            await maintenance.start_maintenance(admin, machine.id, reason)
        assert refused.value.field == ["reason"]


async def test_draining(admin: Actor) -> None:
    machine = await make_machine()
    for draining in (True, True, False):
        assert (await maintenance.set_draining(admin, machine.id, draining)).draining is draining
    assert await kinds(machine) == ["CONFIGURATION_CHANGED"] * 2


async def test_names_are_unique_in_any_case(admin: Actor) -> None:
    machine, other = await make_machine("one"), await make_machine("two")
    assert (await maintenance.rename(admin, machine.id, "Eins")).name == "Eins"
    assert (await maintenance.rename(admin, machine.id, "EINS")).name == "EINS"
    with pytest.raises(Conflict, match="'TWO'"):
        await maintenance.rename(admin, machine.id, "TWO")
    with pytest.raises(InvalidInput):
        await maintenance.rename(admin, machine.id, "-")
    assert (await Machine.get(id=machine.id)).name == "EINS"
    assert (await Machine.get(id=other.id)).name == "two"


async def test_labels_are_replaced(admin: Actor) -> None:
    machine = await make_machine()
    for labels in ([("rack", "a1"), ("room", "")], [("rack", "a2")], []):
        await maintenance.set_labels(admin, machine.id, labels)
        rows = await MachineLabel.filter(machine_id=machine.id).order_by("key")
        assert [(row.key, row.value) for row in rows] == labels
    with pytest.raises(InvalidInput, match="once"):
        await maintenance.set_labels(admin, machine.id, [("a", "1"), ("a", "2")])
    with pytest.raises(InvalidInput) as refused:
        await maintenance.set_labels(admin, machine.id, [("a", "1"), ("b c", "2")])
    assert refused.value.field == ["labels", "1"]
    with pytest.raises(LimitExceeded):
        await maintenance.set_labels(admin, machine.id, [(f"k{n}", "") for n in range(65)])


async def test_a_retired_machine_gives_up_its_hardware(admin: Actor) -> None:
    machine, epoch = await make_online("old")
    hardware = "4c4c4544-0042-3510-8052-b4c04f564433"
    await apply_inventory(machine.id, epoch, inventory(gpu(), hardware_uuid=hardware))
    retired = await retirement.retire(admin, machine.id)
    assert (retired.lifecycle, retired.hardware_uuid) == (RETIRED, None)
    # What its last link says comes to nothing.
    assert (await apply_inventory(machine.id, epoch, inventory(gpu()))).stale
    new, new_epoch = await make_online("new")
    applied = await apply_inventory(new.id, new_epoch, inventory(gpu(), hardware_uuid=hardware))
    assert applied.refused == []
    assert await Gpu.filter(machine_id=new.id, removed_at=None).count() == 1
    for attempt in (
        retirement.retire(admin, machine.id),
        maintenance.start_maintenance(admin, machine.id, "look"),
    ):
        with pytest.raises(Conflict):
            await attempt


async def test_what_somebody_has_is_not_retired(admin: Actor) -> None:
    machine, user, now = await make_machine(), await make_user(), now_ms()
    allocation = await Allocation.create(
        user=user, machine=machine, starts_at=now + HOUR, ends_at=now + 2 * HOUR, created_at=now
    )
    booking = await Booking.create(
        allocation=allocation,
        machine=machine,
        resource_id=machine.id,
        starts_at=now + HOUR,
        ends_at=now + 2 * HOUR,
    )
    with pytest.raises(Conflict, match="booked"):
        await retirement.retire(admin, machine.id)
    await Occupancy.create(
        allocation=allocation, machine=machine, resource_id=machine.id, opened_at=now
    )
    await Booking.filter(id=booking.id).update(starts_at=now - HOUR, ends_at=now)
    with pytest.raises(Conflict, match="has this machine"):
        await retirement.retire(admin, machine.id)
    assert (await Machine.get(id=machine.id)).lifecycle is IN_SERVICE


async def test_only_admins(admin: Actor) -> None:
    machine, tenant = await make_machine(), await make_tenant()
    for actor, machine_id, refusal in (
        (tenant, machine.id, Forbidden),
        (admin, uuid.uuid4(), NotFound),
    ):
        expected: type[Exception] = refusal
        for attempt in (
            maintenance.start_maintenance(actor, machine_id, "x"),
            maintenance.end_maintenance(actor, machine_id),
            maintenance.set_draining(actor, machine_id, True),
            maintenance.rename(actor, machine_id, "x"),
            maintenance.set_labels(actor, machine_id, []),
            retirement.retire(actor, machine_id),
        ):
            with pytest.raises(expected):
                await attempt
    assert await kinds(machine) == []
