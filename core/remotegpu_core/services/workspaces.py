"""Workspaces and their members."""

import uuid

from tortoise.exceptions import IntegrityError

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import Conflict, NotFound, check_one_of
from remotegpu_core.models import Membership, User, Workspace, WorkspaceRole
from remotegpu_core.paging import Order, Page, PageRequest, fetch_page
from remotegpu_core.services import audit, roles
from remotegpu_core.services.roles import Right
from remotegpu_core.texts import checked_name, name_key, storable
from remotegpu_core.versions import Topic, bump

BY_NAME = Order("name_key")


async def create_workspace(actor: Actor, name: str) -> Workspace:
    """Add a workspace; admins only.

    Raises:
        InvalidInput: the name is empty, too long or holds control characters.
        Conflict: it is taken.
    """
    actor.require_admin()
    name = checked_name(name, "A workspace")
    try:
        async with transaction():
            workspace = await Workspace.create(
                name=name, name_key=name_key(name), created_at=now_ms()
            )
            await audit.record(
                actor,
                "createWorkspace",
                target=("Workspace", workspace.id),
                details={"name": name},
            )
    except IntegrityError:
        raise Conflict(f"There is a workspace {name!r} already.", field="name") from None
    return workspace


async def rename_workspace(actor: Actor, workspace_id: uuid.UUID, name: str) -> Workspace:
    """Give a workspace another name; raises like `create_workspace`, and like `roles.require`."""
    workspace = await _for(actor, workspace_id, Right.RENAME)
    name = checked_name(name, "A workspace")
    try:
        async with transaction():
            await Workspace.filter(id=workspace.id).update(name=name, name_key=name_key(name))
            await audit.record(
                actor,
                "renameWorkspace",
                target=("Workspace", workspace.id),
                details={"from": workspace.name, "name": name},
            )
    except IntegrityError:
        raise Conflict(f"There is a workspace {name!r} already.", field="name") from None
    workspace.name, workspace.name_key = name, name_key(name)
    return workspace


async def set_member(
    actor: Actor,
    workspace_id: uuid.UUID,
    user_id: uuid.UUID | None,
    role: WorkspaceRole,
    *,
    username: str | None = None,
) -> Workspace:
    """Add a member or change their role.

    Admins of the workspace manage its members and viewers, owners everybody.

    Raises:
        NotFound: the workspace or the user does not exist, or not for the caller.
        Forbidden: the caller's role does not reach so far.
        InvalidInput: not exactly one of `user_id` and `username`.
        Conflict: the workspace would lose its last owner.
    """
    workspace = await _for(actor, workspace_id, Right.MANAGE_MEMBERS)
    user = await _user(user_id, username)
    async with transaction():
        held = await _lock(workspace_id, user.id)
        await _check_reach(actor, workspace_id, {role, held} - {None})
        if held is WorkspaceRole.OWNER and role is not WorkspaceRole.OWNER:
            await _keep_an_owner(actor, workspace_id, user.id)
        if held is None:
            await Membership.create(
                workspace_id=workspace_id, user_id=user.id, role=role, created_at=now_ms()
            )
        else:
            await Membership.filter(workspace_id=workspace_id, user_id=user.id).update(role=role)
        await _record(actor, "setWorkspaceMember", workspace, user.id, role)
    return workspace


async def remove_member(actor: Actor, workspace_id: uuid.UUID, user_id: uuid.UUID) -> Workspace:
    """Remove a member, or leave. Raises like `set_member`; NotFound when they are none."""
    leaving = actor.user_id == user_id
    workspace = await _for(actor, workspace_id, Right.SEE if leaving else Right.MANAGE_MEMBERS)
    async with transaction():
        held = await _lock(workspace_id, user_id)
        if held is None:
            raise NotFound("This user is no member of the workspace.", field="userId")
        if not leaving:
            await _check_reach(actor, workspace_id, {held})
        if held is WorkspaceRole.OWNER:
            await _keep_an_owner(actor, workspace_id, user_id)
        await Membership.filter(workspace_id=workspace_id, user_id=user_id).delete()
        await _record(actor, "removeWorkspaceMember", workspace, user_id, None)
    return workspace


async def list_workspaces(actor: Actor, request: PageRequest) -> Page[Workspace]:
    """Workspaces by name: all for admins, their own for everybody else."""
    query = Workspace.all()
    if not actor.is_admin:
        query = query.filter(memberships__user_id=actor.require_user())
    return await fetch_page(query, BY_NAME, request)


async def visible_workspaces(actor: Actor, ids: list[uuid.UUID]) -> dict[uuid.UUID, Workspace]:
    """Of `ids`, the workspaces that the caller may see."""
    if not ids or not actor.is_signed_in:
        return {}
    query = Workspace.filter(id__in=ids)
    if not actor.is_admin:
        query = query.filter(memberships__user_id=actor.user_id)
    return {row.id: row for row in await query}


async def members_of(workspace_ids: list[uuid.UUID]) -> dict[uuid.UUID, list[Membership]]:
    """Members by workspace, in the order of their joining."""
    found: dict[uuid.UUID, list[Membership]] = {workspace_id: [] for workspace_id in workspace_ids}
    members = Membership.filter(workspace_id__in=workspace_ids).select_related("user")
    for member in await members.order_by("created_at", "id"):
        found[member.workspace_id].append(member)
    return found


async def _for(actor: Actor, workspace_id: uuid.UUID, right: Right) -> Workspace:
    await roles.require(actor, workspace_id, right)
    workspace = await Workspace.get_or_none(id=workspace_id)
    if workspace is None:
        raise NotFound("There is no such workspace.", field="workspaceId")
    return workspace


async def _user(user_id: uuid.UUID | None, username: str | None) -> User:
    check_one_of(("userId", user_id), ("username", username))
    if user_id is not None:
        user = await User.get_or_none(id=user_id)
    else:
        key = name_key(username or "")
        user = await User.get_or_none(username_key=key) if storable(key, 64) else None
    if user is None:
        raise NotFound(
            "There is no such user.", field="userId" if user_id is not None else "username"
        )
    return user


async def _lock(workspace_id: uuid.UUID, user_id: uuid.UUID) -> WorkspaceRole | None:
    """The user's role, with the workspace's members held until the commit."""
    await Workspace.filter(id=workspace_id).select_for_update(no_key=True)
    member = await Membership.get_or_none(workspace_id=workspace_id, user_id=user_id)
    return None if member is None else WorkspaceRole(member.role)


async def _check_reach(
    actor: Actor, workspace_id: uuid.UUID, touched: set[WorkspaceRole | None]
) -> None:
    if touched & {WorkspaceRole.OWNER, WorkspaceRole.ADMIN}:
        await roles.require(actor, workspace_id, Right.MANAGE_OWNERS, field="role")


async def _keep_an_owner(actor: Actor, workspace_id: uuid.UUID, user_id: uuid.UUID) -> None:
    if actor.is_admin:
        return
    others = Membership.filter(workspace_id=workspace_id, role=WorkspaceRole.OWNER)
    if not await others.exclude(user_id=user_id).exists():
        raise Conflict("A workspace keeps an owner: make somebody else one first.", field="userId")


async def _record(
    actor: Actor, action: str, workspace: Workspace, user_id: uuid.UUID, role: WorkspaceRole | None
) -> None:
    details = {"workspace": workspace.name, "user_id": str(user_id)}
    if role is not None:
        details["role"] = role
    await audit.record(actor, action, target=("Workspace", workspace.id), details=details)
    await bump(Topic.ACCESS)
