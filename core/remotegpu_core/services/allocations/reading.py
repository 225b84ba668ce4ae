"""Allocations as their users and admins see them."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from tortoise.expressions import Q, Subquery
from tortoise.queryset import QuerySet

from remotegpu_core.actor import Actor, Scope
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import NotFound
from remotegpu_core.models import (
    Allocation,
    Booking,
    CleaningReceipt,
    Gpu,
    Machine,
    Membership,
    User,
)
from remotegpu_core.paging import Order, Page, PageRequest, fetch_page
from remotegpu_core.services.ledger import ledger
from remotegpu_core.states import FINAL, AllocationState


class AllocationOrderField(StrEnum):
    CREATED_AT = "CREATED_AT"
    STARTS_AT = "STARTS_AT"
    ENDS_AT = "ENDS_AT"


_COLUMNS = {
    AllocationOrderField.CREATED_AT: "created_at",
    AllocationOrderField.STARTS_AT: "starts_at",
    AllocationOrderField.ENDS_AT: "ends_at",
}


#: Of lists for which none is asked: newest first.
DEFAULT_ORDER = Order(_COLUMNS[AllocationOrderField.CREATED_AT], descending=True)


@dataclass(frozen=True, slots=True)
class AllocationFilter:
    """Everything given must hold; of states, any."""

    state: Collection[AllocationState] | None = None
    user_id: uuid.UUID | None = None
    workspace_id: uuid.UUID | None = None
    machine_id: uuid.UUID | None = None
    mine: bool | None = None
    #: Half-open ranges in milliseconds: from the first, before the second; None is open.
    starts_at: tuple[int | None, int | None] = (None, None)
    ends_at: tuple[int | None, int | None] = (None, None)


def visible_allocations(actor: Actor) -> QuerySet[Allocation]:
    """All for admins; for others their own, and those in their workspaces."""
    actor.require_scope(Scope.READ)
    if actor.sees_all_machines:
        return Allocation.all()
    user_id = actor.require_user()
    member = Membership.filter(user_id=user_id).values("workspace_id")
    return Allocation.filter(Q(user_id=user_id) | Q(workspace_id__in=Subquery(member)))


async def visible_allocation(
    actor: Actor, allocation_id: uuid.UUID, *, field: str = "id"
) -> Allocation:
    """Raises NotFound when there is none, or not for this caller."""
    allocation = await visible_allocations(actor).filter(id=allocation_id).first()
    if allocation is None:
        raise NotFound("There is no such allocation.", field=field)
    return allocation


async def allocations_by_id(actor: Actor, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Allocation]:
    """Of `ids`, the allocations that the caller may see."""
    if not ids or not actor.is_signed_in:
        return {}
    return {row.id: row for row in await visible_allocations(actor).filter(id__in=list(ids))}


async def list_allocations(
    actor: Actor,
    request: PageRequest,
    chosen: AllocationFilter,
    *,
    order_field: AllocationOrderField = AllocationOrderField.CREATED_AT,
    descending: bool = True,
) -> Page[Allocation]:
    """The allocations that the caller sees, newest first."""
    query = visible_allocations(actor)
    if chosen.state is not None:
        query = query.filter(state__in=list(chosen.state))
    if chosen.user_id is not None:
        query = query.filter(user_id=chosen.user_id)
    if chosen.workspace_id is not None:
        query = query.filter(workspace_id=chosen.workspace_id)
    if chosen.machine_id is not None:
        query = query.filter(machine_id=chosen.machine_id)
    if chosen.mine:
        query = query.filter(user_id=actor.require_user())
    for column, (since, until) in (("starts_at", chosen.starts_at), ("ends_at", chosen.ends_at)):
        if since is not None:
            query = query.filter(**{f"{column}__gte": since})
        if until is not None:
            query = query.filter(**{f"{column}__lt": until})
    return await fetch_page(query, Order(_COLUMNS[order_field], descending), request)


async def gpus_of_allocations(ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[Gpu]]:
    """GPUs by allocation, by their index: those of now for what lives, those it had for the rest."""
    found: dict[uuid.UUID, list[Gpu]] = {allocation_id: [] for allocation_id in ids}
    bookings = Booking.filter(allocation_id__in=list(ids), gpu__removed_at=None)
    for booking in await bookings.exclude(gpu_id=None).select_related("gpu"):
        if booking.gpu is not None:
            found[booking.allocation_id].append(booking.gpu)
    for gpus in found.values():
        gpus.sort(key=lambda gpu: (gpu.index, gpu.uuid))
    return found


async def allocations_of_gpus(
    actor: Actor, gpu_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, Allocation]:
    """By GPU, the allocation that has it at this moment; those alone that the caller may see."""
    if not gpu_ids or not actor.is_signed_in:
        return {}
    seen = visible_allocations(actor).exclude(state__in=list(FINAL)).values("id")
    held = Booking.filter(
        gpu_id__in=list(gpu_ids),
        held=True,
        starts_at__lte=now_ms(),
        allocation_id__in=Subquery(seen),
    )
    rows = await held.select_related("allocation").order_by("starts_at")
    return {row.gpu_id: row.allocation for row in rows if row.gpu_id is not None}


async def receipts_of(ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, CleaningReceipt]:
    """The receipt by allocation."""
    rows = await CleaningReceipt.filter(allocation_id__in=list(ids)).order_by("id")
    return {row.allocation_id: row for row in rows}


async def receipts_by_id(
    actor: Actor, ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, CleaningReceipt]:
    """Of `ids`, the receipts of allocations that the caller may see."""
    if not ids or not actor.is_signed_in:
        return {}
    seen = visible_allocations(actor).values("id")
    rows = await CleaningReceipt.filter(id__in=list(ids), allocation_id__in=Subquery(seen))
    return {row.id: row for row in rows}


async def usernames(user_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
    """Names of those whose allocations the caller sees."""
    rows = await User.filter(id__in=list(user_ids)).values_list("id", "username")
    return dict(cast("list[tuple[uuid.UUID, str]]", rows))


@contextlib.asynccontextmanager
async def lock_allocation(
    actor: Actor, allocation_id: uuid.UUID, *, field: str = "id"
) -> AsyncIterator[tuple[Allocation, Machine | None]]:
    """An allocation that the caller sees, with the ledger of its machine, as it is by then.

    Raises:
        NotFound: there is none, or not for the caller.
    """
    while True:
        known = await visible_allocation(actor, allocation_id, field=field)
        async with ledger(known.machine_id) as machine:
            allocation = await Allocation.get(id=allocation_id)
            if allocation.machine_id != known.machine_id:
                # It was placed meanwhile: its machine is locked first.
                continue
            yield allocation, machine
            return
