"""Grants: who besides the admins sees and watches which machine."""

import uuid
from typing import Any

from tortoise.exceptions import IntegrityError

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import NotFound, check_one_of
from remotegpu_core.models import Machine, MachineGrant, User, Workspace
from remotegpu_core.services import audit
from remotegpu_core.services.access import visible_machine
from remotegpu_core.services.changes import ChangeKind, record_change
from remotegpu_core.versions import Topic, bump


async def grant_machine(
    actor: Actor,
    machine_id: uuid.UUID,
    *,
    user_id: uuid.UUID | None,
    workspace_id: uuid.UUID | None,
) -> Machine:
    """Let a user or a workspace see a machine; admins only. Granting twice changes nothing.

    Raises:
        InvalidInput: not exactly one of user and workspace.
        NotFound: the machine, user or workspace does not exist.
    """
    machine, subject = await _check(actor, machine_id, user_id, workspace_id)
    async with transaction():
        granted = await _grant(machine_id, subject)
        await _record(actor, "grantMachine", machine, subject, changed=granted)
    return machine


async def revoke_machine_grant(
    actor: Actor,
    machine_id: uuid.UUID,
    *,
    user_id: uuid.UUID | None,
    workspace_id: uuid.UUID | None,
) -> Machine:
    """Take a grant back; admins only. Raises like `grant_machine`; NotFound without such a grant."""
    machine, subject = await _check(actor, machine_id, user_id, workspace_id)
    async with transaction():
        removed = await MachineGrant.filter(machine_id=machine_id, **subject).delete()
        if not removed:
            raise NotFound(
                "There is no such grant on this machine.",
                field="userId" if user_id else "workspaceId",
            )
        await _record(actor, "revokeMachineGrant", machine, subject, changed=True)
    return machine


async def _check(
    actor: Actor, machine_id: uuid.UUID, user_id: uuid.UUID | None, workspace_id: uuid.UUID | None
) -> tuple[Machine, dict[str, Any]]:
    actor.require_admin()
    check_one_of(("userId", user_id), ("workspaceId", workspace_id))
    machine = await visible_machine(actor, machine_id, field="machineId")
    if user_id is not None:
        if not await User.exists(id=user_id):
            raise NotFound("There is no such user.", field="userId")
        return machine, {"user_id": user_id}
    assert workspace_id is not None  # noqa: S101 - for the type checkers, checked above
    if not await Workspace.exists(id=workspace_id):
        raise NotFound("There is no such workspace.", field="workspaceId")
    return machine, {"workspace_id": workspace_id}


async def _grant(machine_id: uuid.UUID, subject: dict[str, Any]) -> bool:
    """Whether the grant is new; somebody else may give it at this very moment."""
    if await MachineGrant.exists(machine_id=machine_id, **subject):
        return False
    try:
        async with transaction():
            await MachineGrant.create(machine_id=machine_id, created_at=now_ms(), **subject)
    except IntegrityError:
        return False
    return True


async def _record(
    actor: Actor, action: str, machine: Machine, subject: dict[str, Any], *, changed: bool
) -> None:
    await audit.record(
        actor,
        action,
        target=("Machine", machine.id),
        details={
            "machine": machine.name,
            **{key: str(value) for key, value in subject.items()},
            "changed": audit.yes_or_no(changed),
        },
    )
    if changed:
        await record_change(machine.id, ChangeKind.ACCESS_CHANGED)
        await bump(Topic.ACCESS)
