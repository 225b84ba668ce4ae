import strawberry

from remotegpu_graphql.datasets.types import Dataset, Mount
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.operations.types import Operation
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.relay import Edge, made_edge


@strawberry.type(description="Of registerDataset.")
class RegisterDatasetPayload:
    dataset: Dataset | None = strawberry.field(default=None, description="The dataset.")
    dataset_edge: Edge[Dataset] | None = made_edge("The dataset", "datasets")
    user_errors: list[UserError] = user_errors()


@strawberry.type(description="Of updateDataset.")
class UpdateDatasetPayload:
    dataset: Dataset | None = strawberry.field(default=None, description="The dataset.")
    user_errors: list[UserError] = user_errors()


@strawberry.type(description="Of measureDataset.")
class MeasureDatasetPayload:
    dataset: Dataset | None = strawberry.field(default=None, description="The dataset.")
    user_errors: list[UserError] = user_errors()


@strawberry.type(description="Of removeDataset.")
class RemoveDatasetPayload:
    removed_id: strawberry.ID | None = strawberry.field(
        default=None, description="The id of what is no more."
    )
    user_errors: list[UserError] = user_errors()


@strawberry.type(description="Of grantDataset.")
class GrantDatasetPayload:
    dataset: Dataset | None = strawberry.field(default=None, description="The dataset.")
    user_errors: list[UserError] = user_errors()


@strawberry.type(description="Of revokeDatasetGrant.")
class RevokeDatasetGrantPayload:
    dataset: Dataset | None = strawberry.field(default=None, description="The dataset.")
    user_errors: list[UserError] = user_errors()


@strawberry.type(description="Of mountDataset.")
class MountDatasetPayload:
    mount: Mount | None = strawberry.field(default=None, description="The mount.")
    operation: Operation | None = strawberry.field(
        default=None, description="Ends when the host has it."
    )
    user_errors: list[UserError] = user_errors()


@strawberry.type(description="Of unmountDataset.")
class UnmountDatasetPayload:
    mount: Mount | None = strawberry.field(default=None, description="The mount.")
    operation: Operation | None = strawberry.field(
        default=None,
        description="Ends when it is gone; of an allocation that is over, when that is clean.",
    )
    user_errors: list[UserError] = user_errors()
