import uuid

import strawberry

from remotegpu_core import models
from remotegpu_core.services.allocations import ssh as access
from remotegpu_core.services.allocations.reason import Reason
from remotegpu_graphql.allocations.enums import (
    AllocationChangeKind,
    AllocationState,
    ReasonCode,
)
from remotegpu_graphql.allocations.receipt import AllocationReceipt
from remotegpu_graphql.allocations.ssh import SshAccess, SshUnavailableReason
from remotegpu_graphql.context import Info
from remotegpu_graphql.datasets.types import Mount
from remotegpu_graphql.ids import encode_id
from remotegpu_graphql.machines.types import Gpu, GpuIsolation, Machine
from remotegpu_graphql.operations.types import Failure
from remotegpu_graphql.relay import Node
from remotegpu_graphql.scalars import DateTime
from remotegpu_graphql.users.types import User
from remotegpu_graphql.workspaces.types import Workspace


@strawberry.type(description="Why an allocation has not started.")
class PendingReason:
    code: ReasonCode = strawberry.field(description="For programs.")
    message: str = strawberry.field(description="For people, with times where they are known.")

    @classmethod
    def of(cls, reason: Reason) -> "PendingReason":
        return cls(code=reason.code, message=reason.message)


def _at(value: int | None) -> DateTime | None:
    return None if value is None else DateTime(value)


@strawberry.type(
    description="Somebody's right to a machine, or to GPUs of it, for a time: from startsAt until "
    "just before endsAt. Nobody else has them in that time."
)
class Allocation(Node):
    row: strawberry.Private[models.Allocation]
    state: AllocationState = strawberry.field(description="Where it stands.")
    starts_at: DateTime = strawberry.field(description="From when.")
    ends_at: DateTime = strawberry.field(description="Until when; extendAllocation moves it.")
    whole_machine: bool = strawberry.field(
        description="Whether it is a whole machine, with GPUs that are found in it later."
    )
    gpu_count: int = strawberry.field(
        description="GPUs that count against quotas: those it has, or asks for while it waits."
    )
    created_at: DateTime = strawberry.field(description="When it was asked for.")
    activated_at: DateTime | None = strawberry.field(description="When its host had it.")
    ended_at: DateTime | None = strawberry.field(
        description="When it was given back, ran out, or failed."
    )
    released_at: DateTime | None = strawberry.field(description="When what it held was free.")
    error: Failure | None = strawberry.field(description="Why it failed.")
    ssh_keys_error: Failure | None = strawberry.field(
        description="Why its account on the host has not its user's SSH keys as they are now: one "
        "that was added may be missing, one that was removed may still let somebody in. Null while "
        "all is well; resetSshKeys tries again."
    )

    @strawberry.field(
        description="The machine; null while it waits for one, and when you may not see it."
    )
    async def machine(self, info: Info) -> Machine | None:
        if self.row.machine_id is None:
            return None
        row = await info.context.loaders.machine.load(self.row.machine_id)
        return None if row is None else Machine.of(row)

    @strawberry.field(description="The GPUs that are booked, by their index.")
    async def gpus(self, info: Info) -> list[Gpu]:
        return [Gpu.of(row) for row in await info.context.loaders.booked_gpus.load(self.row.id)]

    @strawberry.field(
        description="How its GPUs are kept from others on the same host; null for a whole machine, "
        "while it waits for one, and when you may not see it."
    )
    async def gpu_isolation(self, info: Info) -> GpuIsolation | None:
        if self.row.machine_id is None or self.row.whole_machine:
            return None
        row = await info.context.loaders.machine.load(self.row.machine_id)
        return None if row is None else GpuIsolation.of(row.host)

    @strawberry.field(description="Whose it is; null when you may not see them.")
    async def user(self, info: Info) -> User | None:
        row = await info.context.loaders.user.load(self.row.user_id)
        return None if row is None else User.of(row)

    @strawberry.field(description="The name of whose it is.")
    async def username(self, info: Info) -> str:
        return await info.context.loaders.username.load(self.row.user_id) or ""

    @strawberry.field(description="The workspace that it counts for, too; null without one.")
    async def workspace(self, info: Info) -> Workspace | None:
        if self.row.workspace_id is None:
            return None
        row = await info.context.loaders.workspace.load(self.row.workspace_id)
        return None if row is None else Workspace.of(row)

    @strawberry.field(description="Why it has not started; empty unless it is PENDING.")
    async def pending_reasons(self, info: Info) -> list[PendingReason]:
        if self.row.state is not AllocationState.PENDING:
            return []
        found = await info.context.loaders.pending_reasons.load(self.row.id)
        return [PendingReason.of(reason) for reason in found]

    @strawberry.field(
        description="How its user signs in to it by SSH, for them and for admins; null while they "
        "cannot, which sshUnavailableReason explains."
    )
    async def ssh(self, info: Info) -> SshAccess | None:
        found = await info.context.loaders.ssh.load(self.row)
        return SshAccess.of(found) if isinstance(found, access.SshAccess) else None

    @strawberry.field(description="Why ssh is null; null when it is not.")
    async def ssh_unavailable_reason(self, info: Info) -> SshUnavailableReason | None:
        found = await info.context.loaders.ssh.load(self.row)
        return SshUnavailableReason.of(found) if isinstance(found, access.Unavailable) else None

    @strawberry.field(
        description="Datasets that its account sees or saw, newest first, 50 at most; of somebody "
        "else's allocation those that you may see."
    )
    async def mounts(self, info: Info) -> list[Mount]:
        return [Mount.of(row) for row in await info.context.loaders.mounts.load(self.row.id)]

    @strawberry.field(
        description="The proof that nothing of it was left on the host; null until there is one."
    )
    async def cleaning_receipt(self, info: Info) -> AllocationReceipt | None:
        row = await info.context.loaders.receipt.load(self.row.id)
        return None if row is None else AllocationReceipt.of(row)

    @classmethod
    def of(cls, row: models.Allocation) -> "Allocation":
        return cls(
            id=encode_id("Allocation", row.id),
            row=row,
            state=AllocationState(row.state),
            starts_at=DateTime(row.starts_at),
            ends_at=DateTime(row.ends_at),
            whole_machine=row.whole_machine,
            gpu_count=row.gpu_count,
            created_at=DateTime(row.created_at),
            activated_at=_at(row.activated_at),
            ended_at=_at(row.ended_at),
            released_at=_at(row.released_at),
            error=Failure.of(row.error_code, row.error_message),
            ssh_keys_error=Failure.of(row.keys_error_code, row.keys_error_message),
        )


@strawberry.type(description="Something that happened to an allocation.")
class AllocationChange:
    cursor: str = strawberry.field(description="For `after`, to go on from here.")
    kind: AllocationChangeKind = strawberry.field(description="What happened.")
    allocation_id: strawberry.ID | None = strawberry.field(description="To which; null for READY.")
    allocation_row_id: strawberry.Private[uuid.UUID | None]

    @strawberry.field(description="The allocation as it is now; null for READY.")
    async def allocation(self, info: Info) -> Allocation | None:
        if self.allocation_row_id is None:
            return None
        row = await info.context.loaders.allocation.load(self.allocation_row_id)
        return None if row is None else Allocation.of(row)

    @classmethod
    def ready(cls, sequence: int) -> "AllocationChange":
        return cls(
            cursor=str(sequence),
            kind=AllocationChangeKind.READY,
            allocation_id=None,
            allocation_row_id=None,
        )

    @classmethod
    def of(cls, row: models.AllocationEvent) -> "AllocationChange":
        return cls(
            cursor=str(row.sequence),
            kind=AllocationChangeKind(row.kind),
            allocation_id=encode_id("Allocation", row.allocation_id),
            allocation_row_id=row.allocation_id,
        )
