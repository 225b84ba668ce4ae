"""Lists of machines and what hangs on them."""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from tortoise.expressions import Q, RawSQL, Subquery

from remotegpu_core.actor import Actor
from remotegpu_core.database.sql import SubSelect
from remotegpu_core.errors import InvalidInput
from remotegpu_core.models import Gpu, GpuGroup, Machine, MachineLabel
from remotegpu_core.paging import Order, Page, PageRequest, fetch_page
from remotegpu_core.services.access import granted_to, visible_machines
from remotegpu_core.services.availability import (
    free_gpus_of,
    machines_that_are,
    machines_with_free_gpus,
)
from remotegpu_core.services.labels import with_labels
from remotegpu_core.states import Availability, Health, Lifecycle, Presence
from remotegpu_core.texts import composed_labels, storable
from remotegpu_protocol.limits import MAX_GPUS


class MachineOrderField(StrEnum):
    NAME = "NAME"
    CREATED_AT = "CREATED_AT"
    FREE_GPUS = "FREE_GPUS"


_COLUMNS = {
    MachineOrderField.NAME: "name_key",
    MachineOrderField.CREATED_AT: "created_at",
    MachineOrderField.FREE_GPUS: "free_gpus",
}


@dataclass(frozen=True, slots=True)
class MachineFilter:
    """Everything given must hold; of a collection, any of its values. None asks for nothing."""

    presence: Collection[Presence] | None = None
    lifecycle: Collection[Lifecycle] | None = None
    availability: Collection[Availability] | None = None
    health: Collection[Health] | None = None
    #: Part of a GPU's model, in any case.
    gpu_model: str | None = None
    labels: Sequence[tuple[str, str]] = ()
    #: Part of the name or of a GPU's model, in any case.
    text: str | None = None
    #: At least so many GPUs that no allocation holds, and that work, with this part in their model.
    free_gpus: tuple[str | None, int] | None = None
    #: Only machines that the caller or a workspace of theirs has a grant on, for admins too.
    mine: bool | None = None


async def list_machines(
    actor: Actor,
    request: PageRequest,
    chosen: MachineFilter,
    *,
    order_field: MachineOrderField = MachineOrderField.NAME,
    descending: bool = False,
) -> Page[Machine]:
    """The machines that the caller sees."""
    query = visible_machines(actor)
    chosen = replace(chosen, labels=composed_labels(chosen.labels))
    texts = [text for text in (chosen.gpu_model, chosen.text) if text is not None]
    if not (
        all(storable(text, 255) for text in texts)
        and all(storable(key, 63) and storable(value, 255) for key, value in chosen.labels)
    ):
        query = query.filter(id__in=[])
        chosen = replace(chosen, gpu_model=None, text=None, labels=())
    if chosen.presence is not None:
        query = query.filter(presence__in=list(chosen.presence))
    if chosen.lifecycle is not None:
        query = query.filter(lifecycle__in=list(chosen.lifecycle))
    if chosen.health is not None:
        query = query.filter(health__in=list(chosen.health))
    if chosen.availability is not None:
        query = query.filter(machines_that_are(chosen.availability))
    if chosen.gpu_model is not None:
        query = query.filter(id__in=Subquery(_with_gpu(chosen.gpu_model)))
    if chosen.free_gpus is not None:
        model, count = chosen.free_gpus
        if not 1 <= count <= MAX_GPUS:
            raise InvalidInput(
                f"atLeast is 1 to {MAX_GPUS}, got {count}.", field=["filter", "freeGpus", "atLeast"]
            )
        query = query.filter(id__in=_with_free_gpus(model, count))
    if chosen.labels:
        query = query.filter(with_labels(chosen.labels))
    if chosen.text is not None:
        matching = Q(name__icontains=chosen.text) | Q(id__in=Subquery(_with_gpu(chosen.text)))
        query = query.filter(matching)
    if chosen.mine:
        query = query.filter(granted_to(actor.require_user()))
    by_free = order_field is MachineOrderField.FREE_GPUS
    counted = RawSQL(free_gpus_of("machine")) if by_free else None
    order = Order(_COLUMNS[order_field], descending, counted)
    return await fetch_page(query, order, request)


async def gpus_of(machine_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[Gpu]]:
    """GPUs by machine, by their index."""
    found: dict[uuid.UUID, list[Gpu]] = {machine_id: [] for machine_id in machine_ids}
    gpus = Gpu.filter(machine_id__in=list(machine_ids), removed_at=None)
    for gpu in await gpus.order_by("index", "uuid"):
        found[gpu.machine_id].append(gpu)
    return found


async def labels_of(machine_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[MachineLabel]]:
    """Labels by machine, by their key."""
    found: dict[uuid.UUID, list[MachineLabel]] = {machine_id: [] for machine_id in machine_ids}
    for label in await MachineLabel.filter(machine_id__in=list(machine_ids)).order_by("key"):
        found[label.machine_id].append(label)
    return found


async def machines_by_id(actor: Actor, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Machine]:
    """Of `ids`, the machines that the caller may see."""
    if not ids or not actor.is_signed_in:
        return {}
    return {row.id: row for row in await visible_machines(actor).filter(id__in=list(ids))}


def _with_gpu(model: str):  # type: ignore[no-untyped-def]  # Tortoise's ValuesQuery is generic in what we do not care for
    return GpuGroup.filter(model__icontains=model, gpus__gt=0).values("machine_id")


def _with_free_gpus(model: str | None, count: int) -> SubSelect:
    if model is None:
        return machines_with_free_gpus(count)
    if not storable(model, 255):
        return SubSelect("SELECT NULL WHERE FALSE")
    return machines_with_free_gpus(count, model)
