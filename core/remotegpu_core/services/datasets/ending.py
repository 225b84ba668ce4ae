"""How mounts end, each within the caller's `ledger` of their machine."""

import uuid
from typing import Final

from remotegpu_core.clock import now_ms
from remotegpu_core.models import Allocation, Command, Mount, Operation
from remotegpu_core.services import commands, operations
from remotegpu_core.states import CommandState, MountState, OperationState, StepState, sources_of
from remotegpu_protocol.kinds import DATASET_MOUNT, DATASET_UNMOUNT, CommandKind, DatasetUnmount

#: Kinds of operation, and the step of each.
MOUNT: Final = "mountDataset"
MOUNT_STEP: Final = "mount"
UNMOUNT: Final = "unmountDataset"
UNMOUNT_STEP: Final = "unmount"

#: What is not over: the host has it, or may have.
LIVE: Final = (MountState.PENDING, MountState.MOUNTED, MountState.UNMOUNTING)

#: A host that is away unmounts when it is back, however late.
_UNMOUNT_WITHIN: Final = 10 * 366 * 86_400_000

_NEVER_SENT: Final = ("CANCELLED", "It was called off before its host was told.")


async def unmount_now(
    mount: Mount, allocation: Allocation, *, error: tuple[str, str] | None = None
) -> Operation:
    """Have the host take a mount away. `error`: why, where nobody asked for it: code and message.

    Why it was still there before is over with that. Returns the operation that ends when it is gone.
    """
    operation = await operations.begin(
        UNMOUNT,
        (UNMOUNT_STEP,),
        user_id=allocation.user_id,
        workspace_id=allocation.workspace_id,
        machine_id=mount.machine_id,
        allocation_id=allocation.id,
    )
    await Mount.filter(id=mount.id).update(error_code=None, error_message=None)
    if mount.state is MountState.PENDING and await _withdraw(mount):
        await move(mount, MountState.UNMOUNTED, error=error, operation_id=operation.id)
        await end_operation(operation.id, UNMOUNT_STEP, OperationState.SUCCEEDED)
        return operation
    await move(mount, MountState.UNMOUNTING, error=error, operation_id=operation.id)
    await enqueue(
        DATASET_UNMOUNT,
        DatasetUnmount(str(mount.id), str(allocation.id)),
        allocation,
        deadline=now_ms() + _UNMOUNT_WITHIN,
        operation_id=operation.id,
    )
    return operation


async def reclaiming(allocation_id: uuid.UUID, operation_id: uuid.UUID) -> None:
    """The allocation is over: its host unmounts everything of it as a part of its cleaning, which
    is the operation."""
    open_ones = [MountState.PENDING, MountState.MOUNTED]
    for mount in await Mount.filter(allocation_id=allocation_id, state__in=open_ones):
        if mount.state is MountState.PENDING and await _withdraw(mount):
            await move(mount, MountState.UNMOUNTED)
        else:
            await move(mount, MountState.UNMOUNTING, operation_id=operation_id)


async def reclaimed(allocation_id: uuid.UUID) -> None:
    """What the allocation held is settled, by a proof or on an admin's word."""
    await Mount.filter(allocation_id=allocation_id, state__in=list(LIVE)).update(
        state=MountState.UNMOUNTED, ended_at=now_ms()
    )


async def move(
    mount: Mount,
    to: MountState,
    *,
    error: tuple[str, str] | None = None,
    operation_id: uuid.UUID | None = None,
) -> bool:
    """Change the state where the table of states allows it, for `mount` too. False where not."""
    now = now_ms()
    values: dict[str, object] = {"state": to}
    if to is MountState.MOUNTED and mount.mounted_at is None:
        values["mounted_at"] = now
    if to is MountState.UNMOUNTING:
        values["unmount_at"] = now
    if to not in LIVE:
        values["ended_at"] = now
    if error is not None:
        values |= {"error_code": error[0][:64], "error_message": error[1][:2000]}
    if operation_id is not None:
        values["operation_id"] = operation_id
    moved = await Mount.filter(id=mount.id, state__in=list(sources_of(to))).update(**values)
    if moved:
        mount.update_from_dict(values)
    return bool(moved)


async def enqueue(
    kind: CommandKind,
    arguments: object,
    allocation: Allocation,
    *,
    deadline: int,
    operation_id: uuid.UUID,
) -> None:
    """Tell the allocation's host, after everything that it was told before."""
    assert allocation.machine_id is not None  # noqa: S101 - what is mounted is on a machine
    allocation.generation += 1
    await allocation.save(update_fields=["generation"])
    await commands.enqueue(
        kind,
        arguments,  # type: ignore[arg-type]  # of the kind's own type
        machine_id=allocation.machine_id,
        deadline=deadline,
        allocation_id=allocation.id,
        generation=allocation.generation,
        operation_id=operation_id,
    )


async def end_operation(
    operation_id: uuid.UUID | None,
    step: str,
    state: OperationState,
    *,
    error: tuple[str, str] | None = None,
) -> None:
    """End an operation with its one step."""
    if operation_id is None:
        return
    end = StepState.SUCCEEDED if state is OperationState.SUCCEEDED else StepState.FAILED
    await operations.advance(operation_id, step, end, error=error)
    await operations.finish(operation_id, state, error=error)


async def _withdraw(mount: Mount) -> bool:
    """Call back the command that mounts it. True when its host has not seen it."""
    waiting = Command.filter(
        allocation_id=mount.allocation_id, kind=DATASET_MOUNT.name, state=CommandState.QUEUED
    )
    for command in await waiting:
        if command.arguments["mount_id"] != str(mount.id):
            continue
        # A dispatcher may be about to send it: it asks nobody here.
        if await commands.move(command.id, CommandState.CANCELLED, unsent=True):
            await end_operation(
                command.operation_id, MOUNT_STEP, OperationState.CANCELLED, error=_NEVER_SENT
            )
            return True
    return False
