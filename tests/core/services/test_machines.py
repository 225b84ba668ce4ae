import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.models import Machine, MachineLabel
from remotegpu_core.paging import PageRequest
from remotegpu_core.services.allocations.request import Requirement
from remotegpu_core.services.inventory import apply_inventory
from remotegpu_core.services.machines import (
    MachineFilter,
    MachineOrderField,
    gpus_of,
    labels_of,
    list_machines,
)
from remotegpu_core.services.maintenance import set_labels
from remotegpu_core.states import Availability, Health, Lifecycle, Presence
from tests.core.hosts import gpu, inventory, make_machine, make_online
from tests.core.scale.plans import statements

pytestmark = pytest.mark.usefixtures("database")


async def names(actor: Actor, **chosen: object) -> list[str]:
    page = await list_machines(actor, PageRequest(), MachineFilter(**chosen))  # type: ignore[arg-type]  # each test gives what its field takes
    assert await page.count() == len(page.rows)
    return [row.name for row in page.rows]


async def test_by_state(admin: Actor) -> None:
    await make_machine("away", health=Health.DEGRADED)
    await make_machine("gone", presence=Presence.LOST, lifecycle=Lifecycle.MAINTENANCE)
    await make_online("here")
    assert await names(admin, presence=[Presence.ONLINE]) == ["here"]
    assert await names(admin, presence=[Presence.LOST, Presence.UNREACHABLE]) == ["away", "gone"]
    assert await names(admin, presence=[]) == []
    assert await names(admin, lifecycle=[Lifecycle.MAINTENANCE]) == ["gone"]
    assert await names(admin, health=[Health.DEGRADED]) == ["away"]
    assert await names(admin, health=[Health.HEALTHY], presence=[Presence.ONLINE]) == ["here"]
    assert len(await names(admin, availability=[Availability.AVAILABLE])) == 3
    assert await names(admin, availability=[Availability.ALLOCATED]) == []


async def test_by_text_and_model_whatever_the_case(admin: Actor) -> None:
    machine, epoch = await make_online("Node-A_1")
    await apply_inventory(machine.id, epoch, inventory(gpu("GPU-1"), gpu("GPU-2", index=1)))
    await make_machine("node-b%2")
    await make_machine("nodexax1")

    assert await names(admin, gpu_model="h100") == ["Node-A_1"]
    assert await names(admin, gpu_model="A100") == []
    assert await names(admin, text="NODE-") == ["Node-A_1", "node-b%2"]
    assert await names(admin, text="nvidia") == ["Node-A_1"]
    # What means something in LIKE means itself here.
    assert await names(admin, text="a_1") == ["Node-A_1"]
    assert await names(admin, text="%") == ["node-b%2"]
    assert await names(admin, text="\\") == []
    assert await names(admin, text="'") == []
    assert len(await names(admin, text="")) == 3


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "x" * 10_000])
async def test_texts_that_nothing_can_hold_find_nothing(admin: Actor, text: str) -> None:
    await make_machine()
    assert await names(admin, text=text) == []
    assert await names(admin, gpu_model=text) == []
    assert await names(admin, labels=[(text, "x")]) == []
    assert await names(admin, labels=[("x", text)]) == []


async def test_a_removed_gpu_is_not_searched(admin: Actor) -> None:
    machine, epoch = await make_online()
    await apply_inventory(machine.id, epoch, inventory(gpu()))
    await apply_inventory(machine.id, epoch, inventory())
    assert await names(admin, gpu_model="H100") == []


async def test_by_labels_of_which_all_must_hold(admin: Actor) -> None:
    first, second = await make_machine("a"), await make_machine("b")
    for machine, key, value in (
        (first, "rack", "7"),
        (first, "room", "a"),
        (second, "rack", "7"),
        (second, "room", "b"),
    ):
        await MachineLabel.create(machine=machine, key=key, value=value)
    assert await names(admin, labels=[("rack", "7")]) == ["a", "b"]
    assert await names(admin, labels=[("rack", "7"), ("room", "b")]) == ["b"]
    assert await names(admin, labels=[("rack", "7"), ("rack", "8")]) == []
    assert await names(admin, labels=[("rack", "7"), ("rack", "7")]) == ["a", "b"]
    assert await names(admin, labels=[("rack", "a")]) == []
    found = await labels_of([first.id, second.id])
    assert [(label.key, label.value) for label in found[first.id]] == [("rack", "7"), ("room", "a")]


async def test_all_labels_are_one_question(admin: Actor) -> None:
    with statements() as seen:
        await names(admin, labels=[(f"key-{number}", "x") for number in range(64)])
    assert [query.count("SELECT") for query, _ in seen] == [2] * len(seen)


async def test_labels_are_equal_however_they_are_composed(admin: Actor) -> None:
    typed = ("b\u00fcro", "bu\u0308ro")
    for number, value in enumerate(typed):
        machine = await make_machine(f"node-{number}")
        await set_labels(admin, machine.id, [("room", value)])
    for value in typed:
        assert await names(admin, labels=[("room", value)]) == ["node-0", "node-1"]
        needed = Requirement(labels=(("room", value),))
        assert needed.labels == (("room", typed[0]),)


async def test_by_name_or_by_age_either_way(admin: Actor) -> None:
    for age, name in enumerate(("b", "C", "a")):
        machine = await make_machine(name)
        await Machine.filter(id=machine.id).update(created_at=age)

    async def ordered(field: MachineOrderField, descending: bool) -> str:
        page = await list_machines(
            admin, PageRequest(), MachineFilter(), order_field=field, descending=descending
        )
        return "".join(row.name for row in page.rows)

    assert await ordered(MachineOrderField.NAME, False) == "abC"
    assert await ordered(MachineOrderField.NAME, True) == "Cba"
    assert await ordered(MachineOrderField.CREATED_AT, False) == "bCa"
    assert await ordered(MachineOrderField.CREATED_AT, True) == "aCb"


async def test_gpus_come_by_index_and_machine(admin: Actor) -> None:
    machine, epoch = await make_online()
    other = await make_machine()
    await apply_inventory(
        machine.id, epoch, inventory(gpu("GPU-A", index=1), gpu("GPU-B", index=0))
    )
    found = await gpus_of([machine.id, other.id])
    assert [card.uuid for card in found[machine.id]] == ["GPU-B", "GPU-A"]
    assert found[other.id] == []
