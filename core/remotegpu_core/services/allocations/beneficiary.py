"""Who may have what: whose an allocation becomes, and which machines it may be on."""

import uuid
from dataclasses import dataclass

from tortoise.queryset import QuerySet

from remotegpu_core.actor import Actor, Scope
from remotegpu_core.errors import Forbidden, NotFound
from remotegpu_core.models import Allocation, Machine, Membership, User, Workspace, WorkspaceRole
from remotegpu_core.services import roles
from remotegpu_core.services.access import visible_machine
from remotegpu_core.services.allocations.capacity import granted_machines
from remotegpu_core.services.allocations.request import AllocateRequest
from remotegpu_core.services.roles import RIGHTS, Right


@dataclass(frozen=True, slots=True)
class Beneficiary:
    """Whose it is. `bound`: grants and quotas bind, as they do for everybody but admins."""

    user: User
    workspace_id: uuid.UUID | None
    bound: bool

    def machines(self) -> QuerySet[Machine]:
        """Machines that they may have."""
        return granted_machines(self.user.id) if self.bound else Machine.all()


async def beneficiary_of(actor: Actor, request: AllocateRequest) -> Beneficiary:
    """Who gets what `actor` asks for, if they may ask for it.

    Admins ask for anybody; everybody else for themself, and for members of a workspace in which
    their role lets them.

    Raises:
        NotFound: no such user, workspace or machine, or not for this caller.
        Forbidden: their role in the workspace does not reach so far, the user is disabled, or the
            machine is one that they see without having been granted it.
    """
    workspace_id = request.workspace_id
    user_id = request.user_id or actor.require_user()
    for_another = user_id != actor.user_id
    if workspace_id is not None:
        right = Right.MANAGE_ALLOCATIONS if for_another else Right.ALLOCATE
        await roles.require(actor, workspace_id, right)
        if not await Workspace.exists(id=workspace_id):
            raise NotFound("There is no such workspace.", field="workspaceId")
        await _require_member(actor, workspace_id, user_id, for_another)
    elif for_another and not actor.is_admin:
        raise NotFound("There is no such user.", field="userId")
    user = await User.get_or_none(id=user_id)
    if user is None:
        raise NotFound("There is no such user.", field="userId")
    if user.disabled_at is not None:
        raise Forbidden("This user is disabled.", field="userId")
    found = Beneficiary(user, workspace_id, bound=not actor.is_admin)
    if request.machine_id is not None:
        await visible_machine(actor, request.machine_id, field="machineId")
        if not await found.machines().filter(id=request.machine_id).exists():
            raise Forbidden(
                "This machine is not granted to you: you have only what is allocated to you on it."
                if not for_another
                else "This machine is not granted to them, nor to a workspace of theirs.",
                field="machineId",
            )
    return found


async def manageable(actor: Actor, allocation: Allocation, *, field: str = "id") -> None:
    """Whether `actor` may extend and release an allocation that they see.

    Raises:
        Forbidden: it is somebody else's, and their role in its workspace does not reach so far.
    """
    actor.require_scope(Scope.WRITE)
    if actor.is_admin or allocation.user_id == actor.user_id:
        return
    if allocation.workspace_id is None:
        raise Forbidden("This allocation is somebody else's.", field=field)
    await roles.require(actor, allocation.workspace_id, Right.MANAGE_ALLOCATIONS, field=field)


async def _require_member(
    actor: Actor, workspace_id: uuid.UUID, user_id: uuid.UUID, for_another: bool
) -> None:
    member = await Membership.get_or_none(workspace_id=workspace_id, user_id=user_id)
    if member is None and not for_another and actor.is_admin:
        # An admin of the system acts in any workspace.
        return
    if member is None:
        raise NotFound("The workspace has no such member.", field="userId")
    role = WorkspaceRole(member.role)
    if Right.ALLOCATE not in RIGHTS[role]:
        raise Forbidden(f"Their role in this workspace is {role}, who only sees.", field="userId")
