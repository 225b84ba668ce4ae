"""Workspaces and their members."""

import uuid

from tortoise.exceptions import IntegrityError

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import Conflict, InvalidInput, NotFound
from remotegpu_core.models import Membership, User, Workspace, WorkspaceRole
from remotegpu_core.paging import Order, Page, PageRequest, fetch_page
from remotegpu_core.services import audit
from remotegpu_core.versions import Topic, bump
from remotegpu_protocol.grammar import clean_text

_BY_NAME = Order("name_key")


async def create_workspace(actor: Actor, name: str) -> Workspace:
    """Add a workspace; admins only.

    Raises:
        InvalidInput: the name is empty, too long or holds control characters.
        Conflict: it is taken.
    """
    actor.require_admin()
    # In lower case some names are longer.
    if not name or name != clean_text(name, 64) or len(name.lower()) > 64:
        raise InvalidInput("A workspace's name has 1 to 64 printable characters.", field="name")
    try:
        async with transaction():
            workspace = await Workspace.create(
                name=name, name_key=name.lower(), created_at=now_ms()
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


async def set_member(
    actor: Actor, workspace_id: uuid.UUID, user_id: uuid.UUID, role: WorkspaceRole
) -> Workspace:
    """Add a member or change their role; admins only.

    Raises:
        NotFound: the workspace or the user does not exist.
    """
    workspace = await _check(actor, workspace_id)
    if not await User.exists(id=user_id):
        raise NotFound("There is no such user.", field="userId")
    async with transaction():
        member, created = await Membership.get_or_create(
            workspace_id=workspace_id,
            user_id=user_id,
            defaults={"role": role, "created_at": now_ms()},
        )
        if not created:
            await Membership.filter(id=member.id).update(role=role)
        await _record(actor, "setWorkspaceMember", workspace, user_id, role)
    return workspace


async def remove_member(actor: Actor, workspace_id: uuid.UUID, user_id: uuid.UUID) -> Workspace:
    """Remove a member; admins only. Raises NotFound when they are none."""
    workspace = await _check(actor, workspace_id)
    async with transaction():
        if not await Membership.filter(workspace_id=workspace_id, user_id=user_id).delete():
            raise NotFound("This user is no member of the workspace.", field="userId")
        await _record(actor, "removeWorkspaceMember", workspace, user_id, None)
    return workspace


async def list_workspaces(actor: Actor, request: PageRequest) -> Page[Workspace]:
    """Workspaces by name: all for admins, their own for everybody else."""
    query = Workspace.all()
    if not actor.is_admin:
        query = query.filter(memberships__user_id=actor.require_user())
    return await fetch_page(query, _BY_NAME, request)


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


async def _check(actor: Actor, workspace_id: uuid.UUID) -> Workspace:
    actor.require_admin()
    workspace = await Workspace.get_or_none(id=workspace_id)
    if workspace is None:
        raise NotFound("There is no such workspace.", field="workspaceId")
    return workspace


async def _record(
    actor: Actor, action: str, workspace: Workspace, user_id: uuid.UUID, role: WorkspaceRole | None
) -> None:
    details = {"workspace": workspace.name, "user_id": str(user_id)}
    if role is not None:
        details["role"] = role
    await audit.record(actor, action, target=("Workspace", workspace.id), details=details)
    await bump(Topic.ACCESS)
