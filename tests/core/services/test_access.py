import uuid

import pytest

from remotegpu_core.actor import SYSTEM, Actor, Scope, anonymous, machine_actor
from remotegpu_core.bus.bus import Bus
from remotegpu_core.errors import Forbidden, NotFound, Unauthenticated
from remotegpu_core.models import Gpu, Machine, WorkspaceRole
from remotegpu_core.paging import PageRequest
from remotegpu_core.services.access import (
    visible_gpus,
    visible_ids,
    visible_machine,
    visible_scope,
)
from remotegpu_core.services.api_tokens import create_api_token
from remotegpu_core.services.fleet import summarise
from remotegpu_core.services.grants import grant_machine
from remotegpu_core.services.inventory import apply_inventory
from remotegpu_core.services.machines import MachineFilter, list_machines, machines_by_id
from remotegpu_core.services.sign_in import authenticate
from remotegpu_core.services.workspaces import create_workspace, remove_member, set_member
from tests.core.hosts import gpu, inventory, make_machine, make_online
from tests.core.people import make_tenant

pytestmark = pytest.mark.usefixtures("database")


async def names(actor: Actor, chosen: MachineFilter | None = None) -> list[str]:
    page = await list_machines(actor, PageRequest(), chosen or MachineFilter())
    assert await page.count() == len(page.rows)
    return [row.name for row in page.rows]


async def one_of_each(admin: Actor) -> tuple[Actor, Actor, list[Machine]]:
    """Alice, who has a grant and a workspace; Bob, who has neither; machines own, shared, none."""
    alice, bob = await make_tenant(), await make_tenant()
    assert alice.user_id is not None
    own, shared, none = [await make_machine(name) for name in ("own", "shared", "none")]
    workspace = await create_workspace(admin, "lab")
    await set_member(admin, workspace.id, alice.user_id, WorkspaceRole.VIEWER)
    await grant_machine(admin, own.id, user_id=alice.user_id, workspace_id=None)
    await grant_machine(admin, shared.id, user_id=None, workspace_id=workspace.id)
    # Both ways to one machine do not show it twice.
    await grant_machine(admin, shared.id, user_id=alice.user_id, workspace_id=None)
    return alice, bob, [own, shared, none]


async def test_everybody_sees_what_they_have_a_grant_on_and_admins_all(admin: Actor) -> None:
    alice, _, machines = await one_of_each(admin)
    own, shared, none = machines
    every = {machine.id for machine in machines}

    assert await visible_ids(alice) == {own.id, shared.id}
    assert await visible_scope(alice) == frozenset({own.id, shared.id})
    assert await visible_ids(alice, every) == {own.id, shared.id}
    assert await visible_ids(alice, [none.id]) == set()
    assert await visible_ids(alice, []) == set()
    assert await names(alice) == ["own", "shared"]

    assert await visible_ids(admin) == every
    assert await visible_scope(admin) is None
    assert await visible_ids(SYSTEM) == every
    assert await names(admin) == ["none", "own", "shared"]
    assert await names(admin, MachineFilter(mine=True)) == []
    assert await names(alice, MachineFilter(mine=True)) == ["own", "shared"]


async def test_leaving_a_workspace_leaves_its_machines(admin: Actor) -> None:
    alice = await make_tenant()
    assert alice.user_id is not None
    machine, workspace = await make_machine(), await create_workspace(admin, "lab")
    await grant_machine(admin, machine.id, user_id=None, workspace_id=workspace.id)
    await set_member(admin, workspace.id, alice.user_id, WorkspaceRole.MEMBER)
    assert await visible_ids(alice) == {machine.id}
    await remove_member(admin, workspace.id, alice.user_id)
    assert await visible_ids(alice) == set()


async def test_without_a_grant_there_is_no_machine_by_any_function(admin: Actor, bus: Bus) -> None:
    alice, bob, _ = await one_of_each(admin)
    machine, epoch = await make_online("hidden")
    await apply_inventory(machine.id, epoch, inventory(gpu("GPU-1")))
    card = await Gpu.get()
    assert await visible_gpus(admin, [card.id]) != {}

    for actor in (alice, bob):
        assert machine.id not in await visible_ids(actor)
        assert await visible_ids(actor, [machine.id]) == set()
        assert machine.id not in (await visible_scope(actor) or set())
        assert await machines_by_id(actor, [machine.id]) == {}
        assert await visible_gpus(actor, [card.id]) == {}
        assert "hidden" not in await names(actor)
        assert await names(actor, MachineFilter(text="hidden")) == []
        assert await names(actor, MachineFilter(gpu_model="H100")) == []
        with pytest.raises(NotFound) as there:
            await visible_machine(actor, machine.id)
        with pytest.raises(NotFound) as nowhere:
            await visible_machine(actor, uuid.uuid4())
        # Nothing tells one that is hidden from one that is not there.
        assert there.value.message == nowhere.value.message
    seen = await summarise(bus, await visible_scope(bob))
    assert (seen.machines.total, seen.gpus.total, seen.gpus.memory_total) == (0, 0, None)


async def test_nobody_anonymous_sees_anything() -> None:
    machine = await make_machine()
    for actor in (anonymous(), machine_actor(machine.id)):
        with pytest.raises(Unauthenticated):
            await visible_ids(actor)
        with pytest.raises(Unauthenticated):
            await visible_scope(actor)
        with pytest.raises(Unauthenticated):
            await visible_machine(actor, machine.id)
        with pytest.raises(Unauthenticated):
            await list_machines(actor, PageRequest(), MachineFilter())
        assert await machines_by_id(actor, [machine.id]) == {}


async def test_a_token_reads_with_its_scope_only(admin: Actor) -> None:
    machine, alice = await make_machine(), await make_tenant()
    await grant_machine(admin, machine.id, user_id=alice.user_id, workspace_id=None)
    token, _ = await create_api_token(alice, "ci", frozenset({Scope.READ}), None)
    assert await visible_ids(await authenticate(token)) == {machine.id}
    token, _ = await create_api_token(admin, "ci", frozenset({Scope.READ}), None)
    assert await visible_ids(await authenticate(token)) == {machine.id}

    scopeless = Actor(alice.kind, id=alice.id, user_id=alice.user_id, role=alice.role)
    with pytest.raises(Forbidden):
        await visible_ids(scopeless)


async def test_a_removed_gpu_is_not_shown(admin: Actor) -> None:
    machine, epoch = await make_online()
    await apply_inventory(machine.id, epoch, inventory(gpu("GPU-1")))
    card = await Gpu.get()
    await apply_inventory(machine.id, epoch, inventory())
    assert await visible_gpus(admin, [card.id]) == {}
