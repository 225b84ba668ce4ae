from typing import Annotated

import strawberry

from remotegpu_core.services.datasets.granting import grant_dataset, revoke_dataset_grant
from remotegpu_core.services.datasets.mounting import mount_dataset, unmount_dataset
from remotegpu_core.services.datasets.reading import DEFAULT_ORDER
from remotegpu_core.services.datasets.registry import (
    register_dataset,
    remove_dataset,
    update_dataset,
)
from remotegpu_core.services.datasets.sizes import measure_dataset
from remotegpu_graphql.context import Info
from remotegpu_graphql.datasets.inputs import (
    GrantDatasetInput,
    MeasureDatasetInput,
    MountDatasetInput,
    RegisterDatasetInput,
    RemoveDatasetInput,
    RevokeDatasetGrantInput,
    UnmountDatasetInput,
    UpdateDatasetInput,
)
from remotegpu_graphql.datasets.payloads import (
    GrantDatasetPayload,
    MeasureDatasetPayload,
    MountDatasetPayload,
    RegisterDatasetPayload,
    RemoveDatasetPayload,
    RevokeDatasetGrantPayload,
    UnmountDatasetPayload,
    UpdateDatasetPayload,
)
from remotegpu_graphql.datasets.types import Dataset, Mount
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.ids import decode_id, decode_optional, encode_id
from remotegpu_graphql.operations.types import Operation
from remotegpu_graphql.relay import edge


@strawberry.type
class DatasetsMutation:
    @mutation(
        "Register a dataset; what is in a bucket is measured, which takes some seconds at most. "
        "Admins name any place, others those that the operator has opened. Sharing it with a "
        "workspace takes ADMIN or OWNER there."
    )
    async def register_dataset(
        self,
        info: Info,
        input: Annotated[RegisterDatasetInput, strawberry.argument(description="What, where.")],
    ) -> RegisterDatasetPayload | None:
        context = info.context
        row = await register_dataset(context.actor, context.plane.settings, input.to_new())
        return RegisterDatasetPayload(
            dataset=Dataset.of(row), dataset_edge=edge(row, DEFAULT_ORDER, Dataset.of)
        )

    @mutation(
        "Rename a dataset, or let others see it. What is mounted by those who may no longer use it "
        "is unmounted. Its owner and admins; whoever may share datasets with its workspace can make "
        "it PRIVATE again."
    )
    async def update_dataset(
        self,
        info: Info,
        input: Annotated[UpdateDatasetInput, strawberry.argument(description="Which, how.")],
    ) -> UpdateDatasetPayload | None:
        row = await update_dataset(
            info.context.actor, decode_id(input.id, "Dataset", field="id"), input.to_change()
        )
        await info.context.nudge()
        return UpdateDatasetPayload(dataset=Dataset.of(row))

    @mutation("Measure a dataset again; its owner and admins.")
    async def measure_dataset(
        self,
        info: Info,
        input: Annotated[MeasureDatasetInput, strawberry.argument(description="Which.")],
    ) -> MeasureDatasetPayload | None:
        context = info.context
        row = await measure_dataset(
            context.actor, context.plane.settings, decode_id(input.id, "Dataset", field="id")
        )
        return MeasureDatasetPayload(dataset=Dataset.of(row))

    @mutation(
        "Forget a dataset that is mounted nowhere; what lies there stays. Its owner and admins."
    )
    async def remove_dataset(
        self,
        info: Info,
        input: Annotated[RemoveDatasetInput, strawberry.argument(description="Which.")],
    ) -> RemoveDatasetPayload | None:
        row = await remove_dataset(info.context.actor, decode_id(input.id, "Dataset", field="id"))
        return RemoveDatasetPayload(removed_id=encode_id("Dataset", row.id))

    @mutation(
        "Let a user or a workspace mount a dataset; its owner and admins. Again to change what they "
        "may do: what is mounted beyond that is unmounted."
    )
    async def grant_dataset(
        self,
        info: Info,
        input: Annotated[GrantDatasetInput, strawberry.argument(description="Which, to whom.")],
    ) -> GrantDatasetPayload | None:
        row = await grant_dataset(
            info.context.actor,
            decode_id(input.dataset_id, "Dataset", field="datasetId"),
            input.access,
            user_id=decode_optional(input.user_id, "User", field="userId"),
            username=input.username,
            workspace_id=decode_optional(input.workspace_id, "Workspace", field="workspaceId"),
        )
        await info.context.nudge()
        return GrantDatasetPayload(dataset=Dataset.of(row))

    @mutation(
        "Take a grant back; its owner and admins. What is mounted on the strength of it is unmounted, "
        "whoever uses it."
    )
    async def revoke_dataset_grant(
        self,
        info: Info,
        input: Annotated[RevokeDatasetGrantInput, strawberry.argument(description="Which, whose.")],
    ) -> RevokeDatasetGrantPayload | None:
        row = await revoke_dataset_grant(
            info.context.actor,
            decode_id(input.dataset_id, "Dataset", field="datasetId"),
            user_id=decode_optional(input.user_id, "User", field="userId"),
            username=input.username,
            workspace_id=decode_optional(input.workspace_id, "Workspace", field="workspaceId"),
        )
        await info.context.nudge()
        return RevokeDatasetGrantPayload(dataset=Dataset.of(row))

    @mutation(
        "Have an allocation's host show its account a dataset. The allocation's user must have "
        "access to it, whoever asks: they themself, whoever manages allocations in its workspace, "
        "or an admin. It is unmounted with the allocation's end at the latest."
    )
    async def mount_dataset(
        self,
        info: Info,
        input: Annotated[MountDatasetInput, strawberry.argument(description="What, where.")],
    ) -> MountDatasetPayload | None:
        mount, operation = await mount_dataset(
            info.context.actor, input.to_request(), key=input.idempotency_key
        )
        await info.context.nudge()
        return MountDatasetPayload(mount=Mount.of(mount), operation=Operation.of(operation))

    @mutation(
        "Have a mount taken away, whoever uses it. Its allocation's user may, whoever manages "
        "allocations in its workspace, and admins."
    )
    async def unmount_dataset(
        self,
        info: Info,
        input: Annotated[UnmountDatasetInput, strawberry.argument(description="Which.")],
    ) -> UnmountDatasetPayload | None:
        mount, operation = await unmount_dataset(
            info.context.actor,
            decode_id(input.id, "Mount", field="id"),
            key=input.idempotency_key,
        )
        await info.context.nudge()
        return UnmountDatasetPayload(mount=Mount.of(mount), operation=Operation.of(operation))
