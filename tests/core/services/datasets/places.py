"""Datasets, and hosts on which they can be mounted."""

import itertools
from collections.abc import Sequence
from typing import Any

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.models import Allocation, Dataset, Mount, Operation, Workspace, WorkspaceRole
from remotegpu_core.services.datasets.mounting import MountRequest, mount_dataset
from remotegpu_core.services.datasets.registry import NewDataset, register_dataset
from remotegpu_core.services.datasets.source import Source
from remotegpu_core.services.workspaces import create_workspace, set_member
from remotegpu_core.settings import Settings
from remotegpu_core.states import MountState
from remotegpu_protocol.datasets import SourceKind
from remotegpu_protocol.inventory import Policy
from tests.core.people import make_admin
from tests.core.services.allocations.hosts import Host, answer, make_host, waiting

KINDS = ["allocation.start", "allocation.update", "allocation.end", "account.keys"]
MOUNTING = Policy(commands=[*KINDS, "dataset.mount", "dataset.unmount"], simulated=True)

NAS = Source(SourceKind.NFS, "nas.example.org:/export/imagenet")

_numbers = itertools.count(1)


async def mounting_host(name: str, *, grant: Sequence[Actor] = (), gpus: int = 2) -> Host:
    return await make_host(name, gpus, policy=MOUNTING, grant=grant)


async def make_dataset(
    settings: Settings, owner: Actor, *, source: Source = NAS, **values: Any
) -> Dataset:
    """Registered by an admin for `owner`; PRIVATE unless it says otherwise."""
    name = values.pop("name", f"data {next(_numbers)}")
    wanted = NewDataset(name, source, owner_id=owner.user_id, **values)
    return await register_dataset(await make_admin(), settings, wanted)


async def make_lab(*members: Actor, **roles: Actor) -> Workspace:
    """A workspace with `members`; by keyword somebody with that role."""
    lab = await create_workspace(SYSTEM, f"lab {next(_numbers)}")
    for member in members:
        await set_member(SYSTEM, lab.id, member.user_id, WorkspaceRole.MEMBER)
    for role, member in roles.items():
        await set_member(SYSTEM, lab.id, member.user_id, WorkspaceRole(role.upper()))
    return lab


async def mount(
    actor: Actor,
    dataset: Dataset,
    allocation: Allocation,
    path: str = "/data/imagenet",
    *,
    read_only: bool = True,
    key: str | None = None,
) -> tuple[Mount, Operation]:
    request = MountRequest(dataset.id, allocation.id, path, read_only)
    return await mount_dataset(actor, request, key=key)


async def mounted(
    actor: Actor, dataset: Dataset, allocation: Allocation, path: str, **values: Any
) -> Mount:
    """Mounted, and its host has said so."""
    made, _ = await mount(actor, dataset, allocation, path, **values)
    (command,) = await waiting(allocation, "dataset.mount")
    await answer(command)
    made = await Mount.get(id=made.id)
    assert made.state is MountState.MOUNTED
    return made
