"""Registering datasets, changing and removing them."""

import uuid
from dataclasses import dataclass, replace
from typing import Any, Final

from tortoise.exceptions import IntegrityError

from remotegpu_core.actor import Actor, Scope
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import Conflict, InvalidInput, LimitExceeded, NotFound
from remotegpu_core.models import Dataset, Mount, User, Workspace
from remotegpu_core.services import audit, roles
from remotegpu_core.services.access import visible_ids
from remotegpu_core.services.datasets.access import require_managed, visible_dataset
from remotegpu_core.services.datasets.ending import LIVE
from remotegpu_core.services.datasets.revoking import changing_access
from remotegpu_core.services.datasets.sizes import measured
from remotegpu_core.services.datasets.source import Source, checked
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.roles import Right
from remotegpu_core.settings import Settings
from remotegpu_core.states import DatasetVisibility
from remotegpu_core.texts import checked_name, name_key

#: Datasets of one owner.
MAX_DATASETS: Final = 1000
#: Mounts that a refusal names.
_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class NewDataset:
    """`owner_id` is the caller's own when left out; admins register for others."""

    name: str
    source: Source
    visibility: DatasetVisibility = DatasetVisibility.PRIVATE
    workspace_id: uuid.UUID | None = None
    owner_id: uuid.UUID | None = None


@dataclass(frozen=True, slots=True)
class DatasetChange:
    """What is None stays. `workspace_id` goes with the visibility WORKSPACE only."""

    name: str | None = None
    visibility: DatasetVisibility | None = None
    workspace_id: uuid.UUID | None = None


async def register_dataset(actor: Actor, settings: Settings, wanted: NewDataset) -> Dataset:
    """Add a dataset, and measure it where that can be done.

    Raises:
        InvalidInput: the name or the source is outside its grammar, or the visibility and the
            workspace do not go together.
        Forbidden: the caller may name no such source, or their role in the workspace lets them
            share nothing with it.
        NotFound: the machine, the workspace or the owner is not there for the caller.
        Conflict: its owner has a dataset of that name.
        LimitExceeded: its owner has MAX_DATASETS already.
    """
    actor.require_scope(Scope.WRITE)
    wanted = replace(wanted, name=checked_name(wanted.name, "A dataset"))
    owner_id = await _owner(actor, wanted.owner_id)
    source = await checked(actor, settings, wanted.source)
    await _check_sharing(actor, wanted.visibility, wanted.workspace_id)
    try:
        async with ledger():
            if await Dataset.filter(owner_id=owner_id).count() >= MAX_DATASETS:
                raise LimitExceeded(f"There are {MAX_DATASETS} datasets already; remove some.")
            dataset = await Dataset.create(
                owner_id=owner_id,
                name=wanted.name,
                name_key=name_key(wanted.name),
                kind=source.kind,
                location=source.location,
                endpoint=source.endpoint,
                machine_id=source.machine_id,
                visibility=wanted.visibility,
                workspace_id=wanted.workspace_id,
                size_reason="It was not measured yet.",
                created_at=now_ms(),
            )
            await audit.record(
                actor,
                "registerDataset",
                target=("Dataset", dataset.id),
                details={
                    "name": wanted.name,
                    "kind": source.kind,
                    "location": source.location,
                    "visibility": wanted.visibility,
                },
            )
    except IntegrityError:
        raise _taken(wanted.name) from None
    return await measured(settings, dataset)


async def update_dataset(actor: Actor, dataset_id: uuid.UUID, change: DatasetChange) -> Dataset:
    """Rename a dataset, or let others see it.

    Who no longer may read it loses what they have mounted of it. Its owner and admins do that;
    whoever may share with its workspace can make it PRIVATE again.

    Raises:
        NotFound, Forbidden: it is not there for the caller, or not theirs to change.
        InvalidInput, Conflict: as `register_dataset`.
    """
    dataset = await visible_dataset(actor, dataset_id)
    await _require_changeable(actor, dataset, change)
    if change.name is not None:
        change = replace(change, name=checked_name(change.name, "A dataset"))
    visibility = change.visibility or DatasetVisibility(dataset.visibility)
    workspace_id = change.workspace_id
    if visibility is DatasetVisibility.WORKSPACE and workspace_id is None:
        workspace_id = dataset.workspace_id
    shared = (visibility, workspace_id)
    if shared != (dataset.visibility, dataset.workspace_id):
        await _check_sharing(actor, visibility, workspace_id)
    name = change.name or dataset.name
    values: dict[str, Any] = {
        "name": name,
        "name_key": name_key(name),
        "visibility": visibility,
        "workspace_id": workspace_id,
    }
    try:
        async with changing_access(actor, dataset.id):
            if not await Dataset.filter(id=dataset.id).update(**values):
                raise NotFound("There is no such dataset.", field="id")
            await audit.record(
                actor,
                "updateDataset",
                target=("Dataset", dataset.id),
                details={"from": dataset.name, "name": name, "visibility": visibility},
            )
    except IntegrityError:
        raise _taken(name) from None
    return await Dataset.get(id=dataset.id)


async def remove_dataset(actor: Actor, dataset_id: uuid.UUID) -> Dataset:
    """Forget a dataset; what lies there stays. Its owner and admins.

    Raises:
        NotFound, Forbidden: it is not there for the caller, or not theirs.
        Conflict: it is mounted; where, as far as the caller may see.
    """
    dataset = await visible_dataset(actor, dataset_id)
    require_managed(actor, dataset)
    async with ledger():
        mounts = await Mount.filter(dataset_id=dataset.id, state__in=list(LIVE)).select_related(
            "machine"
        )
        if mounts:
            raise Conflict(await _mounted(actor, mounts), field="id")
        await Mount.filter(dataset_id=dataset.id).delete()
        if not await Dataset.filter(id=dataset.id).delete():
            raise NotFound("There is no such dataset.", field="id")
        await audit.record(
            actor,
            "removeDataset",
            target=("Dataset", dataset.id),
            details={"name": dataset.name, "location": dataset.location},
        )
    return dataset


async def _owner(actor: Actor, owner_id: uuid.UUID | None) -> uuid.UUID:
    caller = actor.require_user()
    if owner_id is None or owner_id == caller:
        return caller
    if not actor.is_admin or not await User.exists(id=owner_id):
        raise NotFound("There is no such user.", field="ownerId")
    return owner_id


async def _check_sharing(
    actor: Actor, visibility: DatasetVisibility, workspace_id: uuid.UUID | None
) -> None:
    if (visibility is DatasetVisibility.WORKSPACE) != (workspace_id is not None):
        raise InvalidInput(
            "WORKSPACE is the visibility for members of workspaceId: give both or neither.",
            field="workspaceId",
        )
    if workspace_id is not None:
        await roles.require(actor, workspace_id, Right.SHARE_DATASETS)
        if not await Workspace.exists(id=workspace_id):
            raise NotFound("There is no such workspace.", field="workspaceId")


async def _require_changeable(actor: Actor, dataset: Dataset, change: DatasetChange) -> None:
    withdrawn = change == DatasetChange(visibility=DatasetVisibility.PRIVATE)
    if withdrawn and dataset.workspace_id is not None and not actor.is_admin:
        actor.require_scope(Scope.WRITE)
        if dataset.workspace_id in await roles.workspaces_with(actor, Right.SHARE_DATASETS):
            return
    require_managed(actor, dataset)


async def _mounted(actor: Actor, mounts: list[Mount]) -> str:
    seen = await visible_ids(actor, {mount.machine_id for mount in mounts})
    shown = [
        f"{mount.path} on {mount.machine.name}" for mount in mounts if mount.machine_id in seen
    ]
    named = shown[:_NAMED]
    if len(mounts) > len(named):
        named.append(f"{len(mounts) - len(named)} {'more' if named else 'times'}")
    return f"This dataset is mounted: {', '.join(named)}. Unmount it first."


def _taken(name: str) -> Conflict:
    return Conflict(f"There is a dataset {name!r} of this owner already.", field="name")
