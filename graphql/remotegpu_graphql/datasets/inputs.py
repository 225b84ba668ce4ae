import strawberry

from remotegpu_core.services.datasets.mounting import MountRequest
from remotegpu_core.services.datasets.reading import DatasetFilter
from remotegpu_core.services.datasets.registry import DatasetChange, NewDataset
from remotegpu_core.services.datasets.source import Source
from remotegpu_graphql.bounds import characters, choices
from remotegpu_graphql.datasets.enums import (
    DatasetAccess,
    DatasetOrderField,
    DatasetVisibility,
    SourceKind,
)
from remotegpu_graphql.ids import decode_filter, decode_id, decode_optional
from remotegpu_graphql.machines.enums import OrderDirection
from remotegpu_graphql.payloads import idempotency_key


@strawberry.input(description="Where a dataset lies.")
class DatasetSourceInput:
    kind: SourceKind = strawberry.field(description="What it is.")
    location: str = strawberry.field(
        description="In the form of its kind, and no key in it.", metadata=characters(1, 1024)
    )
    endpoint: str | None = strawberry.field(
        default=None,
        description="Of S3: the service's address, https://s3.example.org:9000; Amazon's when left "
        "out.",
        metadata=characters(1, 1024),
    )
    machine_id: strawberry.ID | None = strawberry.field(
        default=None, description="Of a DIRECTORY: the machine that has it."
    )

    def to_source(self) -> Source:
        return Source(
            kind=self.kind,
            location=self.location,
            endpoint=self.endpoint,
            machine_id=decode_optional(self.machine_id, "Machine", field=("source", "machineId")),
        )


@strawberry.input(description="A new dataset.")
class RegisterDatasetInput:
    name: str = strawberry.field(
        description="Printable; unique among its owner's in any case.", metadata=characters(1, 64)
    )
    source: DatasetSourceInput = strawberry.field(description="Where it lies; that stays.")
    visibility: DatasetVisibility = strawberry.field(
        default=DatasetVisibility.PRIVATE, description="Who sees it and may read it."
    )
    workspace_id: strawberry.ID | None = strawberry.field(
        default=None, description="With WORKSPACE: whose members. It takes a role there."
    )
    owner_id: strawberry.ID | None = strawberry.field(
        default=None, description="Whose it becomes: yours when left out. Admins give to anybody."
    )

    def to_new(self) -> NewDataset:
        return NewDataset(
            name=self.name,
            source=self.source.to_source(),
            visibility=self.visibility,
            workspace_id=decode_optional(self.workspace_id, "Workspace", field="workspaceId"),
            owner_id=decode_optional(self.owner_id, "User", field="ownerId"),
        )


@strawberry.input(description="What is to change of a dataset; what is left out stays.")
class UpdateDatasetInput:
    id: strawberry.ID = strawberry.field(description="The dataset.")
    name: str | None = strawberry.field(
        default=None,
        description="Printable; unique among its owner's.",
        metadata=characters(1, 64),
    )
    visibility: DatasetVisibility | None = strawberry.field(
        default=None, description="Who sees it and may read it."
    )
    workspace_id: strawberry.ID | None = strawberry.field(
        default=None, description="With WORKSPACE: whose members; as it is when left out."
    )

    def to_change(self) -> DatasetChange:
        return DatasetChange(
            name=self.name,
            visibility=self.visibility,
            workspace_id=decode_optional(self.workspace_id, "Workspace", field="workspaceId"),
        )


@strawberry.input(description="A dataset to look at again.")
class MeasureDatasetInput:
    id: strawberry.ID = strawberry.field(description="The dataset.")


@strawberry.input(description="A dataset to forget.")
class RemoveDatasetInput:
    id: strawberry.ID = strawberry.field(description="The dataset.")


@strawberry.input(description="A grant on a dataset: to a user, by id or name, or to a workspace.")
class GrantDatasetInput:
    dataset_id: strawberry.ID = strawberry.field(description="The dataset.")
    user_id: strawberry.ID | None = strawberry.field(default=None, description="To this user.")
    username: str | None = strawberry.field(
        default=None,
        description="To the user of this name, in any case.",
        metadata=characters(1, 64),
    )
    workspace_id: strawberry.ID | None = strawberry.field(
        default=None, description="To everybody in this workspace, which you are in."
    )
    access: DatasetAccess = strawberry.field(
        default=DatasetAccess.READ, description="What they may do; replaces what they might."
    )


@strawberry.input(description="A grant on a dataset to take back.")
class RevokeDatasetGrantInput:
    dataset_id: strawberry.ID = strawberry.field(description="The dataset.")
    user_id: strawberry.ID | None = strawberry.field(default=None, description="Of this user.")
    username: str | None = strawberry.field(
        default=None,
        description="Of the user of this name, in any case.",
        metadata=characters(1, 64),
    )
    workspace_id: strawberry.ID | None = strawberry.field(
        default=None, description="Of this workspace."
    )


@strawberry.input(description="A dataset to mount, where, and how.")
class MountDatasetInput:
    dataset_id: strawberry.ID = strawberry.field(description="The dataset.")
    allocation_id: strawberry.ID = strawberry.field(
        description="Whose account sees it, on its machine; it is ACTIVE."
    )
    path: str = strawberry.field(
        description="Below /data, /datasets or /mnt, at most 8 names deep, each of letters, digits "
        "and ._+@- and beginning with a letter, a digit or _.",
        metadata=characters(1, 1024),
    )
    read_only: bool = strawberry.field(
        default=True, description="False lets the account write, and takes WRITE on the dataset."
    )
    idempotency_key: str | None = idempotency_key()

    def to_request(self) -> MountRequest:
        return MountRequest(
            dataset_id=decode_id(self.dataset_id, "Dataset", field="datasetId"),
            allocation_id=decode_id(self.allocation_id, "Allocation", field="allocationId"),
            path=self.path,
            read_only=self.read_only,
        )


@strawberry.input(description="A mount to end.")
class UnmountDatasetInput:
    id: strawberry.ID = strawberry.field(description="The mount.")
    idempotency_key: str | None = idempotency_key()


@strawberry.input(
    name="DatasetFilter",
    description="Everything given must hold; of a list, any of its values.",
)
class DatasetFilterInput:
    visibility: list[DatasetVisibility] | None = strawberry.field(
        default=None, description="Any of these.", metadata=choices(DatasetVisibility)
    )
    kind: list[SourceKind] | None = strawberry.field(
        default=None, description="Any of these.", metadata=choices(SourceKind)
    )
    workspace_id: strawberry.ID | None = strawberry.field(
        default=None, description="Shared with this workspace."
    )
    text: str | None = strawberry.field(
        default=None, description="Part of the name, in any case.", metadata=characters(0, 64)
    )
    mine: bool | None = strawberry.field(
        default=None, description="True: only your own. False is as if left out."
    )

    def to_filter(self) -> DatasetFilter:
        return DatasetFilter(
            visibility=self.visibility,
            kind=self.kind,
            workspace_id=decode_filter(self.workspace_id, "Workspace"),
            text=self.text,
            mine=self.mine,
        )


@strawberry.input(description="How datasets are ordered.")
class DatasetOrder:
    field: DatasetOrderField = strawberry.field(description="By what.")
    direction: OrderDirection = strawberry.field(
        default=OrderDirection.ASC, description="Which way."
    )
