"""Which machines somebody may see. Every list, lookup and subscription asks here."""

import uuid
from collections.abc import Collection
from typing import Final, cast

from tortoise.expressions import Q, Subquery
from tortoise.queryset import QuerySet

from remotegpu_core.actor import Actor, Scope
from remotegpu_core.errors import NotFound
from remotegpu_core.models import Allocation, Gpu, Machine, MachineGrant
from remotegpu_core.states import FINAL, AllocationState

_LIVE: Final = [state for state in AllocationState if state not in FINAL]


def visible_machines(actor: Actor) -> QuerySet[Machine]:
    """Admins see all machines, others those that they or a workspace of theirs have a grant on,
    and those on which something is allocated to them."""
    actor.require_scope(Scope.READ)
    if actor.sees_all_machines:
        return Machine.all()
    user_id = actor.require_user()
    had = Allocation.filter(user_id=user_id, state__in=_LIVE, machine_id__not_isnull=True)
    return Machine.filter(
        Q(id__in=Subquery(_granted(user_id))) | Q(id__in=Subquery(had.values("machine_id")))
    )


async def visible_ids(actor: Actor, among: Collection[uuid.UUID] | None = None) -> set[uuid.UUID]:
    """Ids of the machines that the caller may see, of `among` or of all."""
    query = visible_machines(actor)
    if among is not None:
        if not among:
            return set()
        query = query.filter(id__in=list(among))
    return set(cast("list[uuid.UUID]", await query.values_list("id", flat=True)))


async def visible_scope(actor: Actor) -> frozenset[uuid.UUID] | None:
    """All that the caller sees: None stands for every machine there is and will be."""
    actor.require_scope(Scope.READ)
    return None if actor.sees_all_machines else frozenset(await visible_ids(actor))


async def visible_machine(actor: Actor, machine_id: uuid.UUID, *, field: str = "id") -> Machine:
    """A machine for this caller.

    Raises:
        NotFound: there is none, or not for them.
    """
    machine = await visible_machines(actor).get_or_none(id=machine_id)
    if machine is None:
        raise NotFound("There is no such machine.", field=field)
    return machine


async def visible_gpus(actor: Actor, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Gpu]:
    """Of `ids`, the GPUs in machines that the caller may see, by id."""
    gpus = {gpu.id: gpu for gpu in await Gpu.filter(id__in=list(ids), removed_at=None)}
    seen = await visible_ids(actor, {gpu.machine_id for gpu in gpus.values()})
    return {gpu_id: gpu for gpu_id, gpu in gpus.items() if gpu.machine_id in seen}


def _granted(user_id: uuid.UUID) -> QuerySet[MachineGrant]:
    return MachineGrant.filter(
        Q(user_id=user_id) | Q(workspace__memberships__user_id=user_id)
    ).values("machine_id")  # type: ignore[return-value]  # Subquery takes a ValuesQuery too
