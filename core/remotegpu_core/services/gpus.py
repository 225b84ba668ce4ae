"""Lists of GPUs over all machines."""

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tortoise.expressions import Subquery

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.models import Booking, Gpu
from remotegpu_core.paging import Order, Page, PageRequest, fetch_page
from remotegpu_core.services.access import visible_machines
from remotegpu_core.states import Health
from remotegpu_core.texts import storable


class GpuOrderField(StrEnum):
    FOUND_AT = "FOUND_AT"
    MODEL = "MODEL"


#: An index has each of them, over any number of GPUs.
_COLUMNS: Final = {GpuOrderField.FOUND_AT: "id", GpuOrderField.MODEL: "model"}


@dataclass(frozen=True, slots=True)
class GpuFilter:
    """Everything given must hold; of a collection, any of its values. None asks for nothing."""

    #: Part of the model, in any case.
    model: str | None = None
    #: Bytes.
    memory_at_least: int | None = None
    health: Collection[Health] | None = None
    machine_id: uuid.UUID | None = None
    #: Whether no allocation holds it at this moment.
    free: bool | None = None


async def list_gpus(
    actor: Actor,
    request: PageRequest,
    chosen: GpuFilter,
    *,
    order_field: GpuOrderField = GpuOrderField.FOUND_AT,
    descending: bool = False,
) -> Page[Gpu]:
    """GPUs in the machines that the caller sees."""
    seen = visible_machines(actor)
    query = Gpu.filter(removed_at=None)
    if not actor.sees_all_machines:
        query = query.filter(machine_id__in=Subquery(seen.values("id")))
    if chosen.model is not None:
        fits = storable(chosen.model, 255)
        query = query.filter(model__icontains=chosen.model) if fits else query.filter(id__in=[])
    if chosen.memory_at_least is not None:
        query = query.filter(memory_total__gte=chosen.memory_at_least)
    if chosen.health is not None:
        query = query.filter(health__in=list(chosen.health))
    if chosen.machine_id is not None:
        query = query.filter(machine_id=chosen.machine_id)
    if chosen.free is not None:
        held = Booking.filter(held=True, starts_at__lte=now_ms(), gpu_id__not_isnull=True)
        ids = Subquery(held.values("gpu_id"))
        query = query.exclude(id__in=ids) if chosen.free else query.filter(id__in=ids)
    return await fetch_page(query, Order(_COLUMNS[order_field], descending), request)
