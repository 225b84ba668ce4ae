"""What each role may do in its workspace: one table, which the documentation shows."""

import uuid
from enum import StrEnum
from typing import Final

from remotegpu_core.actor import Actor
from remotegpu_core.errors import Forbidden, NotFound
from remotegpu_core.models import Membership, WorkspaceRole


class Right(StrEnum):
    """Something that can be done in a workspace."""

    SEE = "SEE"
    ALLOCATE = "ALLOCATE"
    MANAGE_ALLOCATIONS = "MANAGE_ALLOCATIONS"
    SHARE_DATASETS = "SHARE_DATASETS"
    MANAGE_MEMBERS = "MANAGE_MEMBERS"
    MANAGE_OWNERS = "MANAGE_OWNERS"
    RENAME = "RENAME"


#: In words, for people.
MEANINGS: Final[dict[Right, str]] = {
    Right.SEE: "See the workspace, its members, its machines, and what is allocated in it.",
    Right.ALLOCATE: "Allocate machines to oneself, within one's own quota and the workspace's.",
    Right.MANAGE_ALLOCATIONS: "Allocate to members; extend and release what members have.",
    Right.SHARE_DATASETS: "Share one's own datasets with the workspace; withdraw any from it.",
    Right.MANAGE_MEMBERS: "Add, change and remove members and viewers.",
    Right.MANAGE_OWNERS: "Add, change and remove owners and admins.",
    Right.RENAME: "Give the workspace another name.",
}

RIGHTS: Final[dict[WorkspaceRole, frozenset[Right]]] = {
    WorkspaceRole.VIEWER: frozenset({Right.SEE}),
    WorkspaceRole.MEMBER: frozenset({Right.SEE, Right.ALLOCATE}),
    WorkspaceRole.ADMIN: frozenset(
        {
            *(Right.SEE, Right.ALLOCATE, Right.MANAGE_ALLOCATIONS),
            *(Right.SHARE_DATASETS, Right.MANAGE_MEMBERS),
        }
    ),
    WorkspaceRole.OWNER: frozenset(Right),
}


async def require(
    actor: Actor, workspace_id: uuid.UUID, right: Right, *, field: str = "workspaceId"
) -> WorkspaceRole | None:
    """The caller's role in the workspace; None for admins of the system, who have every right.

    Raises:
        NotFound: they are no member, so that it does not exist for them.
        Forbidden: their role lacks the right.
    """
    if actor.is_admin:
        return None
    role = await role_of(actor, workspace_id)
    if role is None:
        raise NotFound("There is no such workspace.", field=field)
    if right not in RIGHTS[role]:
        able = " or ".join(each for each, rights in RIGHTS.items() if right in rights)
        raise Forbidden(f"Your role in this workspace is {role}; this takes {able}.", field=field)
    return role


async def role_of(actor: Actor, workspace_id: uuid.UUID) -> WorkspaceRole | None:
    """The caller's role in a workspace, None when they are no member."""
    member = await Membership.get_or_none(workspace_id=workspace_id, user_id=actor.require_user())
    return None if member is None else WorkspaceRole(member.role)


async def workspaces_with(actor: Actor, right: Right) -> list[uuid.UUID]:
    """Workspaces in which the caller's role has the right."""
    able = [role for role, rights in RIGHTS.items() if right in rights]
    found = await Membership.filter(user_id=actor.require_user(), role__in=able).values_list(
        "workspace_id", flat=True
    )
    return list(found)  # type: ignore[arg-type]  # Tortoise types a flat list as tuples
