from typing import Annotated

import strawberry

from remotegpu_core.services import quotas
from remotegpu_core.services.quotas import Limits
from remotegpu_graphql.context import Info
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.ids import decode_optional
from remotegpu_graphql.payloads import user_errors
from remotegpu_graphql.permissions import Access
from remotegpu_graphql.quotas.types import Quota


@strawberry.input(
    description="What a user or a workspace may have: give either userId or workspaceId. A limit "
    "that is left out is the setting's for a user, and none for a workspace."
)
class SetQuotaInput:
    user_id: strawberry.ID | None = strawberry.field(default=None, description="A user.")
    workspace_id: strawberry.ID | None = strawberry.field(
        default=None, description="A workspace, that is everybody in it together."
    )
    gpus: int | None = strawberry.field(default=None, description="GPUs at a time.")
    allocations: int | None = strawberry.field(
        default=None, description="Allocations at a time, reservations and waiting ones too."
    )
    gpu_hours: int | None = strawberry.field(
        default=None, description="GPU-hours of allocations that start in one calendar month (UTC)."
    )


@strawberry.type(description="Of setQuota.")
class SetQuotaPayload:
    quota: Quota | None = strawberry.field(default=None, description="The quota from now on.")
    user_errors: list[UserError] = user_errors()


@strawberry.type
class QuotasMutation:
    @mutation(
        "Give a user or a workspace a quota. What they have stays, also beyond it.",
        access=Access.ADMIN,
    )
    async def set_quota(
        self,
        info: Info,
        input: Annotated[SetQuotaInput, strawberry.argument(description="Whose, how much.")],
    ) -> SetQuotaPayload | None:
        context = info.context
        user_id = decode_optional(input.user_id, "User", field="userId")
        workspace_id = decode_optional(input.workspace_id, "Workspace", field="workspaceId")
        await quotas.set_quota(
            context.actor,
            Limits(input.gpus, input.allocations, input.gpu_hours),
            user_id=user_id,
            workspace_id=workspace_id,
        )
        loaders = context.loaders
        found = (
            await loaders.user_quota.load(user_id)
            if user_id is not None
            else await loaders.workspace_quota.load(workspace_id)
            if workspace_id is not None
            else None
        )
        return SetQuotaPayload(quota=None if found is None else Quota.of(found))
