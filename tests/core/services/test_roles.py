"""What each role may do in its workspace, tried for each role and each thing."""

import uuid

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.errors import Conflict, Forbidden, InvalidInput, NotFound, RemoteGPUError
from remotegpu_core.models import Membership, Workspace, WorkspaceRole
from remotegpu_core.services import workspaces
from remotegpu_core.services.roles import (
    MEANINGS,
    RIGHTS,
    Right,
    require,
    role_of,
    workspaces_with,
)
from tests.core.people import make_tenant, make_user

VIEWER, MEMBER, ADMIN, OWNER = (
    WorkspaceRole.VIEWER,
    WorkspaceRole.MEMBER,
    WorkspaceRole.ADMIN,
    WorkspaceRole.OWNER,
)


async def member(admin: Actor, workspace: Workspace, role: WorkspaceRole) -> Actor:
    actor = await make_tenant()
    await workspaces.set_member(admin, workspace.id, actor.require_user(), role)
    return actor


async def role(workspace: Workspace, user_id: uuid.UUID) -> WorkspaceRole | None:
    found = await Membership.get_or_none(workspace_id=workspace.id, user_id=user_id)
    return None if found is None else WorkspaceRole(found.role)


def test_each_role_has_the_rights_of_the_ones_below() -> None:
    assert RIGHTS[VIEWER] < RIGHTS[MEMBER] < RIGHTS[ADMIN] < RIGHTS[OWNER] == frozenset(Right)
    assert set(MEANINGS) == set(Right)
    assert set(RIGHTS) == set(WorkspaceRole)


async def test_require_follows_the_table(admin: Actor) -> None:
    lab = await workspaces.create_workspace(admin, "lab")
    stranger = await make_tenant()
    for holds in WorkspaceRole:
        actor = await member(admin, lab, holds)
        assert await role_of(actor, lab.id) is holds
        for right in Right:
            assert (lab.id in await workspaces_with(actor, right)) == (right in RIGHTS[holds])
            if right in RIGHTS[holds]:
                assert await require(actor, lab.id, right) is holds
                continue
            with pytest.raises(Forbidden, match=holds) as refused:
                await require(actor, lab.id, right)
            assert refused.value.field == ["workspaceId"]
    for right in Right:
        assert await require(admin, lab.id, right) is None
        with pytest.raises(NotFound):
            await require(stranger, lab.id, right)


@pytest.mark.parametrize("holds", WorkspaceRole)
async def test_who_may_set_and_remove_whom(admin: Actor, holds: WorkspaceRole) -> None:
    lab = await workspaces.create_workspace(admin, "lab")
    await member(admin, lab, OWNER)
    actor = await member(admin, lab, holds)
    reach = {OWNER: set(WorkspaceRole), ADMIN: {VIEWER, MEMBER}}.get(holds, set())
    for has in (None, *WorkspaceRole):
        for gets in (None, *WorkspaceRole):
            if has is gets is None:
                continue
            user = await make_user()
            if has is not None:
                await workspaces.set_member(admin, lab.id, user.id, has)
            allowed = {has, gets} - {None} <= reach
            try:
                if gets is None:
                    await workspaces.remove_member(actor, lab.id, user.id)
                else:
                    await workspaces.set_member(actor, lab.id, user.id, gets)
            except Forbidden:
                assert not allowed, (has, gets)
                assert await role(lab, user.id) is has
            else:
                assert allowed, (has, gets)
                assert await role(lab, user.id) is gets


async def test_a_workspace_keeps_an_owner(admin: Actor) -> None:
    lab = await workspaces.create_workspace(admin, "lab")
    owner = await member(admin, lab, OWNER)
    owner_id = owner.require_user()
    for attempt in (
        workspaces.remove_member(owner, lab.id, owner_id),
        workspaces.set_member(owner, lab.id, owner_id, MEMBER),
    ):
        with pytest.raises(Conflict, match="keeps an owner"):
            await attempt
    other = await member(admin, lab, OWNER)
    await workspaces.remove_member(owner, lab.id, owner_id)
    assert await role(lab, owner_id) is None
    # An admin of the system may leave it without one.
    await workspaces.remove_member(admin, lab.id, other.require_user())
    assert not await Membership.exists(workspace_id=lab.id)


async def test_everybody_may_leave(admin: Actor) -> None:
    lab = await workspaces.create_workspace(admin, "lab")
    for holds in (VIEWER, MEMBER, ADMIN):
        actor = await member(admin, lab, holds)
        await workspaces.remove_member(actor, lab.id, actor.require_user())
        assert await role(lab, actor.require_user()) is None
        with pytest.raises(NotFound):
            await workspaces.remove_member(actor, lab.id, actor.require_user())


async def test_members_are_named_by_id_or_by_name(admin: Actor) -> None:
    lab = await workspaces.create_workspace(admin, "lab")
    owner = await member(admin, lab, OWNER)
    user = await make_user("Grace")
    await workspaces.set_member(owner, lab.id, None, MEMBER, username="gRACE")
    assert await role(lab, user.id) is MEMBER
    wrong: list[tuple[uuid.UUID | None, str | None, type[RemoteGPUError], str]] = [
        (None, None, InvalidInput, "userId"),
        (user.id, "Grace", InvalidInput, "userId"),
        (None, "nobody", NotFound, "username"),
        (None, "no\0body", NotFound, "username"),
        (uuid.uuid4(), None, NotFound, "userId"),
    ]
    for user_id, username, error, field in wrong:
        with pytest.raises(error) as refused:
            await workspaces.set_member(owner, lab.id, user_id, MEMBER, username=username)
        assert refused.value.field == [field]


async def test_an_owner_renames(admin: Actor) -> None:
    lab, other = [await workspaces.create_workspace(admin, name) for name in ("lab", "other")]
    owner = await member(admin, lab, OWNER)
    renamed = await workspaces.rename_workspace(owner, lab.id, "Lab of Ada")
    assert (renamed.name, (await Workspace.get(id=lab.id)).name_key) == ("Lab of Ada", "lab of ada")
    with pytest.raises(Conflict):
        await workspaces.rename_workspace(owner, lab.id, "OTHER")
    with pytest.raises(InvalidInput):
        await workspaces.rename_workspace(owner, lab.id, "")
    with pytest.raises(NotFound):
        await workspaces.rename_workspace(owner, other.id, "mine")
    with pytest.raises(Forbidden):
        await workspaces.rename_workspace(await member(admin, lab, ADMIN), lab.id, "mine")
