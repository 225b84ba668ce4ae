"""Allocating, and saying what allocating would do."""

import uuid
from dataclasses import asdict, dataclass
from typing import Final

from remotegpu_core.actor import Actor, Scope
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import NoCapacity, NotFound, QuotaExceeded
from remotegpu_core.models import Allocation, Gpu, Machine, Operation
from remotegpu_core.services import audit, idempotency, operations, quotas
from remotegpu_core.services.allocations.beneficiary import Beneficiary, beneficiary_of
from remotegpu_core.services.allocations.bookings import book
from remotegpu_core.services.allocations.lifecycle import ALLOCATE, RESERVE_STEP, STEPS, begin
from remotegpu_core.services.allocations.log import EventKind, record_event
from remotegpu_core.services.allocations.placement import Placement, Refused
from remotegpu_core.services.allocations.reason import Reason, ReasonCode, moment
from remotegpu_core.services.allocations.request import AllocateRequest, check_request
from remotegpu_core.services.allocations.search import look
from remotegpu_core.services.idempotency import Call, Made
from remotegpu_core.services.ledger import ledger
from remotegpu_core.settings import Settings
from remotegpu_core.states import StepState
from remotegpu_core.versions import Topic, bump

#: How often the best machine may have become another one between the look and the lock.
_ATTEMPTS: Final = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What `allocate` would do. Without a machine, `reasons` say why, and `starts_at` from when it
    could be, as things are booked; None when that is not known."""

    machine_id: uuid.UUID | None
    gpu_ids: tuple[uuid.UUID, ...]
    starts_at: int | None
    ends_at: int
    reasons: tuple[Reason, ...]


async def allocate(
    actor: Actor, settings: Settings, request: AllocateRequest, *, key: str | None = None
) -> tuple[Allocation, Operation]:
    """Give somebody a machine, or GPUs of one, for a time.

    One that starts later is a reservation, which binds. With `wait` it waits for a place where
    there is none. The operation ends when the host has it.

    Raises:
        InvalidInput: the request can never be.
        NotFound, Forbidden: see `beneficiary_of`.
        NoCapacity: nothing that fits is free, and it is not to wait.
        QuotaExceeded: the user or the workspace would have too much; admins are not refused.
        IdempotencyKeyReused: see `idempotency`.
    """
    actor.require_scope(Scope.WRITE)
    call = idempotency.call_of(actor, "allocate", key, asdict(request))
    check_request(request, settings, now_ms())
    whose = await beneficiary_of(actor, request)
    await _check_gpus(request)
    for attempt in range(_ATTEMPTS):
        found = await look(whose, request)
        chosen = found.machine_id if isinstance(found, Placement) else request.machine_id
        async with ledger(chosen) as machine:
            made = await idempotency.recall(call)
            if made is not None:
                return await _again(made)
            if chosen is not None:
                # Now that nothing moves: is it still free? A fleet is not searched meanwhile.
                found = await look(whose, request, only=chosen)
                lost = isinstance(found, Refused) and request.machine_id is None
                if lost and attempt < _ATTEMPTS - 1:
                    continue
            return await _write(actor, settings, whose, request, found, machine, call)
    raise NoCapacity("Too many others are allocating at this moment: try again.")


async def plan(actor: Actor, settings: Settings, request: AllocateRequest) -> Plan:
    """What `allocate` would do, without doing it; raises like it but for NoCapacity and
    QuotaExceeded, which are reasons here."""
    actor.require_scope(Scope.READ)
    now = now_ms()
    check_request(request, settings, now)
    whose = await beneficiary_of(actor, request)
    await _check_gpus(request)
    found = await look(whose, request)
    reasons: tuple[Reason, ...] = ()
    gpu_count = request.gpu_count
    if isinstance(found, Placement):
        gpu_count = len(found.gpu_ids)
    else:
        reasons = found.reasons
    starts_at = max(now, request.starts_at or now)
    if whose.bound:
        claim = quotas.Claim(gpu_count, starts_at, request.ends_at)
        try:
            await quotas.check(whose.user.id, whose.workspace_id, claim, settings)
        except QuotaExceeded as error:
            reasons = (*reasons, Reason(ReasonCode.QUOTA, error.message))
    if isinstance(found, Refused):
        return Plan(None, (), found.free_from, request.ends_at, reasons)
    return Plan(found.machine_id, found.gpu_ids, starts_at, request.ends_at, reasons)


async def settle_in(allocation: Allocation, placement: Placement, machine: Machine) -> None:
    """Book what was placed and, where its time has come, begin; within a ledger of the machine."""
    await book(allocation, placement)
    operation = await Operation.filter(allocation_id=allocation.id, kind=ALLOCATE).first()
    if operation is not None:
        await Operation.filter(id=operation.id).update(machine_id=machine.id)
        await operations.advance(operation.id, RESERVE_STEP, StepState.SUCCEEDED)
    if allocation.starts_at <= now_ms():
        await begin(allocation, machine)
    await record_event(allocation.id, EventKind.PLACED)
    # Its user sees the machine from now on.
    await bump(Topic.ACCESS)


async def _write(
    actor: Actor,
    settings: Settings,
    whose: Beneficiary,
    request: AllocateRequest,
    found: Placement | Refused,
    machine: Machine | None,
    call: Call | None,
) -> tuple[Allocation, Operation]:
    if isinstance(found, Refused) and not request.wait:
        raise NoCapacity(_told(found), field=_field(request))
    now = now_ms()
    starts_at = max(now, request.starts_at or now)
    placed = isinstance(found, Placement)
    gpu_count = len(found.gpu_ids) if isinstance(found, Placement) else request.gpu_count
    if whose.bound:
        claim = quotas.Claim(gpu_count, starts_at, request.ends_at)
        await quotas.check(whose.user.id, whose.workspace_id, claim, settings)
    allocation = await Allocation.create(
        user_id=whose.user.id,
        workspace_id=whose.workspace_id,
        machine_id=found.machine_id if isinstance(found, Placement) else None,
        whole_machine=request.gpu_count == 0,
        gpu_count=gpu_count,
        requirement=request.wish()
        | {"bound": whose.bound, "unmet": None if isinstance(found, Placement) else found.unmet},
        queued=not placed,
        starts_at=starts_at,
        ends_at=request.ends_at,
        created_by_id=actor.user_id,
        created_at=now,
    )
    operation = await operations.begin(
        ALLOCATE,
        STEPS[ALLOCATE],
        user_id=whose.user.id,
        workspace_id=whose.workspace_id,
        machine_id=allocation.machine_id,
        allocation_id=allocation.id,
    )
    await audit.record(
        actor,
        "allocate",
        target=("Allocation", allocation.id),
        details={
            "user": whose.user.username,
            "machine": machine.name if placed and machine else "any",
            "gpus": "all" if allocation.whole_machine else str(gpu_count),
        },
    )
    await record_event(allocation.id, EventKind.CREATED)
    if isinstance(found, Placement) and machine is not None:
        await settle_in(allocation, found, machine)
    await idempotency.remember(call, Made(allocation.id, operation.id))
    return allocation, await Operation.get(id=operation.id)


async def _again(made: Made) -> tuple[Allocation, Operation]:
    allocation = await Allocation.get(id=made.object_id)
    return allocation, await Operation.get(id=made.operation_id)


async def _check_gpus(request: AllocateRequest) -> None:
    if request.gpu_ids is None:
        return
    known = await Gpu.filter(
        id__in=list(request.gpu_ids), machine_id=request.machine_id, removed_at=None
    ).count()
    if known < len(request.gpu_ids):
        raise NotFound("One of these GPUs is not in this machine.", field="gpuIds")


def _told(refused: Refused) -> str:
    why = " ".join(reason.message for reason in refused.reasons)
    if refused.free_from is not None:
        return (
            f"{why} As things are booked it is free from {moment(refused.free_from)}: start then, "
            "ask for less, or wait for a place with wait: true."
        )
    return f"{why} Ask for another machine or time, or wait for a place with wait: true."


def _field(request: AllocateRequest) -> str:
    if request.requirement is not None:
        return "requirement"
    return "machineId" if request.gpu_ids is None else "gpuIds"
