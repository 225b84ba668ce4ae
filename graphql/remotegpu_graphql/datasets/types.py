from typing import TYPE_CHECKING, Annotated

import strawberry

from remotegpu_core import models
from remotegpu_core.services.datasets.access import manages
from remotegpu_graphql.context import Info
from remotegpu_graphql.datasets.enums import (
    DatasetAccess,
    DatasetVisibility,
    MountState,
    SourceKind,
)
from remotegpu_graphql.ids import encode_id
from remotegpu_graphql.machines.types import Machine
from remotegpu_graphql.operations.types import Failure
from remotegpu_graphql.relay import Node
from remotegpu_graphql.scalars import ByteCount, Count, DateTime
from remotegpu_graphql.workspaces.types import Workspace

if TYPE_CHECKING:
    from remotegpu_graphql.allocations.types import Allocation


def _at(value: int | None) -> DateTime | None:
    return None if value is None else DateTime(value)


@strawberry.type(description="Where a dataset lies.")
class DatasetSource:
    row: strawberry.Private[models.Dataset]
    kind: SourceKind = strawberry.field(description="What it is.")

    @strawberry.field(
        description="The place, in the form of the kind; null unless you own the dataset or are an "
        "admin."
    )
    def location(self, info: Info) -> str | None:
        return self.row.location if manages(info.context.actor, self.row) else None

    @strawberry.field(
        description="Of S3 that is not Amazon's: the service's address; null unless you own the "
        "dataset or are an admin."
    )
    def endpoint(self, info: Info) -> str | None:
        return self.row.endpoint if manages(info.context.actor, self.row) else None

    @strawberry.field(
        description="Of a DIRECTORY: the machine that has it, the only one it can be mounted on; "
        "null when you may not see it."
    )
    async def machine(self, info: Info) -> Machine | None:
        if self.row.machine_id is None:
            return None
        row = await info.context.loaders.machine.load(self.row.machine_id)
        return None if row is None else Machine.of(row)


@strawberry.type(description="Lets a user or a workspace mount a dataset.")
class DatasetGrant:
    user_id: strawberry.ID | None = strawberry.field(description="To whom; null for a workspace.")
    username: str | None = strawberry.field(description="Their name.")
    workspace_id: strawberry.ID | None = strawberry.field(
        description="To whose members; null for a user."
    )
    workspace_name: str | None = strawberry.field(description="Its name.")
    access: DatasetAccess = strawberry.field(description="What they may do.")
    created_at: DateTime = strawberry.field(description="When it was first given.")

    @classmethod
    def of(cls, row: models.DatasetGrant) -> "DatasetGrant":
        return cls(
            user_id=encode_id("User", row.user_id) if row.user_id else None,
            username=row.user.username if row.user else None,
            workspace_id=encode_id("Workspace", row.workspace_id) if row.workspace_id else None,
            workspace_name=row.workspace.name if row.workspace else None,
            access=DatasetAccess(row.access),
            created_at=DateTime(row.created_at),
        )


@strawberry.type(
    description="Data that lies somewhere, which those who may can have mounted where they compute."
)
class Dataset(Node):
    row: strawberry.Private[models.Dataset]
    name: str = strawberry.field(description="Unique among its owner's in any case.")
    visibility: DatasetVisibility = strawberry.field(description="Who sees it and may read it.")
    size: ByteCount | None = strawberry.field(
        description="Bytes, when it was last measured; null where that is not known."
    )
    object_count: Count | None = strawberry.field(
        description="Objects, when it was last measured; null where that is not known."
    )
    size_reason: str | None = strawberry.field(
        description="Why the size is not known, for people; null when it is."
    )
    measured_at: DateTime | None = strawberry.field(description="Of when the size is.")
    created_at: DateTime = strawberry.field(description="When it was registered.")

    @strawberry.field(description="Where it lies.")
    def source(self) -> DatasetSource:
        return DatasetSource(row=self.row, kind=SourceKind(self.row.kind))

    @strawberry.field(description="The name of whose it is.")
    async def owner_name(self, info: Info) -> str:
        return await info.context.loaders.username.load(self.row.owner_id) or ""

    @strawberry.field(
        description="Whose members see it; null unless its visibility is WORKSPACE and you may see "
        "that workspace."
    )
    async def workspace(self, info: Info) -> Workspace | None:
        if self.row.workspace_id is None:
            return None
        row = await info.context.loaders.workspace.load(self.row.workspace_id)
        return None if row is None else Workspace.of(row)

    @strawberry.field(
        description="What you may do with it; null when nothing, as for admins to whom it was not "
        "granted."
    )
    async def access(self, info: Info) -> DatasetAccess | None:
        return await info.context.loaders.dataset_access.load(self.row.id)

    @strawberry.field(
        description="To whom it is granted, oldest first; empty unless you own it or are an admin."
    )
    async def grants(self, info: Info) -> list[DatasetGrant]:
        rows = await info.context.loaders.dataset_grants.load(self.row.id)
        return [DatasetGrant.of(row) for row in rows]

    @classmethod
    def of(cls, row: models.Dataset) -> "Dataset":
        return cls(
            id=encode_id("Dataset", row.id),
            row=row,
            name=row.name,
            visibility=DatasetVisibility(row.visibility),
            size=None if row.size is None else ByteCount(row.size),
            object_count=None if row.object_count is None else Count(row.object_count),
            size_reason=row.size_reason,
            measured_at=_at(row.measured_at),
            created_at=DateTime(row.created_at),
        )


@strawberry.type(
    description="A dataset where an allocation's account sees it, on the allocation's machine."
)
class Mount(Node):
    row: strawberry.Private[models.Mount]
    state: MountState = strawberry.field(description="Where it stands.")
    path: str = strawberry.field(description="Where the account sees it.")
    read_only: bool = strawberry.field(description="Whether writing to it is refused.")
    created_at: DateTime = strawberry.field(description="When it was asked for.")
    mounted_at: DateTime | None = strawberry.field(description="When its host had it.")
    ended_at: DateTime | None = strawberry.field(description="When it was over.")
    error: Failure | None = strawberry.field(
        description="Why it failed, why it was taken away, or why its host still has it."
    )

    @strawberry.field(description="The machine; null when you may not see it.")
    async def machine(self, info: Info) -> Machine | None:
        row = await info.context.loaders.machine.load(self.row.machine_id)
        return None if row is None else Machine.of(row)

    @strawberry.field(description="The dataset; null when you may not see it, or no longer.")
    async def dataset(self, info: Info) -> Dataset | None:
        row = await info.context.loaders.dataset.load(self.row.dataset_id)
        return None if row is None else Dataset.of(row)

    @strawberry.field(description="The allocation whose account sees it.")
    async def allocation(
        self, info: Info
    ) -> Annotated["Allocation", strawberry.lazy("remotegpu_graphql.allocations.types")] | None:

        # They mention each other.
        from remotegpu_graphql.allocations.types import Allocation as Shown

        row = await info.context.loaders.allocation.load(self.row.allocation_id)
        return None if row is None else Shown.of(row)

    @classmethod
    def of(cls, row: models.Mount) -> "Mount":
        return cls(
            id=encode_id("Mount", row.id),
            row=row,
            state=MountState(row.state),
            path=row.path,
            read_only=row.read_only,
            created_at=DateTime(row.created_at),
            mounted_at=_at(row.mounted_at),
            ended_at=_at(row.ended_at),
            error=Failure.of(row.error_code, row.error_message),
        )
