from typing import Annotated

import strawberry

from remotegpu_core.services.allocations.release import cancel_operation
from remotegpu_graphql.context import Info
from remotegpu_graphql.errors import UserError
from remotegpu_graphql.fields import mutation
from remotegpu_graphql.ids import decode_id
from remotegpu_graphql.operations.types import Operation
from remotegpu_graphql.payloads import idempotency_key, user_errors


@strawberry.input(description="An operation to call off.")
class CancelOperationInput:
    id: strawberry.ID = strawberry.field(description="The operation.")
    idempotency_key: str | None = idempotency_key()


@strawberry.type(description="Of cancelOperation.")
class CancelOperationPayload:
    operation: Operation | None = strawberry.field(
        default=None,
        description="The operation: CANCELLED, or still under way where its host may have begun.",
    )
    user_errors: list[UserError] = user_errors()


@strawberry.type
class OperationsMutation:
    @mutation(
        "Call off what has not begun; what has begun is stopped where it can be, and ends as its "
        "host says. Cleaning is not called off. Its user may, whoever manages allocations in its "
        "workspace, and admins."
    )
    async def cancel_operation(
        self,
        info: Info,
        input: Annotated[CancelOperationInput, strawberry.argument(description="Which.")],
    ) -> CancelOperationPayload | None:
        row = await cancel_operation(
            info.context.actor,
            decode_id(input.id, "Operation", field="id"),
            key=input.idempotency_key,
        )
        await info.context.nudge()
        return CancelOperationPayload(operation=Operation.of(row))
