"""Datasets and mounts as those see them who may."""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tortoise.expressions import Q, Subquery
from tortoise.queryset import QuerySet

from remotegpu_core.actor import Actor
from remotegpu_core.errors import NotFound
from remotegpu_core.models import Dataset, DatasetGrant, Mount
from remotegpu_core.paging import Order, Page, PageRequest, fetch_page
from remotegpu_core.services.allocations.reading import visible_allocations
from remotegpu_core.services.datasets.access import access_of, manages, visible_datasets
from remotegpu_core.states import DatasetAccess, DatasetVisibility
from remotegpu_core.texts import name_key, storable
from remotegpu_protocol.datasets import SourceKind

#: Mounts that an allocation shows, the newest.
SHOWN_MOUNTS: Final = 50


class DatasetOrderField(StrEnum):
    NAME = "NAME"
    CREATED_AT = "CREATED_AT"


_COLUMNS = {DatasetOrderField.NAME: "name_key", DatasetOrderField.CREATED_AT: "created_at"}


#: Of lists for which none is asked.
DEFAULT_ORDER = Order(_COLUMNS[DatasetOrderField.NAME])


@dataclass(frozen=True, slots=True)
class DatasetFilter:
    """Everything given must hold; of a collection, any of its values."""

    visibility: Collection[DatasetVisibility] | None = None
    kind: Collection[SourceKind] | None = None
    workspace_id: uuid.UUID | None = None
    #: Part of the name, in any case.
    text: str | None = None
    #: Only those that the caller owns.
    mine: bool | None = None


async def list_datasets(
    actor: Actor,
    request: PageRequest,
    chosen: DatasetFilter,
    *,
    order_field: DatasetOrderField = DatasetOrderField.NAME,
    descending: bool = False,
) -> Page[Dataset]:
    """The datasets that the caller sees."""
    query = visible_datasets(actor)
    if chosen.visibility is not None:
        query = query.filter(visibility__in=list(chosen.visibility))
    if chosen.kind is not None:
        query = query.filter(kind__in=list(chosen.kind))
    if chosen.workspace_id is not None:
        query = query.filter(workspace_id=chosen.workspace_id)
    if chosen.text is not None:
        part = name_key(chosen.text)
        fits = storable(part, 64)
        query = query.filter(name_key__contains=part) if fits else query.filter(id__in=[])
    if chosen.mine:
        query = query.filter(owner_id=actor.require_user())
    return await fetch_page(query, Order(_COLUMNS[order_field], descending), request)


async def datasets_by_id(actor: Actor, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Dataset]:
    """Of `ids`, the datasets that the caller may see."""
    if not ids or not actor.is_signed_in:
        return {}
    return {row.id: row for row in await visible_datasets(actor).filter(id__in=list(ids))}


async def own_access(actor: Actor, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, DatasetAccess]:
    """What the caller may do with each of `ids`."""
    return await access_of(actor.require_user(), ids)


async def grants_of(actor: Actor, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[DatasetGrant]]:
    """Grants by dataset, oldest first; of those only that the caller decides over."""
    datasets = await Dataset.filter(id__in=list(ids))
    found: dict[uuid.UUID, list[DatasetGrant]] = {
        row.id: [] for row in datasets if manages(actor, row)
    }
    grants = DatasetGrant.filter(dataset_id__in=list(found)).select_related("user", "workspace")
    for grant in await grants.order_by("id"):
        found[grant.dataset_id].append(grant)
    return found


def visible_mounts(actor: Actor) -> QuerySet[Mount]:
    """All for admins; for others those of allocations that they see: of their own every one, of
    others' only where they see the dataset too."""
    if actor.sees_all_machines:
        return Mount.all()
    allocations = visible_allocations(actor).values("id")
    datasets = visible_datasets(actor).values("id")
    return Mount.filter(
        Q(allocation__user_id=actor.require_user()) | Q(dataset_id__in=Subquery(datasets)),
        allocation_id__in=Subquery(allocations),
    )


async def visible_mount(actor: Actor, mount_id: uuid.UUID, *, field: str = "id") -> Mount:
    """Raises NotFound when there is none, or not for this caller."""
    mount = await visible_mounts(actor).filter(id=mount_id).first()
    if mount is None:
        raise NotFound("There is no such mount.", field=field)
    return mount


async def mounts_by_id(actor: Actor, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Mount]:
    """Of `ids`, the mounts that the caller may see."""
    if not ids or not actor.is_signed_in:
        return {}
    return {row.id: row for row in await visible_mounts(actor).filter(id__in=list(ids))}


async def mounts_of(actor: Actor, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, list[Mount]]:
    """The mounts of allocations that the caller may see, by allocation, newest first."""
    found: dict[uuid.UUID, list[Mount]] = {allocation_id: [] for allocation_id in ids}
    mounts = visible_mounts(actor).filter(allocation_id__in=list(ids))
    for mount in await mounts.order_by("-id"):
        if len(found[mount.allocation_id]) < SHOWN_MOUNTS:
            found[mount.allocation_id].append(mount)
    return found
