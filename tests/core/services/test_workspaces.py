import asyncio
import uuid

import pytest

from remotegpu_core.actor import Actor, anonymous
from remotegpu_core.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from remotegpu_core.models import Membership, Version, Workspace, WorkspaceRole
from remotegpu_core.paging import PageRequest
from remotegpu_core.services.workspaces import (
    create_workspace,
    list_workspaces,
    members_of,
    remove_member,
    set_member,
    visible_workspaces,
)
from remotegpu_core.versions import Topic
from tests.core.people import make_tenant, make_user

pytestmark = pytest.mark.usefixtures("database")


async def access() -> int:
    version = await Version.get(name=Topic.ACCESS)
    return int(version.value)


async def test_a_name_is_taken_in_any_case(admin: Actor) -> None:
    workspace = await create_workspace(admin, "Vision Lab")
    assert (workspace.name, workspace.name_key) == ("Vision Lab", "vision lab")
    with pytest.raises(Conflict, match="Vision lab") as caught:
        await create_workspace(admin, "Vision lab")
    assert caught.value.field == ["name"]


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x00b", " a", "x" * 65, "\ud800", "İ" * 64])
async def test_names_that_cannot_be(admin: Actor, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await create_workspace(admin, name)
    assert caught.value.field == ["name"]


async def test_members_come_change_and_go(admin: Actor) -> None:
    workspace, user = await create_workspace(admin, "lab"), await make_user()
    before = await access()
    await set_member(admin, workspace.id, user.id, WorkspaceRole.MEMBER)
    await set_member(admin, workspace.id, user.id, WorkspaceRole.OWNER)
    members = (await members_of([workspace.id]))[workspace.id]
    assert [(member.user.id, member.role) for member in members] == [(user.id, WorkspaceRole.OWNER)]

    await remove_member(admin, workspace.id, user.id)
    assert await members_of([workspace.id]) == {workspace.id: []}
    with pytest.raises(NotFound) as caught:
        await remove_member(admin, workspace.id, user.id)
    assert caught.value.field == ["userId"]
    assert await access() == before + 3


async def test_one_membership_however_many_set_it_at_once(admin: Actor) -> None:
    workspace, user = await create_workspace(admin, "lab"), await make_user()
    await asyncio.gather(
        *(set_member(admin, workspace.id, user.id, role) for role in WorkspaceRole)
    )
    assert await Membership.all().count() == 1


async def test_what_is_not_there(admin: Actor) -> None:
    workspace, user = await create_workspace(admin, "lab"), await make_user()
    for ids, field in (
        ((uuid.uuid4(), user.id), "workspaceId"),
        ((workspace.id, uuid.uuid4()), "userId"),
    ):
        with pytest.raises(NotFound) as caught:
            await set_member(admin, *ids, WorkspaceRole.MEMBER)
        assert caught.value.field == [field]


async def test_only_admins_manage_workspaces(admin: Actor) -> None:
    workspace = await create_workspace(admin, "lab")
    alice = await make_tenant()
    assert alice.user_id is not None
    await set_member(admin, workspace.id, alice.user_id, WorkspaceRole.MEMBER)
    before = await access()
    for actor, refusal in ((alice, Forbidden), (anonymous(), Unauthenticated)):
        expected: type[Exception] = refusal
        with pytest.raises(expected):
            await create_workspace(actor, "another")
        with pytest.raises(expected):
            await set_member(actor, workspace.id, alice.user_id, WorkspaceRole.ADMIN)
    with pytest.raises(Unauthenticated):
        await remove_member(anonymous(), workspace.id, alice.user_id)
    assert await access() == before
    assert await Workspace.all().count() == 1
    assert (await Membership.get()).role is WorkspaceRole.MEMBER


async def test_members_see_their_own(admin: Actor) -> None:
    ours, theirs = (
        await create_workspace(admin, "b ours"),
        await create_workspace(admin, "a theirs"),
    )
    alice = await make_tenant()
    assert alice.user_id is not None
    await set_member(admin, ours.id, alice.user_id, WorkspaceRole.VIEWER)
    for number in range(3):
        await set_member(admin, ours.id, (await make_user()).id, list(WorkspaceRole)[number])

    ids = [ours.id, theirs.id, uuid.uuid4()]
    assert set(await visible_workspaces(alice, ids)) == {ours.id}
    assert set(await visible_workspaces(admin, ids)) == {ours.id, theirs.id}
    assert await visible_workspaces(await make_tenant(), ids) == {}
    assert await visible_workspaces(anonymous(), ids) == {}

    page = await list_workspaces(alice, PageRequest())
    assert [row.id for row in page.rows] == [ours.id]
    assert await page.count() == 1
    page = await list_workspaces(admin, PageRequest())
    assert [row.id for row in page.rows] == [theirs.id, ours.id]
    with pytest.raises(Unauthenticated):
        await list_workspaces(anonymous(), PageRequest())
