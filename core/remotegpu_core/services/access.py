"""Which machines somebody may see. Every list, lookup and subscription asks here."""

import uuid
from collections.abc import Collection
from typing import Final, cast

from tortoise.expressions import Q
from tortoise.queryset import QuerySet

from remotegpu_core.actor import Actor, Scope
from remotegpu_core.database.sql import SubSelect
from remotegpu_core.errors import NotFound
from remotegpu_core.models import Gpu, Machine
from remotegpu_core.states import FINAL, AllocationState

_LIVE: Final = ", ".join(f"'{state}'" for state in AllocationState if state not in FINAL)
#: Each part finds its rows by an index; as a join of all three, SQLite would read every grant.
_GRANTED: Final = """
SELECT machine_id FROM machine_grant WHERE user_id = ?
UNION ALL SELECT machine_id FROM machine_grant
    WHERE workspace_id IN (SELECT workspace_id FROM membership WHERE user_id = ?)
"""
_HAD: Final = (
    "SELECT machine_id FROM allocation "  # noqa: S608 - values of an enum
    f"WHERE user_id = ? AND state IN ({_LIVE}) AND machine_id IS NOT NULL"
)


def visible_machines(actor: Actor) -> QuerySet[Machine]:
    """Admins see all machines, others those that they or a workspace of theirs have a grant on,
    and those on which something is allocated to them."""
    actor.require_scope(Scope.READ)
    if actor.sees_all_machines:
        return Machine.all()
    user_id = actor.require_user()
    return Machine.filter(id__in=SubSelect(f"{_GRANTED} UNION ALL {_HAD}", *[str(user_id)] * 3))


def granted_to(user_id: uuid.UUID) -> Q:
    """The filter of machines that a user or a workspace of theirs has a grant on."""
    return Q(id__in=SubSelect(_GRANTED, *[str(user_id)] * 2))


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
