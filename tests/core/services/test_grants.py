import asyncio
import uuid

import pytest

from remotegpu_core.actor import Actor, anonymous
from remotegpu_core.errors import Forbidden, InvalidInput, NotFound, Unauthenticated
from remotegpu_core.models import MachineChange, MachineGrant, Version
from remotegpu_core.services.access import visible_ids
from remotegpu_core.services.grants import grant_machine, revoke_machine_grant
from remotegpu_core.services.workspaces import create_workspace
from remotegpu_core.versions import Topic
from tests.core.hosts import make_machine
from tests.core.people import make_tenant, make_user

pytestmark = pytest.mark.usefixtures("database")


async def access() -> int:
    version = await Version.get(name=Topic.ACCESS)
    return int(version.value)


async def test_a_grant_opens_a_machine_and_its_end_closes_it(admin: Actor) -> None:
    machine, alice = await make_machine(), await make_tenant()
    assert await visible_ids(alice) == set()
    before = await access()
    granted = await grant_machine(admin, machine.id, user_id=alice.user_id, workspace_id=None)
    assert granted.id == machine.id
    assert await visible_ids(alice) == {machine.id}
    await revoke_machine_grant(admin, machine.id, user_id=alice.user_id, workspace_id=None)
    assert await visible_ids(alice) == set()
    assert await access() == before + 2
    assert [row.kind for row in await MachineChange.all().order_by("sequence")] == [
        "ACCESS_CHANGED",
        "ACCESS_CHANGED",
    ]


async def test_granting_again_changes_nothing(admin: Actor) -> None:
    machine, user = await make_machine(), await make_user()
    for _ in range(3):
        await grant_machine(admin, machine.id, user_id=user.id, workspace_id=None)
    assert await MachineGrant.all().count() == 1
    assert await access() == 1


async def test_many_that_grant_at_once_grant_once(admin: Actor) -> None:
    machine, user = await make_machine(), await make_user()
    await asyncio.gather(
        *(grant_machine(admin, machine.id, user_id=user.id, workspace_id=None) for _ in range(8))
    )
    assert await MachineGrant.all().count() == 1
    assert await access() == 1


async def test_a_grant_is_to_a_user_or_to_a_workspace(admin: Actor) -> None:
    machine, user = await make_machine(), await make_user()
    workspace = await create_workspace(admin, "lab")
    for change in (grant_machine, revoke_machine_grant):
        for user_id, workspace_id in ((None, None), (user.id, workspace.id)):
            with pytest.raises(InvalidInput, match="either userId or workspaceId"):
                await change(admin, machine.id, user_id=user_id, workspace_id=workspace_id)
    assert await MachineGrant.all().count() == 0


async def test_what_is_not_there_is_named(admin: Actor) -> None:
    machine, user = await make_machine(), await make_user()
    nobody = uuid.uuid4()
    for machine_id, user_id, workspace_id, field in (
        (nobody, user.id, None, "machineId"),
        (machine.id, nobody, None, "userId"),
        (machine.id, None, nobody, "workspaceId"),
    ):
        for change in (grant_machine, revoke_machine_grant):
            with pytest.raises(NotFound) as caught:
                await change(admin, machine_id, user_id=user_id, workspace_id=workspace_id)
            assert caught.value.field == [field]


async def test_there_is_nothing_to_take_back(admin: Actor) -> None:
    machine, user = await make_machine(), await make_user()
    workspace = await create_workspace(admin, "lab")
    with pytest.raises(NotFound, match="no such grant") as caught:
        await revoke_machine_grant(admin, machine.id, user_id=user.id, workspace_id=None)
    assert caught.value.field == ["userId"]
    with pytest.raises(NotFound, match="no such grant") as caught:
        await revoke_machine_grant(admin, machine.id, user_id=None, workspace_id=workspace.id)
    assert caught.value.field == ["workspaceId"]
    assert await access() == 0


async def test_only_admins_grant(admin: Actor) -> None:
    machine, alice = await make_machine(), await make_tenant()
    await grant_machine(admin, machine.id, user_id=alice.user_id, workspace_id=None)
    for actor, refusal in ((alice, Forbidden), (anonymous(), Unauthenticated)):
        expected: type[Exception] = refusal
        for change in (grant_machine, revoke_machine_grant):
            with pytest.raises(expected):
                await change(actor, machine.id, user_id=alice.user_id, workspace_id=None)
    assert await MachineGrant.all().count() == 1
