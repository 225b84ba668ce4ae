"""What follows from a host's answers to `dataset.mount` and `dataset.unmount`.

Called like everything in `services.allocations.outcomes`: within the ledger of the machine.
"""

import uuid

from remotegpu_core.models import Allocation, Command, Dataset, Mount
from remotegpu_core.services import commands
from remotegpu_core.services.datasets.ending import (
    MOUNT_STEP,
    UNMOUNT_STEP,
    end_operation,
    move,
    unmount_now,
)
from remotegpu_core.states import AllocationState, CommandState, MountState, OperationState
from remotegpu_protocol.datasets import SourceKind, nfs_parts, s3_parts
from remotegpu_protocol.grammar import clean_text


async def mounted(command: Command, allocation: Allocation) -> None:
    """It is there, or it is not; where nobody can tell it is taken away."""
    mount = await _of(command)
    if command.state is CommandState.SUCCEEDED:
        if mount is not None and mount.state is MountState.PENDING:
            await move(mount, MountState.MOUNTED)
        await end_operation(command.operation_id, MOUNT_STEP, OperationState.SUCCEEDED)
        return
    error = await _error(command, mount)
    if mount is not None and mount.state is MountState.PENDING:
        unknown = command.state is CommandState.INDETERMINATE
        if unknown and allocation.state is AllocationState.ACTIVE:
            await unmount_now(mount, allocation, error=error)
        elif not unknown:
            await move(mount, MountState.FAILED, error=error)
    await end_operation(command.operation_id, MOUNT_STEP, _ended(command), error=error)


async def unmounted(command: Command, allocation: Allocation) -> None:
    """It is gone, or it is still there."""
    mount = await _of(command)
    if command.state is CommandState.SUCCEEDED:
        if mount is not None:
            await move(mount, MountState.UNMOUNTED)
        await end_operation(command.operation_id, UNMOUNT_STEP, OperationState.SUCCEEDED)
        return
    error = await _error(command, mount)
    # Of an allocation that is over, its cleaning takes it away.
    if mount is not None and allocation.state is AllocationState.ACTIVE:
        await move(mount, MountState.MOUNTED, error=error)
    await end_operation(command.operation_id, UNMOUNT_STEP, _ended(command), error=error)


def _ended(command: Command) -> OperationState:
    match command.state:
        case CommandState.INDETERMINATE:
            return OperationState.INDETERMINATE
        case CommandState.CANCELLED:
            return OperationState.CANCELLED
        case _:
            return OperationState.FAILED


async def _of(command: Command) -> Mount | None:
    return await Mount.get_or_none(id=uuid.UUID(command.arguments["mount_id"]))


async def _error(command: Command, mount: Mount | None) -> tuple[str, str]:
    code, message = commands.reason_of(command)
    dataset = None if mount is None else await Dataset.get_or_none(id=mount.dataset_id)
    return code, message if dataset is None else without_source(message, dataset)


def without_source(message: str, dataset: Dataset) -> str:
    """A host's words without the place: who may read a dataset does not learn where it lies."""
    parts = [dataset.location, dataset.endpoint or ""]
    if dataset.kind is SourceKind.NFS:
        parts += nfs_parts(dataset.location)
    elif dataset.kind is SourceKind.S3:
        parts += s3_parts(dataset.location)
    if dataset.endpoint is not None:
        parts.append(dataset.endpoint.partition("//")[2])
    for part in sorted(filter(None, parts), key=len, reverse=True):
        message = message.replace(part, "…")
    return clean_text(message, 2000)
