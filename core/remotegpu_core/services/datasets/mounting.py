"""Mounting datasets where one computes, and unmounting them."""

import uuid
from dataclasses import dataclass
from typing import Final

from tortoise.exceptions import IntegrityError

from remotegpu_core.actor import Actor, Scope
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import Conflict, Forbidden, InvalidInput, LimitExceeded, NotFound
from remotegpu_core.models import Allocation, Dataset, Machine, Mount, Operation
from remotegpu_core.services import audit, idempotency, operations
from remotegpu_core.services.allocations.accounts import account_name, makes_accounts
from remotegpu_core.services.allocations.beneficiary import manageable
from remotegpu_core.services.allocations.capacity import absences
from remotegpu_core.services.allocations.reading import lock_allocation
from remotegpu_core.services.datasets.access import access_of, visible_dataset
from remotegpu_core.services.datasets.ending import (
    LIVE,
    MOUNT,
    MOUNT_STEP,
    enqueue,
    unmount_now,
)
from remotegpu_core.services.datasets.reading import SHOWN_MOUNTS, visible_mount
from remotegpu_core.services.idempotency import Made
from remotegpu_core.states import AllocationState, DatasetAccess, MountState
from remotegpu_protocol.datasets import SourceKind, check_mount_path
from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.kinds import DATASET_MOUNT, DATASET_UNMOUNT, DatasetMount

#: Mounts of one allocation, and on one machine.
MAX_MOUNTS: Final = 16
MAX_MACHINE_MOUNTS: Final = 128
#: Milliseconds within which a host must begin to mount.
_MOUNT_WITHIN: Final = 600_000

_TAKEN: Final = "There is a mount at this path, above or below it on the machine: take another."


@dataclass(frozen=True, slots=True)
class MountRequest:
    dataset_id: uuid.UUID
    allocation_id: uuid.UUID
    path: str
    read_only: bool = True


async def mount_dataset(
    actor: Actor, request: MountRequest, *, key: str | None = None
) -> tuple[Mount, Operation]:
    """Have an allocation's host show its account a dataset at a path.

    It rests on the access of the allocation's user, whoever asks for it.

    Raises:
        InvalidInput: a path where nothing may be mounted.
        NotFound: the dataset or the allocation is not there for the caller.
        Forbidden: the allocation is not theirs to manage, or its user may not use the dataset so.
        Conflict: the allocation is not ACTIVE, its host cannot mount this now or ever, or the path
            is taken.
        LimitExceeded: it has MAX_MOUNTS already.
        IdempotencyKeyReused: see `idempotency`.
    """
    actor.require_scope(Scope.WRITE)
    try:
        path = check_mount_path(request.path)
    except InvalidValue as error:
        raise InvalidInput(error.message, field="path") from None
    call = idempotency.call_of(
        actor,
        MOUNT,
        key,
        {
            "datasetId": str(request.dataset_id),
            "allocationId": str(request.allocation_id),
            "path": path,
            "readOnly": request.read_only,
        },
    )
    dataset = await visible_dataset(actor, request.dataset_id, field="datasetId")
    try:
        async with lock_allocation(actor, request.allocation_id, field="allocationId") as (
            allocation,
            machine,
        ):
            await manageable(actor, allocation, field="allocationId")
            made = await idempotency.recall(call)
            if made is not None:
                return await _made(made)
            await _require_access(actor, allocation, dataset, request.read_only)
            host = _require_host(allocation, machine, dataset)
            await _require_room(allocation, host, path)
            mount, operation = await _mount(actor, allocation, host, dataset, request)
            await idempotency.remember(call, Made(mount.id, operation.id))
    except IntegrityError:
        raise Conflict(_TAKEN, field="path") from None
    return mount, await Operation.get(id=operation.id)


async def unmount_dataset(
    actor: Actor, mount_id: uuid.UUID, *, key: str | None = None
) -> tuple[Mount, Operation]:
    """Have a mount taken away, whoever uses it.

    Raises:
        NotFound, Forbidden: it is not there for the caller, or of an allocation that is not theirs.
        Conflict: it is over already.
        IdempotencyKeyReused: see `idempotency`.
    """
    actor.require_scope(Scope.WRITE)
    call = idempotency.call_of(actor, "unmountDataset", key, {"id": str(mount_id)})
    mount = await visible_mount(actor, mount_id)
    async with lock_allocation(actor, mount.allocation_id) as (allocation, _machine):
        await manageable(actor, allocation)
        made = await idempotency.recall(call)
        if made is not None:
            return await _made(made)
        mount = await Mount.get(id=mount_id)
        operation = await _unmount(mount, allocation)
        await audit.record(
            actor, "unmountDataset", target=("Mount", mount.id), details={"path": mount.path}
        )
        await idempotency.remember(call, Made(mount.id, operation.id))
    return mount, await Operation.get(id=operation.id)


async def _made(made: Made) -> tuple[Mount, Operation]:
    mount = await Mount.get_or_none(id=made.object_id)
    operation = await Operation.get_or_none(id=made.operation_id)
    if mount is None or operation is None:
        raise NotFound("The mount that this key made is gone, with its dataset.", field="datasetId")
    return mount, operation


async def _require_access(
    actor: Actor, allocation: Allocation, dataset: Dataset, read_only: bool
) -> None:
    # Looked at again within the ledger, where nobody changes it any more.
    await visible_dataset(actor, dataset.id, field="datasetId")
    access = (await access_of(allocation.user_id, [dataset.id])).get(dataset.id)
    whose = "You have" if allocation.user_id == actor.user_id else "The allocation's user has"
    if access is None:
        raise Forbidden(
            f"{whose} no access to this dataset: its owner grants it.", field="datasetId"
        )
    if access is DatasetAccess.READ and not read_only:
        raise Forbidden(
            f"{whose} READ on this dataset, and readOnly: false takes WRITE.", field="readOnly"
        )


def _require_host(allocation: Allocation, machine: Machine | None, dataset: Dataset) -> Machine:
    if allocation.state is not AllocationState.ACTIVE or machine is None:
        raise Conflict(
            f"This allocation is {allocation.state}: datasets are mounted while it is ACTIVE.",
            field="allocationId",
        )
    if allocation.ends_at <= now_ms():
        raise Conflict("This allocation is over: allocate anew.", field="allocationId")
    policy = machine.host.get("policy") or {}
    missing = [
        kind.name
        for kind in (DATASET_MOUNT, DATASET_UNMOUNT)
        if kind.name not in policy.get("commands", [])
    ]
    if missing:
        raise Conflict(
            f"The policy file of its host does not enable {' and '.join(missing)}, which takes "
            "cleaning = true besides.",
            field="allocationId",
        )
    if not makes_accounts(machine):
        raise Conflict(
            "Its host makes no accounts: there is nobody who could see a dataset.",
            field="allocationId",
        )
    if dataset.kind is SourceKind.DIRECTORY and dataset.machine_id != machine.id:
        raise Conflict(
            "This dataset is a directory of another machine: it can be mounted there only.",
            field="datasetId",
        )
    away = absences(machine)
    if away:
        raise Conflict(away[0].message, field="allocationId")
    return machine


async def _require_room(allocation: Allocation, machine: Machine, path: str) -> None:
    there = await Mount.filter(machine_id=machine.id, state__in=list(LIVE)).values_list(
        "allocation_id", "path"
    )
    own = sum(allocation_id == allocation.id for allocation_id, _ in there)
    if own >= MAX_MOUNTS:
        raise LimitExceeded(f"This allocation has {MAX_MOUNTS} mounts already: unmount one.")
    if len(there) >= MAX_MACHINE_MOUNTS:
        raise LimitExceeded(f"This machine has {MAX_MACHINE_MOUNTS} mounts already.")
    # One within another would keep it from being unmounted.
    for _, other in there:
        if other == path or other.startswith(f"{path}/") or path.startswith(f"{other}/"):
            raise Conflict(_TAKEN, field="path")


async def _mount(
    actor: Actor, allocation: Allocation, machine: Machine, dataset: Dataset, request: MountRequest
) -> tuple[Mount, Operation]:
    operation = await operations.begin(
        MOUNT,
        (MOUNT_STEP,),
        user_id=allocation.user_id,
        workspace_id=allocation.workspace_id,
        machine_id=machine.id,
        allocation_id=allocation.id,
    )
    mount = await Mount.create(
        dataset_id=dataset.id,
        allocation_id=allocation.id,
        machine_id=machine.id,
        path=request.path,
        read_only=request.read_only,
        created_by_id=actor.user_id,
        operation_id=operation.id,
        created_at=now_ms(),
    )
    await _forget_old(allocation.id)
    await enqueue(
        DATASET_MOUNT,
        DatasetMount(
            mount_id=str(mount.id),
            allocation_id=str(allocation.id),
            account=account_name(allocation.id),
            kind=SourceKind(dataset.kind),
            location=dataset.location,
            path=request.path,
            read_only=request.read_only,
            endpoint=dataset.endpoint,
        ),
        allocation,
        deadline=min(now_ms() + _MOUNT_WITHIN, allocation.ends_at),
        operation_id=operation.id,
    )
    await audit.record(
        actor,
        MOUNT,
        target=("Mount", mount.id),
        details={
            "dataset": str(dataset.id),
            "allocation": str(allocation.id),
            "path": request.path,
            "readOnly": audit.yes_or_no(request.read_only),
        },
    )
    return mount, operation


async def _forget_old(allocation_id: uuid.UUID) -> None:
    """Nobody is shown more of an allocation's mounts than SHOWN_MOUNTS."""
    over = Mount.filter(allocation_id=allocation_id).exclude(state__in=list(LIVE))
    old = await over.order_by("-id").offset(SHOWN_MOUNTS).limit(100).values_list("id", flat=True)
    if old:
        await Mount.filter(id__in=list(old)).delete()


async def _unmount(mount: Mount, allocation: Allocation) -> Operation:
    if mount.state not in LIVE:
        raise Conflict(f"This mount is {mount.state} already.", field="id")
    if mount.state is MountState.UNMOUNTING and mount.operation_id is not None:
        known = await Operation.get_or_none(id=mount.operation_id)
        if known is not None:
            return known
    return await unmount_now(mount, allocation)
