"""Who sees a dataset, and what they may do with it. Every list, lookup and mount asks here."""

import uuid
from collections.abc import Collection
from typing import Final, cast

from tortoise.connection import get_connection
from tortoise.expressions import Q, Subquery
from tortoise.queryset import QuerySet

from remotegpu_core.actor import Actor, Scope
from remotegpu_core.errors import Forbidden, NotFound
from remotegpu_core.models import Dataset, DatasetGrant, Membership
from remotegpu_core.states import DatasetAccess, DatasetVisibility


def visible_datasets(actor: Actor) -> QuerySet[Dataset]:
    """All for admins; for others their own, the public ones, their workspaces', and what was
    granted to them or to a workspace of theirs."""
    actor.require_scope(Scope.READ)
    if actor.sees_all_machines:
        return Dataset.all()
    return Dataset.filter(_readable_by(actor.require_user()))


async def visible_dataset(actor: Actor, dataset_id: uuid.UUID, *, field: str = "id") -> Dataset:
    """Raises NotFound when there is none, or not for this caller."""
    dataset = await visible_datasets(actor).filter(id=dataset_id).first()
    if dataset is None:
        raise NotFound("There is no such dataset.", field=field)
    return dataset


def manages(actor: Actor, dataset: Dataset) -> bool:
    """Whether the caller may see where it lies, and decide over it: its owner and admins."""
    return actor.is_admin or (actor.user_id is not None and actor.user_id == dataset.owner_id)


def require_managed(actor: Actor, dataset: Dataset, *, field: str = "id") -> None:
    """Raises Forbidden unless the caller `manages` a dataset that they see."""
    actor.require_scope(Scope.WRITE)
    if not manages(actor, dataset):
        raise Forbidden("This dataset is somebody else's.", field=field)


async def access_of(
    user_id: uuid.UUID, dataset_ids: Collection[uuid.UUID]
) -> dict[uuid.UUID, DatasetAccess]:
    """What a user may do with these datasets; those that they may not read are left out.

    Being an admin gives none: who wants to use what is another's grants it to themself, which is
    written down.
    """
    if not dataset_ids:
        return {}
    readable = Dataset.filter(_readable_by(user_id), id__in=list(dataset_ids))
    rows = cast("list[tuple[uuid.UUID, uuid.UUID]]", await readable.values_list("id", "owner_id"))
    writing = DatasetGrant.filter(
        _to(user_id), dataset_id__in=list(dataset_ids), access=DatasetAccess.WRITE
    )
    writable = set(await writing.values_list("dataset_id", flat=True))
    return {
        dataset_id: DatasetAccess.WRITE
        if owner_id == user_id or dataset_id in writable
        else DatasetAccess.READ
        for dataset_id, owner_id in rows
    }


# The same as `access_of`, of every mount at once: a test holds the two together.
_BASELESS: Final = """
SELECT m.id AS mount_id, m.machine_id AS machine_id, m.unmount_at AS unmount_at FROM mount m
    JOIN allocation a ON a.id = m.allocation_id
    JOIN dataset d ON d.id = m.dataset_id
WHERE m.state IN ('PENDING', 'MOUNTED') AND a.state = 'ACTIVE' AND a.user_id <> d.owner_id
    AND NOT (m.read_only AND (d.visibility = 'PUBLIC' OR (d.workspace_id IS NOT NULL
        AND d.workspace_id IN (SELECT workspace_id FROM membership WHERE user_id = a.user_id))))
    AND NOT EXISTS (
        SELECT 1 FROM dataset_grant g
        WHERE g.dataset_id = d.id AND (m.read_only OR g.access = 'WRITE')
            AND (g.user_id = a.user_id OR g.workspace_id IN
                (SELECT workspace_id FROM membership WHERE user_id = a.user_id)))
"""


async def baseless_mounts(tried_before: int | None = None) -> list[tuple[uuid.UUID, uuid.UUID]]:
    """Mounts, with their machines, whose user has no longer the access that they rest on.

    Without those whose host was told to unmount them at `tried_before` (milliseconds) or later.
    """
    rows = await get_connection("default").execute_query_dict(_BASELESS)
    return [
        (_uuid(row["mount_id"]), _uuid(row["machine_id"]))
        for row in rows
        if tried_before is None or (row["unmount_at"] or 0) < tried_before
    ]


def _uuid(value: object) -> uuid.UUID:
    return value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))


def _readable_by(user_id: uuid.UUID) -> Q:
    granted = DatasetGrant.filter(_to(user_id)).values("dataset_id")
    return (
        Q(owner_id=user_id)
        | Q(visibility=DatasetVisibility.PUBLIC)
        | Q(workspace_id__in=Subquery(_workspaces(user_id)))
        | Q(id__in=Subquery(granted))
    )


def _to(user_id: uuid.UUID) -> Q:
    return Q(user_id=user_id) | Q(workspace_id__in=Subquery(_workspaces(user_id)))


def _workspaces(user_id: uuid.UUID):  # type: ignore[no-untyped-def]  # Tortoise's ValuesQuery is generic in what we do not care for
    return Membership.filter(user_id=user_id).values("workspace_id")
