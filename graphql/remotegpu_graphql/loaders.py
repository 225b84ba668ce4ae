"""Batched lookups: one service call per relation and level.

They do not cache: a context lives as long as a websocket, and the next event must see anew.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from strawberry.dataloader import DataLoader

from remotegpu_core.actor import Actor
from remotegpu_core.bus.bus import Live
from remotegpu_core.models import (
    Allocation,
    ApiToken,
    AuditEvent,
    CleaningReceipt,
    Dataset,
    DatasetGrant,
    Enrollment,
    Gpu,
    Machine,
    MachineAddress,
    MachineLabel,
    Membership,
    Mount,
    Operation,
    OperationStep,
    QuarantineCause,
    SshKey,
    User,
    Workspace,
)
from remotegpu_core.services import (
    access,
    api_tokens,
    audit,
    availability,
    enrollments,
    gpu_memory,
    machines,
    operations,
    quarantine,
    quotas,
    ssh_keys,
    users,
    workspaces,
)
from remotegpu_core.services.addresses.reading import addresses_of, machines_that_hold
from remotegpu_core.services.allocations import reading
from remotegpu_core.services.allocations.reason import Reason
from remotegpu_core.services.allocations.reasons import reasons_of
from remotegpu_core.services.allocations.ssh import SshAccess, Unavailable, ssh_of
from remotegpu_core.services.datasets import reading as datasets
from remotegpu_core.services.quotas import Limits, Usage
from remotegpu_core.states import DatasetAccess

if TYPE_CHECKING:
    from remotegpu_graphql.context import Context

Value = TypeVar("Value")


class Loaders:
    """Each answers for what the context's viewer may see and gives None, or nothing, for the rest."""

    def __init__(self, context: "Context") -> None:
        self.machine: DataLoader[uuid.UUID, Machine | None] = _one(
            lambda ids: machines.machines_by_id(context.actor, ids)
        )
        self.gpu: DataLoader[uuid.UUID, Gpu | None] = _one(
            lambda ids: access.visible_gpus(context.actor, ids)
        )
        self.allocation: DataLoader[uuid.UUID, Allocation | None] = _one(
            lambda ids: reading.allocations_by_id(context.actor, ids)
        )
        self.operation: DataLoader[uuid.UUID, Operation | None] = _one(
            lambda ids: operations.operations_by_id(context.actor, ids)
        )
        self.user: DataLoader[uuid.UUID, User | None] = _one(
            lambda ids: users.visible_users(context.actor, ids)
        )
        self.api_token: DataLoader[uuid.UUID, ApiToken | None] = _one(
            lambda ids: api_tokens.visible_api_tokens(context.actor, ids)
        )
        self.ssh_key: DataLoader[uuid.UUID, SshKey | None] = _one(
            lambda ids: ssh_keys.visible_ssh_keys(context.actor, ids)
        )
        self.enrollment: DataLoader[uuid.UUID, Enrollment | None] = _one(
            lambda ids: enrollments.visible_enrollments(context.actor, ids)
        )
        self.audit_event: DataLoader[uuid.UUID, AuditEvent | None] = _one(
            lambda ids: audit.visible_events(context.actor, ids)
        )
        self.workspace: DataLoader[uuid.UUID, Workspace | None] = _one(
            lambda ids: workspaces.visible_workspaces(context.actor, ids)
        )
        self.dataset: DataLoader[uuid.UUID, Dataset | None] = _one(
            lambda ids: datasets.datasets_by_id(context.actor, ids)
        )
        self.dataset_access: DataLoader[uuid.UUID, DatasetAccess | None] = _one(
            lambda ids: datasets.own_access(context.actor, ids)
        )
        self.dataset_grants: DataLoader[uuid.UUID, list[DatasetGrant]] = _every(
            lambda ids: datasets.grants_of(context.actor, ids)
        )
        self.mount: DataLoader[uuid.UUID, Mount | None] = _one(
            lambda ids: datasets.mounts_by_id(context.actor, ids)
        )
        self.mounts: DataLoader[uuid.UUID, list[Mount]] = _every(
            lambda ids: datasets.mounts_of(context.actor, ids)
        )
        self.receipt_by_id: DataLoader[uuid.UUID, CleaningReceipt | None] = _one(
            lambda ids: reading.receipts_by_id(context.actor, ids)
        )
        self.allocation_of_gpu: DataLoader[uuid.UUID, Allocation | None] = _one(
            lambda ids: reading.allocations_of_gpus(context.actor, ids)
        )
        self.accounts: DataLoader[uuid.UUID, gpu_memory.Accounts | None] = _one(
            lambda ids: gpu_memory.accounts_on(context.actor, ids)
        )
        # By something that the viewer got from one of the above.
        self.booked_gpus: DataLoader[uuid.UUID, list[Gpu]] = _every(reading.gpus_of_allocations)
        self.receipt: DataLoader[uuid.UUID, CleaningReceipt | None] = _one(reading.receipts_of)
        self.pending_reasons: DataLoader[uuid.UUID, list[Reason]] = _every(reasons_of)
        self.ssh: DataLoader[Allocation, SshAccess | Unavailable] = DataLoader(
            load_fn=lambda rows: _ssh(context.actor, rows), cache=False
        )
        self.username: DataLoader[uuid.UUID, str | None] = _one(reading.usernames)
        self.steps: DataLoader[uuid.UUID, list[OperationStep]] = _every(operations.steps_of)
        self.user_quota: DataLoader[uuid.UUID, tuple[Limits, Usage] | None] = _one(
            lambda ids: quotas.of_users(ids, context.plane.settings)
        )
        self.workspace_quota: DataLoader[uuid.UUID, tuple[Limits, Usage] | None] = _one(
            quotas.of_workspaces
        )
        self.gpus: DataLoader[uuid.UUID, list[Gpu]] = _every(machines.gpus_of)
        self.labels: DataLoader[uuid.UUID, list[MachineLabel]] = _every(machines.labels_of)
        self.addresses: DataLoader[uuid.UUID, list[MachineAddress]] = _every(addresses_of)
        self.address_holder: DataLoader[uuid.UUID, Machine | None] = _one(
            lambda ids: machines_that_hold(context.actor, ids)
        )
        self.quarantine_causes: DataLoader[uuid.UUID, list[QuarantineCause]] = _every(
            quarantine.causes_of
        )
        self.members: DataLoader[uuid.UUID, list[Membership]] = _every(workspaces.members_of)
        self.claims: DataLoader[uuid.UUID, availability.Claims | None] = _one(
            availability.claims_of
        )
        self.live: DataLoader[uuid.UUID, Live | None] = _one(
            lambda ids: context.plane.bus.live(ids)
        )


async def _ssh(actor: Actor, rows: list[Allocation]) -> list[SshAccess | Unavailable]:
    found = await ssh_of(actor, rows)
    return [found[row.id] for row in rows]


def _one(
    fetch: Callable[[list[uuid.UUID]], Awaitable[Mapping[uuid.UUID, Value]]],
) -> DataLoader[uuid.UUID, Value | None]:
    async def load(ids: list[uuid.UUID]) -> list[Value | None]:
        found = await fetch(list(dict.fromkeys(ids)))
        return [found.get(row_id) for row_id in ids]

    return DataLoader(load_fn=load, cache=False)


def _every(
    fetch: Callable[[list[uuid.UUID]], Awaitable[Mapping[uuid.UUID, list[Value]]]],
) -> DataLoader[uuid.UUID, list[Value]]:
    async def load(ids: list[uuid.UUID]) -> list[list[Value]]:
        found = await fetch(list(dict.fromkeys(ids)))
        return [found.get(row_id, []) for row_id in ids]

    return DataLoader(load_fn=load, cache=False)
