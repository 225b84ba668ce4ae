"""What was mounted on the strength of an access that is gone is unmounted."""

import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Final, cast

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.models import Allocation, Mount
from remotegpu_core.services import audit
from remotegpu_core.services.datasets.access import access_of, baseless_mounts
from remotegpu_core.services.datasets.ending import LIVE, unmount_now
from remotegpu_core.services.ledger import ledger, ledger_of_all
from remotegpu_core.states import AllocationState, DatasetAccess, MountState

#: Milliseconds after which a host that could not unmount is told again.
RETRY_AFTER: Final = 300_000
#: Mounts ended in one round; the next round takes the rest.
_AT_ONCE: Final = 200

_REVOKED: Final = ("ACCESS_REVOKED", "Its user may no longer use this dataset so.")


@contextlib.asynccontextmanager
async def changing_access(actor: Actor, dataset_id: uuid.UUID) -> AsyncIterator[None]:
    """A transaction that changes who may use a dataset: it takes away what rested on that."""
    known: set[uuid.UUID] = set()
    while True:
        async with ledger_of_all(known):
            mounts = Mount.filter(dataset_id=dataset_id, state__in=list(LIVE))
            machines = set(
                cast("list[uuid.UUID]", await mounts.values_list("machine_id", flat=True))
            )
            if not machines <= known:
                # Their machines are locked first.
                known |= machines
                continue
            yield
            for mount in await mounts:
                await _end_if_baseless(actor, mount)
            return


async def end_baseless() -> int:
    """Unmount what rests on an access that ended elsewhere, as with a membership; return how many.

    What its host could not unmount is tried again after a while.
    """
    ended = 0
    due = await baseless_mounts(tried_before=now_ms() - RETRY_AFTER)
    for mount_id, machine_id in due[:_AT_ONCE]:
        async with ledger(machine_id):
            mount = await Mount.get_or_none(id=mount_id)
            ended += mount is not None and await _end_if_baseless(SYSTEM, mount)
    return ended


async def _end_if_baseless(actor: Actor, mount: Mount) -> bool:
    if mount.state not in {MountState.PENDING, MountState.MOUNTED}:
        return False
    allocation = await Allocation.get(id=mount.allocation_id)
    if allocation.state is not AllocationState.ACTIVE:
        # Its end takes everything away.
        return False
    access = (await access_of(allocation.user_id, [mount.dataset_id])).get(mount.dataset_id)
    if access is DatasetAccess.WRITE or (access is not None and mount.read_only):
        return False
    await unmount_now(mount, allocation, error=_REVOKED)
    await audit.record(
        actor,
        "unmountDataset",
        target=("Mount", mount.id),
        details={"path": mount.path, "reason": "access revoked"},
    )
    return True
