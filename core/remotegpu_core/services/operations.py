"""Operations: what takes time, step by step, for everybody who waits for it."""

import uuid
from collections.abc import Sequence

from tortoise.expressions import F, Q, Subquery
from tortoise.queryset import QuerySet

from remotegpu_core.actor import Actor, Scope
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import NotFound
from remotegpu_core.models import Membership, Operation, OperationStep
from remotegpu_core.states import OperationState, StepState, sources_of
from remotegpu_core.versions import Topic, bump
from remotegpu_protocol.grammar import clean_text


async def begin(
    kind: str,
    steps: Sequence[str],
    *,
    user_id: uuid.UUID | None,
    workspace_id: uuid.UUID | None = None,
    machine_id: uuid.UUID | None = None,
    allocation_id: uuid.UUID | None = None,
) -> Operation:
    """Write a new operation with its steps, PENDING all, within the current transaction."""
    operation = await Operation.create(
        kind=kind,
        user_id=user_id,
        workspace_id=workspace_id,
        machine_id=machine_id,
        allocation_id=allocation_id,
        created_at=now_ms(),
    )
    await OperationStep.bulk_create(
        OperationStep(operation_id=operation.id, position=position, name=name)
        for position, name in enumerate(steps)
    )
    await _touch(operation.id)
    return operation


async def advance(
    operation_id: uuid.UUID,
    step: str,
    state: StepState,
    *,
    detail: str | None = None,
    error: tuple[str, str] | None = None,
    progress: float | None = None,
) -> None:
    """Move a step on; the operation runs from its first step's start. `error`: code and message.

    A step that is over already stays as it is: an event that came twice changes nothing.
    """
    now = now_ms()
    values: dict[str, object] = {"state": state}
    if state is not StepState.RUNNING:
        values["finished_at"] = now
    if detail is not None:
        values["detail"] = clean_text(detail, 2000)
    if error is not None:
        values["error_code"], values["error_message"] = error[0], clean_text(error[1], 2000)
    named = OperationStep.filter(operation_id=operation_id, name=step)
    await named.filter(started_at=None).exclude(state=StepState.SKIPPED).update(started_at=now)
    moved = await named.filter(state__in=list(sources_of(state) | {state})).update(**values)
    if not moved:
        return
    await Operation.filter(
        id=operation_id, state__in=list(sources_of(OperationState.RUNNING))
    ).update(state=OperationState.RUNNING)
    steps = await OperationStep.filter(operation_id=operation_id)
    over = sum(row.state in {StepState.SUCCEEDED, StepState.SKIPPED} for row in steps)
    part = (progress or 0.0) if state is StepState.RUNNING else 0.0
    await Operation.filter(id=operation_id).update(progress=min(1.0, (over + part) / len(steps)))
    await _touch(operation_id)


async def finish(
    operation_id: uuid.UUID, state: OperationState, *, error: tuple[str, str] | None = None
) -> bool:
    """End an operation; what was not begun is SKIPPED. False when it was over already."""
    now = now_ms()
    values: dict[str, object] = {"state": state, "finished_at": now}
    if state is OperationState.SUCCEEDED:
        values |= {"progress": 1.0, "error_code": None, "error_message": None}
    if error is not None:
        values |= {"error_code": error[0], "error_message": clean_text(error[1], 2000)}
    moved = await Operation.filter(id=operation_id, state__in=list(sources_of(state))).update(
        **values
    )
    if not moved:
        return False
    left = OperationStep.filter(operation_id=operation_id)
    await left.filter(state=StepState.PENDING).update(state=StepState.SKIPPED, finished_at=now)
    running = StepState.SUCCEEDED if state is OperationState.SUCCEEDED else StepState.FAILED
    await left.filter(state=StepState.RUNNING).update(state=running, finished_at=now)
    await _touch(operation_id)
    return True


async def request_cancel(operation_id: uuid.UUID) -> None:
    """Note that somebody wants it called off; its commands are called back by whoever asks."""
    moved = await Operation.filter(id=operation_id, cancel_requested_at=None).update(
        cancel_requested_at=now_ms()
    )
    if moved:
        await _touch(operation_id)


def visible_operations(actor: Actor) -> QuerySet[Operation]:
    """All for admins; for others their own, and their workspaces'."""
    actor.require_scope(Scope.READ)
    if actor.sees_all_machines:
        return Operation.all()
    user_id = actor.require_user()
    member = Membership.filter(user_id=user_id).values("workspace_id")
    return Operation.filter(Q(user_id=user_id) | Q(workspace_id__in=Subquery(member)))


async def visible_operation(
    actor: Actor, operation_id: uuid.UUID, *, field: str = "id"
) -> Operation:
    """Raises NotFound when there is none, or not for this caller."""
    operation = await visible_operations(actor).filter(id=operation_id).first()
    if operation is None:
        raise NotFound("There is no such operation.", field=field)
    return operation


async def operations_by_id(actor: Actor, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Operation]:
    """Of `ids`, the operations that the caller may see."""
    if not ids or not actor.is_signed_in:
        return {}
    return {row.id: row for row in await visible_operations(actor).filter(id__in=list(ids))}


async def steps_of(ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[OperationStep]]:
    """Steps by operation, in their order."""
    found: dict[uuid.UUID, list[OperationStep]] = {operation_id: [] for operation_id in ids}
    for step in await OperationStep.filter(operation_id__in=list(ids)).order_by("position"):
        found[step.operation_id].append(step)
    return found


async def changed_since(change: int) -> list[tuple[uuid.UUID, int]]:
    """Operations that changed after the value `change` of the topic, oldest change first."""
    rows = await (
        Operation.filter(change__gt=change)
        .order_by("change")
        .limit(1000)
        .values_list("id", "change")
    )
    return [(row[0], row[1]) for row in rows]


async def prune(older_than: int) -> int:
    """Forget operations that ended before `older_than` (milliseconds); return how many."""
    return await Operation.filter(finished_at__lt=older_than).delete()


async def _touch(operation_id: uuid.UUID) -> None:
    change = await bump(Topic.OPERATIONS)
    await Operation.filter(id=operation_id).update(revision=F("revision") + 1, change=change)
