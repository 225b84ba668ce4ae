"""Grants on datasets: who else may read or write them."""

import uuid
from typing import Any, Final

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import InvalidInput, LimitExceeded, NotFound
from remotegpu_core.models import Dataset, DatasetGrant, User
from remotegpu_core.services import audit
from remotegpu_core.services.datasets.access import require_managed, visible_dataset
from remotegpu_core.services.datasets.revoking import changing_access
from remotegpu_core.services.workspaces import visible_workspaces
from remotegpu_core.states import DatasetAccess
from remotegpu_core.texts import name_key, storable

#: Grants on one dataset.
MAX_GRANTS: Final = 200


async def grant_dataset(
    actor: Actor,
    dataset_id: uuid.UUID,
    access: DatasetAccess,
    *,
    user_id: uuid.UUID | None = None,
    username: str | None = None,
    workspace_id: uuid.UUID | None = None,
) -> Dataset:
    """Let a user or a workspace mount a dataset, as its owner or an admin.

    Again with another access replaces the grant: who had WRITE and gets READ loses what they have
    mounted to write.

    Raises:
        InvalidInput: not exactly one of user and workspace.
        NotFound: the dataset, user or workspace is not there for the caller.
        Forbidden: the dataset is somebody else's.
        LimitExceeded: it has MAX_GRANTS already.
    """
    dataset, subject = await _check(actor, dataset_id, user_id, username, workspace_id)
    async with changing_access(actor, dataset.id):
        known = await DatasetGrant.get_or_none(dataset_id=dataset.id, **subject)
        changed = known is None or known.access is not access
        if known is not None:
            await DatasetGrant.filter(id=known.id).update(access=access)
        elif await DatasetGrant.filter(dataset_id=dataset.id).count() >= MAX_GRANTS:
            raise LimitExceeded(
                f"This dataset has {MAX_GRANTS} grants already: revoke some, or grant it to a "
                "workspace."
            )
        else:
            await DatasetGrant.create(
                dataset_id=dataset.id, access=access, created_at=now_ms(), **subject
            )
        await _record(actor, "grantDataset", dataset, subject, access=access, changed=changed)
    return dataset


async def revoke_dataset_grant(
    actor: Actor,
    dataset_id: uuid.UUID,
    *,
    user_id: uuid.UUID | None = None,
    username: str | None = None,
    workspace_id: uuid.UUID | None = None,
) -> Dataset:
    """Take a grant back; what is mounted and rested on it is unmounted.

    Raises like `grant_dataset`; NotFound without such a grant.
    """
    dataset, subject = await _check(actor, dataset_id, user_id, username, workspace_id)
    async with changing_access(actor, dataset.id):
        if not await DatasetGrant.filter(dataset_id=dataset.id, **subject).delete():
            raise NotFound(
                "There is no such grant on this dataset.",
                field=_field(user_id, username),
            )
        await _record(actor, "revokeDatasetGrant", dataset, subject, changed=True)
    return dataset


async def _check(
    actor: Actor,
    dataset_id: uuid.UUID,
    user_id: uuid.UUID | None,
    username: str | None,
    workspace_id: uuid.UUID | None,
) -> tuple[Dataset, dict[str, Any]]:
    if [user_id, username, workspace_id].count(None) != 2:
        raise InvalidInput("Give one of userId, username and workspaceId.", field="userId")
    dataset = await visible_dataset(actor, dataset_id, field="datasetId")
    require_managed(actor, dataset, field="datasetId")
    if workspace_id is not None:
        # An owner shares with the workspaces that they are in.
        if not await visible_workspaces(actor, [workspace_id]):
            raise NotFound("There is no such workspace.", field="workspaceId")
        return dataset, {"workspace_id": workspace_id}
    user = None
    if user_id is not None:
        user = await User.get_or_none(id=user_id)
    elif username is not None and storable(key := name_key(username), 64):
        user = await User.get_or_none(username_key=key)
    if user is None:
        raise NotFound("There is no such user.", field=_field(user_id, username))
    return dataset, {"user_id": user.id}


def _field(user_id: uuid.UUID | None, username: str | None) -> str:
    if user_id is not None:
        return "userId"
    return "username" if username is not None else "workspaceId"


async def _record(
    actor: Actor,
    action: str,
    dataset: Dataset,
    subject: dict[str, Any],
    *,
    changed: bool,
    access: DatasetAccess | None = None,
) -> None:
    details = {
        "name": dataset.name,
        **{key: str(value) for key, value in subject.items()},
        "changed": audit.yes_or_no(changed),
    }
    if access is not None:
        details["access"] = access
    await audit.record(actor, action, target=("Dataset", dataset.id), details=details)
